"""The releases of a host: unpacked from a wheel, checked against their own hashes, listed, flipped to, pruned."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from llmctl.domain import build
from llmctl.errors import DeployFailed, UsageError
from llmctl.files import read_json, sync, write_json
from llmctl.paths import check_name

KEEP = 5
STAGING = ".staging-"
ENGINE_CODE = (
    "llmctl/engines/", "llmctl/decoding/", "llmctl/techniques/", "llmctl/backends/", "llmctl/runner/worker.py",
    "llmctl/runner/frames.py", "llmctl/domain.py", "llmctl/errors.py",
)  # fmt: skip
"""What an engine process runs of llmctl: when none of it changed, a new release leaves the engine alone."""


@dataclass(frozen=True)
class Release:
    """One release: `engine_code` is a hash of what engine processes run of it, `made` epoch seconds."""

    id: str
    version: str
    sha256: str
    engine_code: str
    made: float = 0.0


def folder(home: Path, release: str) -> Path:
    """Where a release lies, there or not."""
    return home / "releases" / check_name(release, "release")


def read(home: Path, release: str) -> Release | None:
    """A release that is complete as far as its last file tells, else None."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return build(Release, json.loads((folder(home, release) / "release.json").read_text(encoding="utf-8")))
    return None


def listed(home: Path) -> list[Release]:
    """The complete releases, in the order in which they were deployed last; the newest last."""
    order: list[str] = read_json(_order(home)) or []
    present = [path.name for path in (home / "releases").glob("*") if (path / "release.json").is_file()]
    ids = sorted(present, key=lambda name: (order.index(name) if name in order else -1, name))
    return [found for name in ids if (found := read(home, name))]


def current(home: Path) -> str | None:
    """The id that `current` points to, whether that release is there or not; None without one."""
    try:
        return Path(os.readlink(home / "current")).name
    except OSError:
        return None


def previous(home: Path) -> str | None:
    """The release that was deployed before the current one and is still there."""
    ids, now = [release.id for release in listed(home)], current(home)
    before = ids[: ids.index(now)] if now in ids else ids
    return before[-1] if before else None


def damage(home: Path, release: str) -> list[str]:
    """Its files that are missing or not as the wheel had them; ["release.json"] when it never was whole."""
    if read(home, release) is None:
        return ["release.json"]
    lib = folder(home, release) / "lib"
    records = list(lib.glob("*.dist-info/RECORD"))
    if len(records) != 1:
        return ["RECORD"]
    return [name for name, digest in _recorded(records[0]) if digest and _digest(lib / name) != digest]


def unpack(home: Path, wheel: Path, release: str, version: str, sha256: str) -> Release:
    """The release `release` out of `wheel`, whole or not at all; one of that name that is damaged is replaced."""
    if _sha256(wheel) != sha256:
        raise DeployFailed(f"{wheel.name} was damaged on its way", hint="run the deploy again")
    staging, target = home / "releases" / f"{STAGING}{release}", folder(home, release)
    shutil.rmtree(staging, ignore_errors=True)
    lib = staging / "lib"
    lib.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(lib)
    record = next(lib.glob("*.dist-info/RECORD"))
    made = Release(release, version, sha256, _engine_code(record), time.time())
    (staging / "release.json").write_text(json.dumps(asdict(made), indent=1), encoding="utf-8")
    if target.exists():
        torn = home / "releases" / f"{STAGING}torn-{release}"
        shutil.rmtree(torn, ignore_errors=True)
        os.replace(target, torn)
    os.replace(staging, target)
    shutil.rmtree(home / "releases" / f"{STAGING}torn-{release}", ignore_errors=True)
    return made


def flip(home: Path, release: str | None) -> None:
    """Point `current` at a release (None: at nothing) in one step; all that was written before is on the disk then."""
    link = home / "current"
    if release is None:
        link.unlink(missing_ok=True)
        return
    os.sync()
    temp = home / ".current.tmp"
    temp.unlink(missing_ok=True)
    os.symlink(os.path.join("releases", check_name(release, "release")), temp)
    os.replace(temp, link)
    sync(home)


def note_order(home: Path, release: str) -> None:
    """`release` is the one that was deployed last."""
    order: list[str] = read_json(_order(home)) or []
    write_json(_order(home), [name for name in order if name != release] + [release])


def prune(home: Path, used: Collection[str]) -> list[str]:
    """Remove all releases but the five that were deployed last, those in `used` and the current one; their ids."""
    ids = [release.id for release in listed(home)]
    keep = {*ids[-KEEP:], *used, current(home)}
    gone = []
    for path in sorted((home / "releases").glob("*")):
        if path.is_dir() and path.name not in keep:
            _remove(path)
            gone.append(path.name)
    return [name for name in gone if not name.startswith(STAGING)]


def find(home: Path, wanted: str | None) -> Release:
    """The release to go back to: an id, a version (the newest of it), or None for the previous one. UsageError."""
    known = listed(home)
    names = ", ".join(release.id for release in known) or "none"
    if wanted is None:
        before = previous(home)
        if before is None:
            raise UsageError("there is no release before this one", hint=f"releases here: {names}")
        return next(release for release in known if release.id == before)
    fits = [release for release in known if wanted in (release.id, release.version)]
    if not fits:
        raise UsageError(f"no release {wanted[:140]!r} here", hint=f"releases here: {names}")
    return fits[-1]


def _remove(path: Path) -> None:
    """Rename first: a release that is half removed must not look whole."""
    gone = path if path.name.startswith(STAGING) else path.with_name(f"{STAGING}gone-{path.name}")
    if gone != path:
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(path, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _recorded(record: Path) -> Iterator[tuple[str, str]]:
    """(path, digest) of each file of a wheel; its own RECORD has no digest."""
    with open(record, newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            yield row[0], row[1] if len(row) > 1 else ""


def _engine_code(record: Path) -> str:
    lines = sorted(f"{name} {digest}" for name, digest in _recorded(record) if name.startswith(ENGINE_CODE))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _digest(path: Path) -> str | None:
    """As RECORD writes it; None when the file cannot be read."""
    try:
        digest = hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None
    return "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _order(home: Path) -> Path:
    return home / "releases" / "order.json"
