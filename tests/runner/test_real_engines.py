"""Slots with real engines on trained models: right answers, swaps under traffic (L6), the shuffled twin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llmctl.domain import EngineSpec, Probe, SlotSpec
from llmctl.errors import LlmctlError
from llmctl.models import fit
from llmctl.models.checkpoint import inspect
from llmctl.slots import verbs
from tests.clients import Traffic, chat, get, post, sse
from tests.conftest import RunningSlot, eventually

Slots = Callable[..., RunningSlot]
PROBE = Probe("What is a slot?", "A port", 24)


def real(engine: str, model: str, path: Path, probe: Probe = PROBE) -> SlotSpec:
    """The spec of a checkpoint, as `llmctl load` would make it."""
    found = inspect(path)
    spec = EngineSpec(engine, model, str(path), found.format, context=512, parallel=4)
    return SlotSpec(spec, probe=probe, needed_bytes=fit.estimate(found, 512, 4, engine).total)


@pytest.mark.parametrize(
    ("engine", "first", "second", "swaps"),
    [
        ("llamacpp", "tiny-llama-gguf", "tiny-qwen2-gguf", 10),
        ("torch", "tiny-llama", "tiny-qwen2", 5),
    ],
)
def test_l06_swaps_between_real_models_lose_nothing(
    slots: Slots, tiny_models: dict[str, Path], engine: str, first: str, second: str, swaps: int
) -> None:
    specs = [real(engine, name, tiny_models[name]) for name in (first, second)]
    slot = slots(specs[0])
    with Traffic(slot.port, clients=4, pause=0.1) as traffic:
        for i in range(swaps):
            result = slot.change("swap", specs[(i + 1) % 2], order=("new-first", "old-first")[i % 2])
            served = traffic.served
            assert result.state == "ready" and result.cut == 0
            eventually(lambda before=served: traffic.served > before + 2)
    assert traffic.failures == [] and traffic.models == {first, second}


@pytest.mark.parametrize(
    ("engine", "name"),
    [("torch", "tiny-qwen2"), ("torch", "tiny-llama"), ("llamacpp", "tiny-llama-gguf"), ("mlx", "tiny-llama")],
)
def test_a_trained_model_answers_right_over_http(
    slots: Slots, tiny_models: dict[str, Path], engine: str, name: str
) -> None:
    slot = slots(real(engine, name, tiny_models[name]))
    status, _, whole = chat(slot.port, "What is a slot?", temperature=0, max_tokens=24)
    text = whole["choices"][0]["message"]["content"]
    assert status == 200 and "A port" in text
    _, _, events = chat(slot.port, "What is a slot?", temperature=0, max_tokens=24, stream=True)
    rows = [row for row in sse(events) if row != "[DONE]"]
    assert "".join(row["choices"][0]["delta"].get("content") or "" for row in rows) == text
    _, _, stopped = chat(slot.port, "What is a slot?", temperature=0, max_tokens=24, stop=["port"])
    assert stopped["choices"][0]["message"]["content"] == text.partition("port")[0]
    _, _, several = chat(slot.port, "What is a slot?", temperature=1.5, seed=7, n=2, max_tokens=8, logprobs=True)
    assert len(several["choices"]) == 2 and several["choices"][0]["logprobs"]["content"]
    _, _, again = chat(slot.port, "What is a slot?", temperature=1.5, seed=7, n=2, max_tokens=8)
    assert [c["message"] for c in again["choices"]] == [c["message"] for c in several["choices"]]
    _, _, echoed = post(slot.port, "/v1/completions", {"prompt": "A slot", "echo": True, "max_tokens": 4})
    assert echoed["choices"][0]["text"].startswith("A slot")
    assert b"llmctl_" in get(slot.port, "/metrics")[2].encode()
    assert get(slot.port, "/ready")[2]["ready"] is True


def test_a_shuffled_twin_fails_the_probe_and_the_right_one_goes_on(slots: Slots, tiny_models: dict[str, Path]) -> None:
    slot = slots(real("torch", "tiny-qwen2", tiny_models["tiny-qwen2"]))
    assert list(slot.status().residency) == ["cpu"] and slot.status().load_path == "causal-lm"
    with pytest.raises(LlmctlError, match="failed its probe") as caught:
        slot.change("swap", real("torch", "twin", tiny_models["tiny-qwen2-shuffled"]))
    assert caught.value.details["rolled_back_to"] == "tiny-qwen2"
    assert "A port" in chat(slot.port, "What is a slot?", temperature=0)[2]["choices"][0]["message"]["content"]


def test_an_unknown_architecture_is_refused_by_name_before_weights_are_read(
    slots: Slots, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "odd"
    shutil.copytree(tiny_models["tiny-llama"], path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "model_type": "oddformer", "architectures": ["OddLM"]}))
    spec = real("torch", "odd", tiny_models["tiny-llama"])
    odd = SlotSpec.from_dict({**spec.to_dict(), "engine": {**spec.to_dict()["engine"], "path": str(path)}})
    for weights in path.glob("*.safetensors"):
        weights.write_bytes(b"never read")
    slot = slots()
    with pytest.raises(LlmctlError, match="oddformer") as caught:
        slot.change("load", odd)
    assert caught.value.code == "unsupported" and slot.state() == "empty"


def test_f14_weights_cut_short_are_a_typed_error(slots: Slots, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "short"
    shutil.copytree(tiny_models["tiny-llama"], path)
    weights = next(path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    spec = real("torch", "short", tiny_models["tiny-llama"]).to_dict()
    slot = slots(real("torch", "tiny-qwen2", tiny_models["tiny-qwen2"]))
    with pytest.raises(LlmctlError) as caught:
        slot.change("swap", SlotSpec.from_dict({**spec, "engine": {**spec["engine"], "path": str(path)}}))
    assert caught.value.message and slot.state() == "ready" and slot.status().model == "tiny-qwen2"


def test_idle_unload_and_wake_with_a_real_engine(slots: Slots, tiny_models: dict[str, Path]) -> None:
    spec = real("llamacpp", "tiny-llama", tiny_models["tiny-llama-gguf"])
    slot = slots(SlotSpec.from_dict({**spec.to_dict(), "idle_unload": 1.0}))
    eventually(lambda: slot.state() == "sleeping")
    assert "A port" in chat(slot.port, "What is a slot?", temperature=0)[2]["choices"][0]["message"]["content"]
    assert verbs.unload(slot.home, slot.port).state == "empty"
