"""What the tests of the quality matrix share: its prompts as files, and the command line over real slots."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from llmctl.domain import SlotSpec
from tests.conftest import REPO, RunningSlot

Ask = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def ask(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """ask("8101", "--accept", …) → (exit code, envelope) of `llmctl quality`, in a folder without a configuration."""
    monkeypatch.chdir(tmp_path)
    for name in ("LLMCTL_CONFIG", "LLMCTL_KEY"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: str) -> tuple[int, dict[str, Any]]:
        code = main(["--json", "quality", *words])
        return code, json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], str]:
    """own("…") → the option that names a file with these prompts, and none of the shipped."""

    def write(text: str) -> str:
        file = tmp_path / "own.toml"
        file.write_text(f"shipped = false\n{text}", encoding="utf-8")
        return f"--prompts={file}"

    return write


@pytest.fixture
def slot(slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec]) -> Iterator[Callable[..., RunningSlot]]:
    """slot({question: answer}, …) → a slot whose model says that; asked again, the same slot says something else."""
    made: list[RunningSlot] = []

    def start(answers: dict[str, str], model: str = "alpha", **play: Any) -> RunningSlot:
        spec = script(model, answers=answers, **play)
        if made:
            made[0].change("swap", spec)
        else:
            made.append(slots(spec))
        return made[0]

    yield start


@pytest.fixture(scope="session")
def leak_models() -> dict[str, Path]:
    """Two tiny models that are the same but for one thing: {"tiny-leak" | "tiny-tight", each with "-gguf": path}."""
    made = subprocess.run([REPO / "scripts" / "tiny-leak"], stdout=subprocess.PIPE, check=True)
    return {name: Path(path) for name, path in json.loads(made.stdout).items()}
