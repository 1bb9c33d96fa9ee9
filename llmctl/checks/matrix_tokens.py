"""How a checkpoint's own tokenizer.json cuts texts, by the tokenizers library in whichever environment has it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

from llmctl.environments import installed
from llmctl.errors import LlmctlError

TEXTS = (
    "a", "\n", "Hello world!", "two  spaces   three", "The year 1984, then 20240131 and 3.14159e-10", "naïve café",
    "Привет, мир!", "مرحبا", "你好，世界！", "👍🏽 🧑\u200d🚀", "def main(argv):\n    return len(argv)  # done\n",
    "https://example.org/a?b=c&d=%20", "\tindented", "x" * 60, "I'll say it's DON'T'd",
)  # fmt: skip
TIMEOUT = 60.0
_CUT = """\
import json, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
texts = json.load(sys.stdin)
print(json.dumps([[tokenizer.encode(t, add_special_tokens=s).ids for s in (False, True)] for t in texts]))
"""


def by_tokenizers(folder: Path, engine: str) -> list[tuple[list[int], list[int]]] | None:
    """The ids of each of TEXTS without and with the tokens put around a prompt; None where there is no library."""
    for python in _pythons(engine):
        argv = [python, "-I", "-c", _CUT, str(folder / "tokenizer.json")]
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
            done = subprocess.run(argv, input=json.dumps(TEXTS).encode(), capture_output=True, timeout=TIMEOUT)
            if done.returncode == 0:
                return [(plain, special) for plain, special in json.loads(done.stdout)]
    return None


def _pythons(engine: str) -> list[str]:
    """Interpreters that may have it, the engine's own first."""
    found = []
    for name in (engine, "torch", "mlx", "convert"):
        with contextlib.suppress(LlmctlError):
            found.append(installed.python_for(name))
    return list(dict.fromkeys([*found, sys.executable]))
