"""The wheels that a host's environments are made of: fetched once, for its Python and platform, and kept by hash."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from llmctl.environments import Wanted
from llmctl.environments.locks import entries
from llmctl.environments.platforms import Python, described, markers, platforms, ranks
from llmctl.errors import DeployFailed, LlmctlError, NoSpace, Refused
from llmctl.files import blocks
from llmctl.fleet.facts import Facts

NO_ROUTE = (
    "connection",
    "name resolution",
    "timed out",
    "proxyerror",
    "sslerror",
    "could not fetch url",
    "not a trusted",
)
LOG_LINES = 20


@dataclass(frozen=True)
class Need:
    """One package of a lock: its name as standards write it, its version, and the hashes of its files."""

    name: str
    version: str
    hashes: frozenset[str]

    @property
    def pin(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def line(self) -> str:
        """The requirement for pip, without its marker: that is settled."""
        return f"{self.pin} {' '.join(f'--hash=sha256:{hash}' for hash in sorted(self.hashes))}\n"


def collect(wanted: Sequence[Wanted], python: Python, facts: Facts, cache: Path) -> list[Path]:
    """The wheels for these environments on the host, in the folder `cache`; what is missing there is fetched by pip.

    Refused where a package has no wheel for the host; DeployFailed when the index cannot be asked.
    """
    needed = needs(wanted, python, facts)
    found = pick(needed, python, facts, cache)
    missing = [need for need in needed if need not in found]
    if missing:
        indexes = {line for each in wanted for line in each.requirements.splitlines() if line.startswith("--extra-")}
        _fetch(missing, sorted(indexes), python, facts, cache)
        found = pick(needed, python, facts, cache)
        if left := [need.pin for need in missing if need not in found]:
            raise DeployFailed(f"pip fetched other files than those for {', '.join(left)}")
    return sorted(set(found.values()))


def carried(wanted: Sequence[Wanted], python: Python, facts: Facts, folder: Path) -> list[Path]:
    """The wheels for these environments out of a folder that was brought along; nothing is fetched.

    Refused with every package that it has not, or has for other machines only.
    """
    needed = needs(wanted, python, facts)
    found = pick(needed, python, facts, folder)
    if missing := [need for need in needed if need not in found]:
        others = {(name, version): path for name, version, _, path in wheels(folder)}
        lines = [
            f"{need.pin}: only {others[need.name, need.version].name}" if (need.name, need.version) in others
            else f"{need.pin}: not there" for need in missing
        ]  # fmt: skip
        raise Refused(
            f"{folder} lacks {len(missing)} of {len(needed)} packages for {described(facts, python)}: {lines[0]}",
            hint=f"on a machine with a route to the index: llmctl wheelhouse {folder}",
            details={"log": lines},
        )
    return sorted(set(found.values()))


def fill(folder: Path, found: Iterable[Path]) -> list[Path]:
    """Copy wheels into a folder to be carried along, each whole or not at all; those that were not there yet."""
    new = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in found:
            target = folder / path.name
            if not target.is_file() or sha256(target) != sha256(path):
                temp = folder / f".{path.name}.tmp"
                try:
                    shutil.copyfile(path, temp)
                    os.replace(temp, target)
                finally:
                    temp.unlink(missing_ok=True)
                new.append(target)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise Refused(f"{folder} cannot be written: {error}", hint="name another folder") from None
        raise NoSpace(f"no room for the packages in {folder}", hint="name another folder") from None
    return new


def check(paths: Iterable[Path], python: Python, facts: Facts) -> None:
    """Refused when a wheel among `paths` is not for this host's Python and platform; every such file is named."""
    fitting = ranks(facts, python)
    wrong = [path.name for path in paths if not any(tag in fitting for tag in _tags(path))]
    if wrong:
        raise Refused(
            f"not for {described(facts, python)}: {', '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}",
            hint="nothing was sent; make a wheelhouse for this host: llmctl wheelhouse DIR",
            details={"log": wrong},
        )


