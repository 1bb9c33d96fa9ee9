"""llama.cpp's converter: taken once from the source distribution of llama-cpp-python (MIT), pinned by version and hash.

Nothing of it is in this package. A host without a package index gets the archive by hand, into the same folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from llmctl.errors import LlmctlError, Refused
from llmctl.files import locked
from llmctl.jobs.context import Context

VERSION = "0.3.36"
ARCHIVE = f"llama_cpp_python-{VERSION}.tar.gz"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
INSIDE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
WANTED = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/", "LICENSE")
FILE_LIMIT = 64 * 2**20
BLOCK = 2**20


def converter(home: Path, job: Context) -> Path:
    """The folder of the unpacked converter under `home`, fetched and checked at first use."""
    downloads = home / "converters"
    tree = downloads / f"llama.cpp-{VERSION}"
    if not tree.is_dir():
        with locked(downloads / ".lock", what="the converters"):
            if not tree.is_dir():
                archive = _archive(downloads, job)
                job.progress("unpack llama.cpp's converter")
                with tempfile.TemporaryDirectory(dir=downloads) as temp:
                    unpack(archive, Path(temp) / "tree")
                    os.rename(Path(temp) / "tree", tree)
    return tree


def check(archive: Path) -> None:
    """Refused unless the file is the very archive that this version of llmctl knows."""
    digest = hashlib.sha256()
    with open(archive, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != SHA256:
        raise Refused(
            f"{archive} has the sha256 {digest.hexdigest()}, not {SHA256}: it is not unpacked",
            hint=f"rm {archive}, and convert again",
        )


def unpack(archive: Path, folder: Path) -> None:
    """The converter's own files of the archive, plain files alone; Refused for a name that leads elsewhere."""
    folder.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(INSIDE)
            if name == member.name or not name.startswith(WANTED) or member.isdir():
                continue
            parts = PurePosixPath(name).parts
            if not member.isreg() or ".." in parts or name.startswith("/") or member.size > FILE_LIMIT:
                raise Refused(f"{archive} holds {member.name!r}, which llmctl does not unpack", hint=f"rm {archive}")
            content = tar.extractfile(member)
            assert content is not None
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, open(target, "wb") as out:
                shutil.copyfileobj(content, out)


def _archive(downloads: Path, job: Context) -> Path:
    path = downloads / ARCHIVE
    if not path.is_file():
        job.note(f"fetching llama.cpp's converter (llama-cpp-python {VERSION}, 76 MB) from the package index")
        job.progress("fetch llama.cpp's converter")
        with tempfile.TemporaryDirectory(dir=downloads) as temp:
            _download(Path(temp), path)
            check(Path(temp) / ARCHIVE)
            os.rename(Path(temp) / ARCHIVE, path)
    check(path)
    return path


def _download(folder: Path, kept: Path) -> None:
    """Let pip fetch the archive; it compares the hash before it looks inside."""
    pinned = folder / "pinned.txt"
    pinned.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n", encoding="ascii")
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    argv += ["--no-deps", "--no-binary", ":all:", "--dest", str(folder), "--requirement", str(pinned)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode or not (folder / ARCHIVE).is_file():
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        raise LlmctlError(
            "llama.cpp's converter could not be fetched from the package index",
            hint=f"on a host with a route to it: pip download --no-deps --no-binary :all: llama-cpp-python=={VERSION}; "
            f"then put {ARCHIVE} into {kept.parent}",
            details={"log": lines[-10:]},
        )
