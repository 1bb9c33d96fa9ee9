"""What the doctor's tests share: a PATH of their own, and hosts over real ssh."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.fleet import emptied, fleet, machines
from tests.fleet.conftest import packages

__all__ = ["emptied", "fleet", "machines", "packages"]

Tool = Callable[[str, str], None]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """tool("ssh-add", "exit 1") puts a program into the only folder of PATH besides /bin."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(name: str, script: str = "exit 0") -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return make
