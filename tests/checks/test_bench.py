"""`llmctl bench run`: figures of requests that were really made, and traces of an engine that was really busy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmctl.checks.bench import Load, run, summed
from llmctl.checks.slot_http import SlotHttp, Timed
from llmctl.domain import SlotSpec
from llmctl.engines import profiling
from llmctl.errors import LlmctlError, Refused
from llmctl.slots import verbs
from tests.conftest import RunningSlot
from tests.runner.test_real_engines import real

Slots = Callable[..., RunningSlot]
Run = Callable[..., tuple[int, str, str]]


def test_the_figures_are_those_of_what_was_seen() -> None:
    answers = [Timed(100, 50 * (n == 0), 11, first=1.0 + n, seconds=2.0 + n) for n in range(4)]
    speed = summed(answers, 8.0, Load(4, 100, 11, 2))
    assert (speed.requests, speed.prompt_tokens, speed.cached_tokens, speed.new_tokens) == (4, 400, 50, 44)
    assert speed.prompt_tokens_per_second == (100 / 2 + 100 / 3) / 2  # of 50, 50, 33 and 25
    assert (speed.generation_tokens_per_second, speed.tokens_per_second) == (10.0, 5.5)
    assert (speed.first_token_p50, speed.first_token_p95) == (2.5, 4.0)
    assert summed([Timed(5, 0, 1, 0.5, 0.5)], 1.0, Load(1, 5, 1)).generation_tokens_per_second is None


@pytest.fixture(scope="module")
def models(tiny_models: dict[str, Path]) -> dict[str, SlotSpec]:
    return {
        "torch": real("torch", "tiny-llama", tiny_models["tiny-llama"]),
        "llamacpp": real("llamacpp", "tiny-llama-gguf", tiny_models["tiny-llama-gguf"]),
    }


@pytest.mark.parametrize(("engine", "way"), [("torch", "torch.profiler"), ("llamacpp", "samples")])
def test_a_slot_is_measured_and_its_engine_traced(
    slots: Slots, models: dict[str, SlotSpec], tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: str, way: str
) -> None:
    from llmctl.__main__ import main

    slot = slots(models[engine])
    words = ["bench", "run", str(slot.port), "--requests", "4", "--prompt", "24", "--new", "8", "--streams", "2"]
    assert main(["--json", *words, "--profile", "--out", str(tmp_path / "out")]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    speed, profile = data["speed"], data["profile"]
    assert (speed["requests"], speed["prompt_tokens"], speed["new_tokens"]) == (4, 96, 32)
    assert speed["cached_tokens"] < 16 and 0 < speed["first_token_p50"] <= speed["first_token_p95"] < speed["seconds"]
    assert profile["way"] == way and 0 < len(profile["top"]) <= 10
    shares = [row["share"] for row in profile["top"]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.001
    trace = json.loads(Path(profile["path"]).read_text())
    assert Path(profile["path"]).parent == tmp_path / "out"
    if engine == "torch":
        assert any("linear" in row["name"] or "mm" in row["name"] for row in profile["top"])
        assert any(event.get("name") == profile["top"][0]["name"] for event in trace["traceEvents"])
    else:
        frames = [frame["file"] for frame in trace["shared"]["frames"]]
        assert any("llamacpp" in file for file in frames) and trace["profiles"][0]["weights"]
    assert main(words) == 0
    assert "generation" in capsys.readouterr().out
    assert main([*words[:3], "--prompt", "600"]) == 1
    assert "context" in capsys.readouterr().err


def test_what_cannot_be_measured_says_why(slots: Slots, script: Callable[..., SlotSpec]) -> None:
    slot = slots(script("alpha"))
    http = SlotHttp("127.0.0.1", slot.port, None, 30.0)
    assert run(http, Load(2, 8, 4)).requests == 2
    verbs.unload(slot.home, slot.port)
    with pytest.raises(Refused, match="no engine"):
        verbs.profile(slot.home, slot.port, stop=False)


def test_a_slot_that_is_not_ready_and_an_option_without_its_other(
    slots: Slots, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmctl.__main__ import main

    slot = slots()
    assert main(["bench", "run", str(slot.port)]) == 1 and f"port {slot.port} is empty" in capsys.readouterr().err
    assert main(["bench", "run", str(slot.port), "--out", "x"]) == 2 and "--profile" in capsys.readouterr().err


def test_profiles_are_started_and_ended_in_turn(slots: Slots, script: Callable[..., SlotSpec]) -> None:
    slot = slots(script("alpha"))
    with pytest.raises(Refused, match="no profile runs"):
        verbs.profile(slot.home, slot.port, stop=True)
    verbs.profile(slot.home, slot.port, stop=False)
    with pytest.raises(Refused, match="runs already"):
        verbs.profile(slot.home, slot.port, stop=False)
    time.sleep(0.3)  # for some samples
    found = verbs.profile(slot.home, slot.port, stop=True)
    assert found["idle"] > 0.5 and Path(found["path"]).stat().st_mode & 0o077 == 0
    for _ in range(6):
        verbs.profile(slot.home, slot.port, stop=False)
        verbs.profile(slot.home, slot.port, stop=True)
    assert len(list((slot.folder.path / "profiles").iterdir())) <= 5


def test_a_profile_that_nobody_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiler = profiling.Profiler("scripted")
    profiler.start()
    profiler.look()
    monkeypatch.setattr(profiling, "LONGEST", 0.0)
    profiler.look()
    with pytest.raises(Refused, match="no profile runs"):
        profiler.stop(tmp_path / "trace.json")


def test_the_work_of_another_program_is_not_profiled() -> None:
    with pytest.raises(LlmctlError, match="another program"):
        profiling.Profiler("upstream").start()
