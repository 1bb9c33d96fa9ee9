"""The benchmark of a GPU says that there is none, and ends with a code of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
torch = pytest.importorskip("torch")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_measured():
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks.cuda"], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (5, "")
    assert "no GPU here" in done.stderr
