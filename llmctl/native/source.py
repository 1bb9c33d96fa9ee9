"""The source of llama.cpp: that of xllamacpp's pinned version (MIT), which its wheel is made of.

So the library that is built has the wheel's C interface, to the byte. The archive is looked for in the wheelhouse that
a deploy fills and in the operator's cache, else pip fetches it; none of it is in this package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from llmctl.errors import LlmctlError, Refused

PROJECT, VERSION = "xllamacpp", "2026.10.11549"
ARCHIVE = f"{PROJECT}-{VERSION}.tar.gz"
SHA256 = "c17ee1163006f70726abb9f72137830818f3d8cb60bfc34cb232d08428eaa22b"
INSIDE = f"{PROJECT}-{VERSION}/thirdparty/llama.cpp/"
WANTED = (
    "CMakeLists.txt",
    "LICENSE",
    "cmake/",
    "common/",
    "ggml/",
    "include/",
    "licenses/",
    "src/",
    "tools/",
    "vendor/",
)
FILE_LIMIT = 64 * 2**20


def places(home: Path) -> tuple[Path, ...]:
    """Where the archive may lie: as a deploy brought it, and as this machine fetched it."""
    return (home / "wheelhouse" / ARCHIVE, home / "cache" / "wheels" / ARCHIVE)


def here(home: Path) -> Path | None:
    """The archive where it lies; a file with another hash is Refused, not taken for it."""
    found = next((path for path in places(home) if path.is_file()), None)
    if found is not None:
        check(found)
    return found


def check(archive: Path) -> None:
    """Refused unless the file is the very archive that this version of llmctl knows."""
    from llmctl.environments.wheelhouse import sha256  # a slot server imports this module, and never gets here

    if (digest := sha256(archive)) != SHA256:
        raise Refused(
            f"{archive} has the sha256 {digest}, not {SHA256}: it is not unpacked", hint=f"rm {archive}, and try again"
        )


def fetch(folder: Path) -> Path:
    """The archive in `folder`, fetched by pip where it is not there; pip compares the hash before it looks inside."""
    path = folder / ARCHIVE
    if path.is_file():
        check(path)
        return path
    if find_spec("pip") is None:
        raise _unfetched(path, ["this environment of llmctl has no pip"])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temp:
        pinned = Path(temp) / "pinned.txt"
        pinned.write_text(f"{PROJECT}=={VERSION} --hash=sha256:{SHA256}\n", encoding="ascii")
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        argv += ["--require-hashes", "--no-deps", "--no-binary", PROJECT, "--dest", temp, "--requirement", str(pinned)]
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if done.returncode or not (Path(temp) / ARCHIVE).is_file():
            raise _unfetched(path, done.stdout.strip().splitlines()[-10:])
        check(Path(temp) / ARCHIVE)
        os.replace(Path(temp) / ARCHIVE, path)
    return path


def unpack(archive: Path, folder: Path) -> None:
    """What the libraries are built of, plain files alone; Refused for a name that leads elsewhere."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(INSIDE)
            if name == member.name or not name.startswith(WANTED) or member.isdir():
                continue
            if not member.isreg() or ".." in PurePosixPath(name).parts or member.size > FILE_LIMIT:
                raise Refused(f"{archive} holds {member.name!r}, which llmctl does not unpack", hint=f"rm {archive}")
            content = tar.extractfile(member)
            assert content is not None
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, open(target, "wb") as out:
                shutil.copyfileobj(content, out)


def _unfetched(path: Path, log: Iterable[str]) -> LlmctlError:
    return LlmctlError(
        "the source of llama.cpp could not be fetched from the package index",
        hint=f"where there is a route to it: pip download --no-deps --no-binary {PROJECT} {PROJECT}=={VERSION}; "
        f"then put {ARCHIVE} into {path.parent}",
        details={"log": list(log)},
    )
