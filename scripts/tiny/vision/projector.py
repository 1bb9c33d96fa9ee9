"""The GGUF file of a checkpoint's eye (llama.cpp's mmproj), by llama.cpp's own converter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def convert(source: Path, target: Path, home: Path) -> None:
    """`target` from the checkpoint `source`; the converter is kept in `home`/converters."""
    from llmctl.jobs.context import Silent
    from llmctl.models.convert import fetch

    tree = fetch.converter(home, Silent())
    argv = [sys.executable, f"{tree}/convert_hf_to_gguf.py", str(source), "--mmproj", "--outtype", "f32"]
    done = subprocess.run(
        [*argv, "--outfile", str(target)],
        env={**os.environ, "PYTHONPATH": f"{tree}:{tree}/gguf-py"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode or not target.is_file():
        raise RuntimeError(f"llama.cpp's converter:\n{done.stdout.decode(errors='replace')[-4000:]}")