def needs(wanted: Sequence[Wanted], python: Python, facts: Facts) -> list[Need]:
    """The packages that the host takes of these locks: those whose markers are true there."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    asked = markers(facts, python)
    found: dict[Need, None] = {}
    for text in (entry for each in wanted for entry in entries(each.requirements)):
        requirement = Requirement(text.split(" --hash", 1)[0].split("\\", 1)[0].strip())
        if requirement.marker is None or requirement.marker.evaluate(asked):
            hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))
            version = str(requirement.specifier).removeprefix("==")
            found[Need(canonicalize_name(requirement.name), version, hashes)] = None
    return list(found)


def pick(needed: Sequence[Need], python: Python, facts: Facts, folder: Path) -> dict[Need, Path]:
    """The best file of `folder` for each need that has one, with one of its hashes; a file with none is not taken."""
    fitting = ranks(facts, python)
    there: dict[tuple[str, str], list[tuple[int, Path]]] = {}
    for name, version, tags, path in wheels(folder):
        if rank := [fitting[tag] for tag in tags if tag in fitting]:
            there.setdefault((name, version), []).append((min(rank), path))
    return {
        need: path
        for need in needed
        for _, path in sorted(there.get((need.name, need.version), ()))[:1]
        if sha256(path) in need.hashes
    }


def wheels(folder: Path) -> Iterator[tuple[str, str, list[str], Path]]:
    """Name, version, tags and path of the wheels in a folder; what is not named as one is not looked at."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    for path in sorted(folder.glob("*.whl")):
        try:
            name, version, _, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        yield name, str(version), [str(tag) for tag in tags], path


def _tags(path: Path) -> list[str]:
    """The tags of one wheel; none for a file that is none."""
    return next((tags for _, _, tags, found in wheels(path.parent) if found == path), [])


def sha256(path: Path) -> str:
    """The hash of a file."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        for block in blocks(file):
            digest.update(block)
    return digest.hexdigest()


def _fetch(missing: Sequence[Need], indexes: Sequence[str], python: Python, facts: Facts, cache: Path) -> None:
    """Have pip fetch these wheels into `cache`; it compares the hashes before a file gets its name there."""
    if find_spec("pip") is None:
        raise Refused(
            "this machine's llmctl has no pip to fetch packages with", hint="pip install 'llmctl-fleet[deploy]'"
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".") as temp:
        folder = Path(temp)
        (folder / "lock.txt").write_text("".join([*(f"{line}\n" for line in indexes), *(n.line for n in missing)]))
        done = subprocess.run(
            _download(folder, python, facts), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        if done.returncode:
            raise failure(done.stdout, missing, python, facts, cache)
        for path in folder.glob("*.whl"):
            os.replace(path, cache / path.name)


def _download(folder: Path, python: Python, facts: Facts) -> list[str]:
    """pip's words; where it looks is the operator's own setting."""
    version = ".".join(map(str, python[:2]))
    argv = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
    ]
    argv += ["--retries", "2"]  # with none, pip does not say that it could not connect
    argv += ["--only-binary", ":all:", "--no-deps", "--require-hashes", "--implementation", "cp"]
    argv += ["--python-version", version, "--dest", str(folder), "--requirement", str(folder / "lock.txt")]
    return [*argv, *(word for platform in platforms(facts) for word in ("--platform", platform))]


def failure(
    said: str, missing: Sequence[Need], python: Python, facts: Facts, cache: Path, env: Mapping[str, str] = os.environ
) -> LlmctlError:
    """The typed error that pip's last lines mean."""
    log = said.strip().splitlines()[-LOG_LINES:]
    lower = said.casefold()
    if "no space left" in lower:
        return NoSpace(f"no room for packages in {cache}", hint=f"rm -r {cache}", details={"log": log})
    if "do not match the hashes" in lower:
        return DeployFailed(
            "a package that the index sent does not have the hash that llmctl's lock names: it was not kept",
            hint="ask who runs the index; with the right one: PIP_INDEX_URL=https://pypi.org/simple llmctl deploy …",
            details={"log": log},
        )
    named = re.search(r"No matching distribution found for (\S+)", said)
    if named and not any(word in lower for word in NO_ROUTE):
        return Refused(
            f"there is no wheel of {named[1]} for {described(facts, python)}",
            hint="llmctl installs no source packages on a host: another Python there, or another engine",
            details={"log": log},
        )
    index = env.get("PIP_INDEX_URL", "the package index")
    return DeployFailed(
        f"{len(missing)} packages are not here, and cannot be fetched from {index}",
        hint="on a machine with a route to it: llmctl wheelhouse DIR; then deploy with --wheelhouse DIR",
        details={"log": log},
    )
