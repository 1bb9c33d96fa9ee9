"""What may not be imported where: the plain-JSON verbs start light, and engines' libraries stay in the worker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("typer", "click", "rich", "httpx", "fabric", "paramiko", "huggingface_hub", "uvicorn", "numpy", "textual")
HEAVIER = ("torch", "transformers", "mlx", "mlx_lm", "xllamacpp", "prometheus_client", "fabric", "huggingface_hub")
SHOW = "import json, sys; json.dump(sorted(sys.modules), sys.stderr)"


def modules(code: str) -> set[str]:
    """The modules that a fresh interpreter has imported after `code`."""
    done = subprocess.run([sys.executable, "-c", f"{code}\n{SHOW}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr))


@pytest.mark.parametrize("argv", [["status", "--json"], ["--json", "status"]])
def test_status_as_json_imports_nothing_heavy(home: Path, argv: list[str]) -> None:
    found = modules(f"from llmctl.__main__ import main; assert main({argv}) == 0")
    assert "llmctl.slots.status" in found
    assert found.isdisjoint({*HEAVY, *HEAVIER, "asyncio", "llmctl.render"})


def test_the_whole_command_line_imports_no_engine(home: Path) -> None:
    found = modules("from llmctl.__main__ import main; assert main(['status']) == 0")
    assert "typer" in found
    assert found.isdisjoint(HEAVIER)


def test_the_scripted_engine_needs_no_library() -> None:
    found = modules("import llmctl.runner.worker, llmctl.engines.scripted")
    assert found.isdisjoint({*HEAVY, *HEAVIER, "llguidance", "jinja2", "PIL"})
