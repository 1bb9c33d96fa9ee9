"""An engine whose library is not installed is refused in one line that says what to type."""

import subprocess
import sys
from pathlib import Path

import pytest

from llmctl.engines import installed

REPO = Path(__file__).parents[2]
BARE = """
import sys
sys.path.insert(0, sys.argv[1])
from llmctl.domain import EngineSpec
from llmctl.errors import Unsupported
from llmctl.runner import worker

class Link:
    emit = None
    def send(self, head): pass

try:
    worker.load(EngineSpec(sys.argv[2], "m", "/nowhere", "safetensors"), Link())
except Unsupported as error:
    print(error.message, "|", error.hint)
"""


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("torch", "the torch engine needs torch and transformers, which this environment does not have"),
        ("mlx", "the mlx engine needs mlx and mlx_lm, which this environment does not have"),
        ("openvino", "the openvino engine needs openvino, which this environment does not have"),
    ],
)
def test_the_extra_to_install_is_named(engine, said):
    """In an interpreter without its installed packages, which is what a bare environment is."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", BARE, str(REPO), engine], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{said} | pip install 'llmctl-fleet[{engine}]'"


def test_engines_without_a_library_of_their_own_need_none():
    installed("scripted")
    installed("upstream")
