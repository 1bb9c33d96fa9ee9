"""Smoke of slots that are well, and of slots with one thing wrong: each check can fail, and says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmctl.checks.smoke import smoke
from tests.conftest import RunningSlot
from tests.runner.test_real_engines import real

Slots = Callable[..., RunningSlot]


def found(slot: RunningSlot, **options: object) -> dict[str, tuple[str, str]]:
    rows = smoke(slot.home, "here", slot.port, **{"timeout": 60.0, **options})
    return {row.check: (row.status, row.why) for row in rows}


@pytest.mark.parametrize(("engine", "name"), [("llamacpp", "tiny-llama-gguf"), ("torch", "tiny-qwen2")])
def test_a_real_model_passes(slots: Slots, tiny_models: dict[str, Path], engine: str, name: str) -> None:
    rows = found(slots(real(engine, name, tiny_models[name])))
    print(rows)
    assert {s for s, _ in rows.values()} <= {"pass", "skip"}
