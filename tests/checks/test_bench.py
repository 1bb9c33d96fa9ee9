"""`llmctl bench run`: figures of requests that were really made, and traces of an engine that was really busy."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.backends import bandwidth, cpu
from llmctl.checks import bench_host
from llmctl.checks.bench import Load, Speed, figures, grid, measure, ratios, spread, summed, turns
from llmctl.checks.bench_cells import Gauges, measured
from llmctl.checks.bench_client import OWN, Server, Timed
from llmctl.checks.bench_prompts import Prompts, text
from llmctl.clients import openai
from llmctl.domain import EngineSpec, SlotSpec
from llmctl.engines import profiling
from llmctl.errors import LlmctlError, Refused, Unsupported, UsageError
from llmctl.slots import verbs
from tests.conftest import RunningSlot
from tests.runner.test_real_engines import real

Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]
Bench = Callable[..., tuple[int, dict[str, Any], list[dict[str, Any]]]]
QUICK = ("--requests", "2", "--prompt", "16", "--new", "4", "--runs", "1")


def speed(rate: float, first: float = 1.0) -> Speed:
    return Speed(1, 1, 10, 0, 10, 1.0, rate, rate, rate, first, first)


@pytest.fixture
def bench(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """bench("run", …) → exit code, data, errors."""
    from llmctl.__main__ import main

    monkeypatch.setenv("LLMCTL_CONFIG", str(tmp_path))
    (tmp_path / "hosts.toml").write_text("[hosts.here]\nports = [8100, 8139]\n")
    monkeypatch.setattr(bandwidth, "TURNS", 1)
    monkeypatch.setattr(bandwidth, "MOST", 2**26)

    def bench(*words: object) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
        capsys.readouterr()
        code = main(["--json", "bench", *map(str, words)])
        envelope = json.loads(capsys.readouterr().out)
        return code, envelope["data"], envelope["errors"]

    return bench


# ── pure ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_figures_are_those_of_what_was_seen() -> None:
    answers = [Timed(100, 50 * (n == 0), 11, first=1.0 + n, seconds=2.0 + n) for n in range(4)]
    seen = summed(answers, 8.0, Load(4, 100, 11, 2))
    assert (seen.requests, seen.prompt_tokens, seen.cached_tokens, seen.new_tokens) == (4, 400, 50, 44)
    assert seen.prompt_tokens_per_second == (100 / 2 + 100 / 3) / 2  # of 50, 50, 33 and 25
    assert (seen.generation_tokens_per_second, seen.tokens_per_second) == (10.0, 5.5)
    assert (seen.first_token_p50, seen.first_token_p95) == (2.5, 4.0)
    assert summed([Timed(5, 0, 1, 0.5, 0.5)], 1.0, Load(1, 5, 1)).generation_tokens_per_second is None
    uncounted = summed([Timed(0, 0, 3, 0.5, 1.5, counted=False)], 1.0, Load(1, 5, 3))
    assert uncounted.prompt_tokens_per_second is None and not uncounted.counted


def test_medians_have_their_range_and_are_not_there_where_one_run_could_not_tell() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert spread([1.0, None]) is None and spread([]) is None
    assert figures([speed(4.0), speed(8.0)])["tokens_per_second"] == {"median": 6.0, "low": 4.0, "high": 8.0}


def test_ratios_are_run_by_run_and_above_one_where_ours_is_the_faster() -> None:
    found = ratios([speed(10.0, first=1.0), speed(20.0, first=2.0)], [speed(5.0, first=4.0), speed(40.0, first=1.0)])
    assert found["tokens_per_second"] == {"median": 1.25, "low": 0.5, "high": 2.0}
    assert found["first_token_p50"] == {"median": 2.25, "low": 0.5, "high": 4.0}


def test_two_are_measured_in_turns_that_no_drift_favours() -> None:
    assert turns(4) == [0, 1, 1, 0, 0, 1, 1, 0]
    assert sum(turns(3)) == 3


def test_lists_make_a_grid() -> None:
    assert grid([1, 8], [128], [64, 1, 64], None) == [
        Load(8, 128, 64, 1), Load(8, 128, 1, 1), Load(16, 128, 64, 8), Load(16, 128, 1, 8),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="4 requests cannot be 8 at once"):
        grid([1, 8], [128], [64], 4)


def test_no_two_prompts_begin_alike() -> None:
    assert len({tuple(text(number, 40).split()[:3]) for number in range(3000)}) == 3000


# ── real slots ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def models(tiny_models: dict[str, Path]) -> dict[str, SlotSpec]:
    return {
        "torch": real("torch", "tiny-llama", tiny_models["tiny-llama"]),
        "llamacpp": real("llamacpp", "tiny-llama-gguf", tiny_models["tiny-llama-gguf"]),
    }


@pytest.mark.parametrize(("engine", "way"), [("torch", "torch.profiler"), ("llamacpp", "samples")])
def test_a_slot_is_measured_and_its_engine_traced(
    slots: Slots,
    models: dict[str, SlotSpec],
    tmp_path: Path,
    bench: Bench,
    capsys: pytest.CaptureFixture[str],
    engine: str,
    way: str,
) -> None:
    from llmctl.__main__ import main

    slot = slots(models[engine])
    words = ["run", slot.port, "--requests", "4", "--prompt", "24", "--new", "8", "--streams", "2", "--runs", "2"]
    code, data, _ = bench(*words, "--profile", "--out", tmp_path / "out")
    (cell,), profile = data["cells"], data["profile"]
    assert code == 0 and (cell["streams"], cell["prompt"], cell["new"], cell["requests"], cell["runs"]) == (
        2, 24, 8, 4, 2,
    )  # fmt: skip
    assert (cell["prompt_tokens"], cell["new_tokens"], cell["short"], cell["counted"]) == (24, 64, False, True)
    assert cell["cached_tokens"] < 32
    for name in ("prompt_tokens_per_second", "generation_tokens_per_second", "first_token_p50", "roofline_share"):
        assert 0 < cell[name]["low"] <= cell[name]["median"] <= cell[name]["high"]
    assert data["weights_bytes"] > 100_000 and cell["bandwidth"]["low"] > 1e8 and cell["roofline_why"] is None
    share = data["weights_bytes"] * cell["generation_tokens_per_second"]["high"] / cell["bandwidth"]["low"]
    assert cell["roofline_share"]["high"] <= share * 1.001
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
    assert main(["bench", *map(str, words)]) == 0
    assert "ROOFLINE" in capsys.readouterr().out
    assert bench("run", slot.port, "--prompt", "600")[2][0]["message"].count("context")


def test_what_cannot_be_measured_says_why(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    server = Server(openai.at("127.0.0.1", slot.port), "it")
    found: list[dict[str, Any]] = []
    gauges = Gauges("a script has no weights", "cpu", "nobody measures energy")
    assert measured(found, server, None, [Load(2, 8, 4)], 1, gauges, print) is None
    (cell,) = found
    assert cell["roofline_share"] is None and cell["roofline_why"] == "a script has no weights"
    assert cell["joules_per_token"] is None and cell["energy_why"] == "nobody measures energy"
    verbs.unload(slot.home, slot.port)
    with pytest.raises(Refused, match="no engine"):
        verbs.profile(slot.home, slot.port, stop=False)


def test_energy_is_that_of_the_runs_by_all_their_tokens(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    counter = iter(range(0, 10**6, 100))

    def meter() -> Callable[[], float]:
        before = next(counter)
        return lambda: next(counter) - before

    found: list[dict[str, Any]] = []
    server = Server(openai.at("127.0.0.1", slot.port), "it")
    measured(found, server, None, [Load(2, 8, 4)], 3, Gauges(1000, "cuda", meter), print)
    assert found[0]["joules_per_token"] == {"median": 12.5, "low": 12.5, "high": 12.5}  # 100 J by 2 × 4 tokens
    assert "cuda device cannot be measured" in found[0]["roofline_why"]

    def broken() -> Callable[[], float]:
        raise Unsupported("it is gone")

    measured(found, server, None, [Load(2, 8, 4)], 1, Gauges(1000, "cuda", broken), print)
    assert found[1]["energy_why"] == "it is gone"


def test_what_a_token_reads(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    def reads(**fields: Any) -> int | str:
        return bench_host.reads(EngineSpec(**{"engine": "llamacpp", "model": "m", "format": "gguf", **fields}), "cpu")

    path = str(tiny_models["tiny-llama-gguf"])
    size = os.path.getsize(path)
    assert 0.5 * size < int(reads(path=path)) <= size
    assert "draft" in str(reads(path=path, draft="ngram"))
    assert "several machines" in str(reads(path=path, spread=({"name": "a"},)))
    assert "script" in str(reads(path=path, format="script"))
    assert "no such file" in str(reads(path=str(tmp_path / "gone.gguf")))
    for name, key in (("flat", "num_experts"), ("deep", "text_config")):
        (tmp_path / name).mkdir()
        config = {key: 8} if name == "flat" else {key: {"num_local_experts": 8}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        assert "routed" in str(reads(path=str(tmp_path / name), engine="torch", format="safetensors"))


def test_the_bandwidth_is_of_memory_that_is_really_read() -> None:
    assert 1e8 < bandwidth.of_block(2**27) < 1e13
    with pytest.raises(Unsupported, match="too little memory"):
        bandwidth.of_block(2**20)
    with pytest.raises(Unsupported, match="metal device"):
        bandwidth.read("metal")
    assert cpu.NAME == "cpu"


def test_a_model_comes_up_for_it_and_is_taken_away_again(
    bench: Bench, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "temp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    for name, play in {"quick": {}, "mute": {"die_after": 200}, "dies": {"fail": "exit"}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(play))
    names = ("quick", "mute", "dies")
    (tmp_path / "models.toml").write_text(
        "".join(f'[models.{name}]\nartifacts = [{{ format = "script", path = "{name}.json" }}]\n' for name in names)
    )
    code, data, _ = bench("run", "quick", *QUICK, "--streams", "2")
    assert code == 0 and data["scratch"] and data["model"] == "quick" and data["parallel"] == 2
    assert not 8100 <= data["port"] <= 8139 and data["cells"][0]["new_tokens"] == 8
    code, _, errors = bench("run", "mute", "--prompt", "16", "--new", "200", "--requests", "4")
    assert code == 1 and errors[0]["code"] == "load_failed" and "came up and gave up" in errors[0]["message"]
    assert bench("run", "dies", *QUICK)[2][0]["code"] == "load_failed"
    assert bench("run", "quick", "--profile")[0] == 2
    assert not list(scratch.glob("llmctl-scratch-*"))
    assert bench("run", "nothing-of-this-name")[2][0]["code"] == "unknown_name"


def test_an_engine_that_dies_amid_it_leaves_the_loads_that_were_measured(
    bench: Bench, slots: Slots, script: Script
) -> None:
    slot = slots(script("alpha", die_after=200))
    code, data, errors = bench("run", slot.port, "--requests", "2", "--prompt", "8", "--new", "8,400", "--runs", "1")
    assert code == 3 and [cell["new"] for cell in data["cells"]] == [8]
    assert f"port {slot.port}" in errors[0]["message"] and data["id"]


def test_a_model_that_is_swapped_amid_it_is_told(slots: Slots, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = slots(script("alpha"))
    server = Server(openai.at("127.0.0.1", slot.port), f"port {slot.port}")
    asked = server.timed

    def swapped(*args: Any) -> Timed:
        found = asked(*args)
        if slot.status().model == "alpha":
            slot.change("swap", script("beta"))
        return found

    monkeypatch.setattr(server, "timed", swapped)
    with pytest.raises(LlmctlError, match="answered as alpha and then as beta"):
        measure(server, Prompts(server).some(8, 2), Load(2, 8, 4), OWN)


def test_a_slot_that_is_not_ready_and_options_that_cannot_be(bench: Bench, slots: Slots, script: Script) -> None:
    slot = slots()
    assert bench("run", slot.port)[2][0]["message"] == f"port {slot.port} is empty"
    slot.change("load", script("alpha"))
    for words, says in [
        (("--out", "x"), "--out is where the file of --profile goes"),
        (("--streams", "1,x"), "--streams: 'x' is not a number from 1 to 256"),
        (("--prompt", "0"), "--prompt: '0' is not a number"),
        (("--new", ""), "--new: '' is not a number"),
        (("--streams", "257"), "'257' is not a number from 1 to 256"),
        (("--requests", "2", "--streams", "4"), "2 requests cannot be 4 at once"),
        (("--context", "512"), "--context is for a model that comes up"),
        (("--key-env", "X"), "--compare-model and --key-env are of the server at a URL"),
        (("--compare", "http://127.0.0.1:1", "--key-env", "NOT_SET_ANYWHERE"), "nothing in the environment variable"),
        (("--compare", "auto"), "which slot"),
        (("--compare", "ftp://x"), "is not an address of a server"),
        (("--compare", "ws://127.0.0.1:1"), "does not speak HTTP"),
    ]:
        code, _, errors = bench("run", slot.port, *words)
        assert code == 2 and says in errors[0]["message"], (words, errors)
        assert errors[0]["hint"] or "address" in says


# ── profiles ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_profiles_are_started_and_ended_in_turn(slots: Slots, script: Script) -> None:
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
