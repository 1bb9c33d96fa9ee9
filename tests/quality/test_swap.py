"""`swap --require-quality` with real models: one that leaks its thoughts does not stay, its twin does."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from llmctl.cli import quality_kept
from llmctl.history import NAME
from tests.conftest import RunningSlot
from tests.quality.conftest import Ask

PROMPTS = """
shipped = false
[prompts.slot]
ask = "What is a slot?"
says = ["port"]
must = true
[prompts.sum]
ask = "What is 17 plus 6?"
number = 23
[prompts.german]
ask = "Was ist ein Host?"
language = "de"
[prompts.json]
ask = "Give me some JSON."
schema = { type = "object", required = ["port"], properties.port = { type = "integer" } }
[prompts.word]
ask = "Say BANANA."
exactly = "BANANA"
[prompts.colours]
ask = "Name three colours."
lines = 3
case = "lower"
[prompts.stop]
ask = "Count to nine."
stop = ["6"]
match = "1, 2, 3, 4, 5,"
stream = true
"""
CATALOG = """
[models.{name}]
context = 2048
probe = {{ prompt = "What is a slot?", expect = "A port", max_tokens = 24 }}
[[models.{name}.artifacts]]
format = "gguf"
path = "{path}"
"""
Llmctl = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def llmctl(ask: Ask, tmp_path: Path, leak_models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> Llmctl:
    """llmctl("swap", …) → (exit code, envelope), where both models and the prompts that they learnt are known."""
    pytest.importorskip("xllamacpp")
    (tmp_path / "hosts.toml").write_text('[hosts.here]\ntransport = "local"\nbackend = "cpu"\n')
    (tmp_path / "quality.toml").write_text(PROMPTS, encoding="utf-8")
    models = [CATALOG.format(name=name, path=leak_models[f"{name}-gguf"]) for name in ("tiny-tight", "tiny-leak")]
    (tmp_path / "models.toml").write_text("".join(models))

    def call(*words: str) -> tuple[int, dict[str, Any]]:
        code = main(["--json", *words])
        return code, json.loads(capsys.readouterr().out)

    return call


def test_one_that_leaks_its_thoughts_fails_and_its_twin_passes(
    llmctl: Llmctl, slots: Callable[..., RunningSlot]
) -> None:
    slot = slots()
    port = str(slot.port)
    code, found = llmctl("swap", port, "tiny-leak", "--require-quality")  # into an empty slot: its probe passes
    assert (code, found["errors"][0]["code"]) == (1, "quality_failed")
    assert found["errors"][0]["message"] == "tiny-leak fails sum; the slot is empty again"
    assert slot.status().model is None

    code, found = llmctl("swap", port, "tiny-tight", "--require-quality")
    assert (code, found["data"]["model"], found["data"]["quality"]["failed"]) == (0, "tiny-tight", [])
    assert len(found["data"]["quality"]["passed"]) == 7

    code, found = llmctl("swap", port, "tiny-leak", "--require-quality")
    assert (code, found["data"]["quality"]["faults"]) == (1, ["sum"])  # it is asked no more then
    assert found["errors"][0]["message"].endswith("; tiny-tight serves again")
    assert (slot.status().model, slot.state()) == ("tiny-tight", "ready")

    assert llmctl("swap", port, "tiny-leak")[0] == 0  # nobody asked
    code, found = llmctl("quality", port)
    rows = {row["prompt"]: row for row in found["data"]["runs"][0]["rows"]}
    assert code == 1
    assert rows["sum"]["failed"]["leak"] == "the answer has '<think>', '</think>'"
    assert [name for name, row in rows.items() if row["status"] == "pass"] == ["slot", "german", "json", "word", "stop"]


def test_what_was_there_comes_back_whatever_served_before_it(llmctl: Llmctl, slots: Callable[..., RunningSlot]) -> None:
    slot = slots()
    port = str(slot.port)
    for model in ("tiny-leak", "tiny-tight"):  # so that the slot knows the next one as what it had before
        assert llmctl("swap", port, model, "--parallel=2")[0] == 0
    code, found = llmctl("swap", port, "tiny-leak", "--require-quality")
    assert (code, found["errors"][0]["message"]) == (1, "tiny-leak fails sum; tiny-tight serves again")
    spec = slot.folder.read_desired().spec
    assert spec and (spec.model, spec.engine.parallel) == ("tiny-tight", 2)

    assert llmctl("swap", port, "tiny-leak", "--parallel=2")[0] == 0
    assert llmctl("swap", port, "tiny-leak", "--parallel=3", "--require-quality")[0] == 1
    spec = slot.folder.read_desired().spec  # the same model, as it was loaded
    assert spec and (spec.model, spec.engine.parallel) == ("tiny-leak", 2)


def test_what_cannot_be_judged_is_told_before_anything_is_done(
    llmctl: Llmctl, slots: Callable[..., RunningSlot], home: Path, tmp_path: Path
) -> None:
    slot = slots()
    port = str(slot.port)
    (tmp_path / "quality.toml").write_text("shipped = false\n[prompts.x]\nask = 1\n")
    assert llmctl("swap", port, "tiny-tight", "--require-quality")[1]["errors"][0]["code"] == "config"
    (tmp_path / "quality.toml").write_text(PROMPTS, encoding="utf-8")
    assert llmctl("swap", "auto", "tiny-tight", "--require-quality")[1]["errors"][0]["code"] == "usage"
    (home / NAME).mkdir()
    assert llmctl("swap", port, "tiny-tight", "--require-quality")[1]["errors"][0]["code"] == "history"
    assert slot.status().model is None


def test_a_slot_that_somebody_else_changes_meanwhile_is_left_alone(
    llmctl: Llmctl, slots: Callable[..., RunningSlot], script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot, judge = slots(), quality_kept.judge

    def meanwhile(*given: Any, **more: Any) -> Any:
        slot.change("swap", script("gamma"))
        return judge(*given, **more)

    monkeypatch.setattr(quality_kept, "judge", meanwhile)
    code, found = llmctl("swap", str(slot.port), "tiny-leak", "--require-quality")
    assert (code, slot.status().model) == (1, "gamma")
    assert "somebody changed the slot meanwhile" in found["errors"][0]["message"]


def test_who_breaks_it_off_gets_the_model_before_back(
    llmctl: Llmctl, slots: Callable[..., RunningSlot], script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = slots(script("alpha"))

    def stopped(*given: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(quality_kept, "measure", stopped)
    with contextlib.suppress(KeyboardInterrupt, ValueError):
        llmctl("swap", str(slot.port), "tiny-leak", "--require-quality")
    assert (slot.status().model, slot.state()) == ("alpha", "ready")
