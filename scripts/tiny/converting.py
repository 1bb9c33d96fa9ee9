"""GGUF files, made by llama.cpp's own converter.

The converter is taken from the source distribution of llama-cpp-python (MIT), pinned by version and hash, and runs in
a process of its own: it needs torch, transformers and sentencepiece, which trained the models, and brings its own
`gguf` package. Nothing of it enters this repository. Without a route to a package index, put the archive into
`<out>/llama.cpp/` by hand.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from .store import locked, put

VERSION = "0.3.36"
ARCHIVE = f"llama_cpp_python-{VERSION}.tar.gz"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
INSIDE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
WANTED = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/", "LICENSE")
FILE = "model.gguf"


def convert(source: Path, folder: Path, quantization: str, pre: str, downloads: Path) -> None:
    """`folder`/model.gguf from the checkpoint `source`; `pre` names its byte-level split, empty for sentencepiece."""
    tree = _converter(downloads)
    arguments = [str(source), "--outfile", str(folder / FILE), "--outtype", quantization]
    _run("tiny.gguf_process", pre, *arguments, LLAMA_CPP=str(tree))


def check(file: Path) -> None:
    """Ask the file every question through llama.cpp, in a process of its own; RuntimeError for a wrong answer."""
    if importlib.util.find_spec("xllamacpp") is None:
        print(f"{file.parent.name}: not checked, xllamacpp is not installed", file=sys.stderr)
        return
    _run("tiny.gguf_check", str(file))


def _converter(downloads: Path) -> Path:
    """The folder of the unpacked converter, fetched at first use."""
    tree = downloads / f"converter-{VERSION}"
    if not tree.is_dir():
        with locked(downloads):
            if not tree.is_dir():
                put(tree, lambda folder: _unpack(_archive(downloads), folder))
    return tree


def _archive(downloads: Path) -> Path:
    path = downloads / ARCHIVE
    if not path.is_file():
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*fetch, "--dest", str(downloads), f"llama-cpp-python=={VERSION}"], check=True, stdout=2)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise RuntimeError(f"{path} has the sha256 {digest}, not {SHA256}: remove it and run this again")
    return path


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(INSIDE)
            if member.isfile() and name != member.name and name.startswith(WANTED):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as content, open(target, "wb") as out:
                    shutil.copyfileobj(content, out)


def _run(module: str, *arguments: str, **variables: str) -> None:
    """Run a module of this package; its output is shown only when it fails."""
    scripts = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": scripts, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise RuntimeError(f"{module} failed ({done.returncode}):\n{done.stdout.decode(errors='replace')[-4000:]}")
