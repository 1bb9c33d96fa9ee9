"""Smoke of slots that are well, and of slots with one thing wrong: each check can fail, and says why."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from llmctl import keys
from llmctl.checks import smoke as checks
from llmctl.checks.slot_checks import Subject, Verdict, cancel
from llmctl.checks.slot_http import SlotHttp
from llmctl.domain import Limits, SlotSpec
from llmctl.models.checkpoint import inspect
from llmctl.slots import verbs
from llmctl.slots.resolve import needs
from llmctl.slots.state import Launch
from tests.clients import chat
from tests.conftest import RunningSlot, eventually
from tests.runner.test_real_engines import real

Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]
SLOW = {"step": 0.01, "length": 400}
"""A script that answers slowly enough for a cancel to be seen."""


def rows_of(slot: RunningSlot, **options: Any) -> list[checks.Row]:
    return checks.smoke(slot.home, "here", slot.port, **{"timeout": 60.0, **options})


def found(slot: RunningSlot, **options: Any) -> dict[str, tuple[str, str]]:
    return {row.check: (row.status, row.why) for row in rows_of(slot, **options)}


def code_of(slot: RunningSlot) -> int:
    return checks.exit_code(asdict(row) for row in rows_of(slot))


def failed(rows: dict[str, tuple[str, str]]) -> list[str]:
    return [check for check, (status, _) in rows.items() if status == "fail"]


# ── slots that are well ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("engine", "name"), [("llamacpp", "tiny-llama-gguf"), ("torch", "tiny-qwen2")])
def test_a_real_model_passes(slots: Slots, tiny_models: dict[str, Path], engine: str, name: str) -> None:
    slot = slots(real(engine, name, tiny_models[name]))
    rows = found(slot)
    assert failed(rows) == []
    ran = {check for check, (status, _) in rows.items() if status == "pass"}
    assert ran >= {"identity", "generation", "stream", "stop", "concurrency", "memory"}
    assert rows["generation"][1].startswith("twice ") and "'A port' in it" in rows["generation"][1]
    assert rows["image"] == ("skip", f"{name} takes no images")
    assert code_of(slot) == 0


def test_a_model_that_sees_tells_two_pictures_apart(slots: Slots, vision_model: dict[str, Path]) -> None:
    rows = found(slots(real("torch", "tiny-vision", vision_model["tiny-vision"])))
    assert failed(rows) == []
    assert rows["image"] == ("pass", "red and blue are told apart")


@pytest.mark.parametrize("name", ["tiny-embed", "tiny-rerank"])
def test_a_model_that_makes_no_text_is_tried_by_its_numbers(
    slots: Slots, embed_model: dict[str, Path], name: str
) -> None:
    slot = slots(real("torch", name, embed_model[name]))
    rows = found(slot)
    assert failed(rows) == [] and rows["identity"][0] == "pass"
    assert rows["numbers"][0] == "pass" and rows["numbers"][1].endswith("numbers, twice the same")
    assert rows["generation"] == ("skip", f"{name} makes no text")
    assert code_of(slot) == 0


def test_a_model_that_takes_images_and_sees_nothing_fails(
    slots: Slots, vision_model: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    blind = tmp_path / "blind"
    shutil.copytree(vision_model["tiny-vision"], blind)
    weights = load_file(blind / "model.safetensors")
    name = "visual.patch_embed.proj.weight"
    save_file({**weights, name: 0 * weights[name]}, blind / "model.safetensors", {"format": "pt"})
    rows = found(slots(real("torch", "blind", blind)))
    assert failed(rows) == ["image"] and "disc, asked: What colour is it?" in rows["image"][1]


def test_a_slow_answer_is_cancelled(slots: Slots, script: Script) -> None:
    rows = found(slots(script(**SLOW)))
    assert failed(rows) == []
    assert rows["cancel"][0] == "pass" and rows["cancel"][1].startswith("free 0.")
    assert rows["memory"] == ("skip", "a script has no weights to estimate")


def test_a_cancel_among_others_is_not_judged(slots: Slots, script: Script) -> None:
    slot = slots(script(**SLOW))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(chat, slot.port, "hello", max_tokens=1000)
        eventually(lambda: slot.status().active)
        subject = Subject(
            slot.folder.read_desired().spec, "cpu", SlotHttp("127.0.0.1", slot.port, None, 30), slot.status
        )  # type: ignore[arg-type]
        assert cancel(subject) == Verdict("skip", "1 other requests run: what becomes of one cannot be seen")
        assert other.result()[0] == 200


def test_a_model_without_a_chat_template_is_asked_for_completions(
    slots: Slots, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "bare"
    copy.mkdir()
    for file in tiny_models["tiny-llama"].iterdir():
        if file.name != "chat_template.jinja":
            (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    spec = real("torch", "bare", copy)
    rows = found(slots(replace(spec, probe=replace(spec.probe, expect=None))))
    assert failed(rows) == [] and rows["concurrency"][0] == "pass"


def test_a_slot_with_a_key_is_asked_with_it(slots: Slots, script: Script, home: Path) -> None:
    keys.show(home)
    slot = slots(script(**SLOW), Launch(bind="0.0.0.0", limits=Limits(drain=5.0)))
    assert failed(found(slot)) == []
    keys.rotate(home)
    assert failed(found(slot)) == []


# ── slots with one thing wrong ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("play", "check", "why"),
    [
        # the probe asks twice at the load, and identity asks twice before anything is compared
        ({"odd": [6]}, "generation", "two greedy generations differ"),
        ({"odd": [7]}, "stream", "the stream says 'Something else, The quick brown fox"),
        ({"odd": [8]}, "stop", "it says 'Something else"),
        ({"odd": [9]}, "stop", "it says 'Something else"),
        ({"deaf": "stop"}, "stop", "it went on past the stop string"),
        ({"deaf": "cancel"}, "cancel", "after the hang-up the engine still works"),
        ({"crosstalk": True}, "concurrency", "one of 4 at once says 'Something else"),
    ],
)
def test_what_is_wrong_is_found(slots: Slots, script: Script, play: dict[str, Any], check: str, why: str) -> None:
    rows = found(slots(script(**SLOW, **play)))
    assert failed(rows) == [check]
    assert why in rows[check][1]


def test_another_model_than_is_desired_on_disk_is_found(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", **SLOW))
    desired = slot.folder.read_desired()
    slot.folder.write_desired(replace(desired, spec=script("beta", **SLOW)))
    rows = found(slot)
    assert rows["identity"] == ("fail", "beta is desired, /v1/models says alpha")


def test_an_engine_that_dies_while_it_answers_is_found(slots: Slots, script: Script) -> None:
    rows = found(slots(script(**SLOW, die_after=80)))
    assert rows["identity"][0] == "pass" and "fail" in {status for status, _ in rows.values()}


def test_an_engine_that_hangs_is_found_at_the_deadline(slots: Slots, script: Script) -> None:
    rows = found(slots(script(**SLOW, wedge_after=60)), timeout=2.0)
    assert rows["generation"] == ("fail", f"port {rows['generation'][1].split()[1]} did not answer within 2 s")
    assert rows["stream"] == ("skip", "there is no sane answer to compare with")


def test_too_much_memory_is_found(slots: Slots, tiny_models: dict[str, Path]) -> None:
    spec = real("llamacpp", "tiny-llama-gguf", tiny_models["tiny-llama-gguf"])
    rows = found(slots(replace(spec, needed_bytes=20_000_000)))
    assert failed(rows) == ["memory"] and "20.0 MB estimated: +" in rows["memory"][1]


def test_too_little_memory_is_found(slots: Slots, tiny_models: dict[str, Path]) -> None:
    spec = real("torch", "tiny-llama", tiny_models["tiny-llama"])
    fit = needs(inspect(tiny_models["tiny-llama"]), spec.engine, "cpu")
    rows = found(slots(replace(spec, needed_bytes=3 * fit.total)))
    assert failed(rows) == ["memory"] and "at least" in rows["memory"][1]


# ── slots that are not up ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_slot_that_is_down_fails(slots: Slots, script: Script) -> None:
    slot = slots(script())
    slot.kill()
    assert found(slot)["up"][0] == "fail" and found(slot)["up"][1].startswith("down: no slot server runs")
    assert checks.wanted(slot.home) == [slot.port]


def test_a_slot_whose_engine_keeps_dying_fails(slots: Slots, script: Script) -> None:
    slot = slots(script())
    Path(slot.folder.read_desired().spec.engine.path).write_text(json.dumps({"fail": "exit"}))  # type: ignore[union-attr]
    os.kill(slot.engine_pid() or 0, signal.SIGKILL)
    eventually(lambda: slot.state() in ("backoff", "starting", "crash-loop"))
    rows = found(slot, timeout=3.0)
    assert list(rows) == ["up"] and rows["up"][0] == "fail"


def test_a_sleeping_slot_is_left_asleep_unless_told(slots: Slots, script: Script) -> None:
    slot = slots(script(idle_unload=0.2, **SLOW))
    eventually(lambda: slot.state() == "sleeping")
    assert found(slot) == {"up": ("skip", "asleep; --wake starts its model")}
    assert slot.state() == "sleeping"
    assert code_of(slot) == 5
    rows = found(slot, wake=True)
    assert rows["identity"][0] == rows["generation"][0] == "pass"


def test_disabled_and_empty_slots_are_skipped(slots: Slots, script: Script) -> None:
    slot, empty = slots(script()), slots()
    verbs.disable(slot.home, slot.port, "maintenance")
    assert found(slot) == {"up": ("skip", "disabled: maintenance")}
    assert found(empty) == {"up": ("skip", "no model is loaded")}
    assert empty.port not in checks.wanted(slot.home)


# ── the verdict ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([(1, "pass"), (1, "skip")], 0),
        ([(1, "pass"), (1, "fail")], 1),
        ([(1, "fail"), (2, "pass"), (2, "skip")], 3),
        ([(1, "fail"), (2, "skip")], 1),
        ([(1, "skip"), (2, "skip")], 5),
        ([(1, "pass"), (2, "skip")], 0),
        ([], 5),
    ],
)
def test_exit_codes_tell_the_truth(found: list[tuple[int, str]], code: int) -> None:
    assert checks.exit_code({"host": "h", "port": port, "status": status} for port, status in found) == code
