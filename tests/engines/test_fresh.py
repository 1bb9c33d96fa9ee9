"""A request may ask that nothing of an earlier one is taken over: the probe does, whose two answers must be two."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import Chunk, EngineSpec, GenerateRequest, Identity, Sampling, SlotSpec, Usage
from llmctl.errors import LoadFailed, RequestError
from llmctl.runner.prober import probe
from tests.engines.asked import loaded


@pytest.mark.parametrize(("engine", "name"), [("llamacpp", "tiny-llama-gguf"), ("torch", "tiny-llama")])
def test_a_fresh_request_computes_its_whole_prompt(tiny_models: dict[str, Path], engine: str, name: str) -> None:
    events: list[Any] = []
    made = loaded(engine, tiny_models[name], events.append, context=512, parallel=2)

    def asked(id: str, fresh: bool) -> Usage:
        prompt = "What is a slot? " * 8
        made.submit(GenerateRequest(id, prompt=prompt, sampling=Sampling(temperature=0.0), max_tokens=4, fresh=fresh))
        while made.step():
            pass
        (usage,) = [event.usage for event in events if isinstance(event, Chunk) and event.id == id and event.usage]
        return usage

    assert asked("a", False).cached == 0
    assert asked("b", False).cached > 0
    assert asked("c", True).cached == 0
    made.close()


def test_the_probe_asks_for_that() -> None:
    asked: list[GenerateRequest] = []

    class Engine:
        spec = SlotSpec(EngineSpec("x", "m", "/", "gguf"))
        identity = Identity("m", "x", "x", 100, 100, 1)

        def begin(self, request: GenerateRequest) -> None:
            asked.append(request)
            raise RequestError("no")

    with pytest.raises(LoadFailed, match="failed its probe: no"):
        asyncio.run(probe(Engine(), 5.0))  # type: ignore[arg-type]
    assert asked[0].fresh
