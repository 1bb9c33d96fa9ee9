"""A source distribution pinned by version and hash: fetched by pip, checked, and its plain files unpacked."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from llmctl.errors import LlmctlError, Refused

FILE_LIMIT = 64 * 2**20
BLOCK = 2**20


@dataclass(frozen=True)
class Sdist:
    """`what` it holds, for people; `archive` is its file's name, `inside` the folder in it whose `wanted` files (or
    folders, with a slash) are unpacked."""

    what: str
    project: str
    version: str
    archive: str
    sha256: str
    inside: str
    wanted: tuple[str, ...]

    def check(self, path: Path) -> None:
        """Refused unless the file is the very archive that this version of llmctl knows."""
        digest = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:
            while block := file.read(BLOCK):
                digest.update(block)
        if digest.hexdigest() != self.sha256:
            raise Refused(
                f"{path} has the sha256 {digest.hexdigest()}, not {self.sha256}: it is not unpacked",
                hint=f"rm {path}, and try again",
            )

    def fetch(self, folder: Path) -> Path:
        """The archive in `folder`, fetched where it is not there; pip compares the hash before it looks inside."""
        path = folder / self.archive
        if path.is_file():
            self.check(path)
            return path
        if find_spec("pip") is None:
            raise self._unfetched(path, ["this environment of llmctl has no pip"])
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temp:
            pinned = Path(temp) / "pinned.txt"
            pinned.write_text(f"{self.project}=={self.version} --hash=sha256:{self.sha256}\n", encoding="ascii")
            argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
            argv += ["--require-hashes", "--no-deps", "--no-binary", ":all:"]
            argv += ["--dest", temp, "--requirement", str(pinned)]
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace",
            )  # fmt: skip
            made = Path(temp) / self.archive
            if done.returncode or not made.is_file():
                raise self._unfetched(path, done.stdout.strip().splitlines()[-10:])
            self.check(made)
            os.replace(made, path)
        return path

    def unpack(self, path: Path, folder: Path) -> None:
        """What is wanted, plain files alone, into `folder`; Refused for a name that leads elsewhere."""
        with tarfile.open(path) as tar:
            for member in tar:
                name = member.name.removeprefix(self.inside)
                if name == member.name or not name.startswith(self.wanted) or member.isdir():
                    continue
                if not member.isreg() or ".." in PurePosixPath(name).parts or member.size > FILE_LIMIT:
                    raise Refused(f"{path} holds {member.name!r}, which llmctl does not unpack", hint=f"rm {path}")
                content = tar.extractfile(member)
                assert content is not None
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, open(target, "wb") as out:
                    shutil.copyfileobj(content, out)

    def _unfetched(self, path: Path, log: list[str]) -> LlmctlError:
        command = f"pip download --no-deps --no-binary :all: {self.project}=={self.version}"
        return LlmctlError(
            f"{self.what} could not be fetched from the package index",
            hint=f"where there is a route to it: {command}; then put {self.archive} into {path.parent}",
            details={"log": log},
        )
