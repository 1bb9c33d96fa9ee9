"""GGUF files of the made models, by llmctl's own conversion; and whether they answer right."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FILE = "model.gguf"


def convert(source: Path, folder: Path, quantization: str, home: Path) -> None:
    """`folder`/model.gguf from the checkpoint `source`; llama.cpp's converter is kept in `home`/converters."""
    from llmctl.jobs.context import Silent
    from llmctl.models.convert import child, fetch

    target = folder / FILE
    with tempfile.TemporaryDirectory() as scratch:
        request = {
            "model": source.name, "allow_code": False, "source": str(source), "target": str(target),
            "type": quantization, "converter": str(fetch.converter(home, Silent())), "version": fetch.VERSION,
            "pre": None, "expected": f"{scratch}/expected.json",
        }  # fmt: skip
        child.run(child.Step("convert", "gguf_base", request, target, 1), Path(scratch), Silent())


def check(file: Path) -> None:
    """Ask the file every question through llama.cpp, in a process of its own; RuntimeError for a wrong answer."""
    if importlib.util.find_spec("xllamacpp") is None:
        print(f"{file.parent.name}: not checked, xllamacpp is not installed", file=sys.stderr)
        return
    scripts = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": scripts, "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "tiny.gguf_check", str(file)]
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"{file} answers wrongly:\n{done.stdout.decode(errors='replace')[-4000:]}")
