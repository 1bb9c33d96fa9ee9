"""What a JSON schema's mask costs: tokens a second with it against without, in turns, 0.5B random weights."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from llmctl.domain import JSON_SCHEMA, Chunk, Engine, EngineSpec, Event, Format, GenerateRequest, Sampling
from scripts.benchmarks import testbed
from scripts.benchmarks.report import Row, row

RUNS, PROMPT, NEW = 5, 32, 48
SCHEMA = {
    "type": "array",
    "minItems": 10_000,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array"}},
        "required": ["name", "age", "tags"],
    },
}
"""One that no answer of the benchmark comes to the end of."""


def measure() -> Iterator[Row]:
    paths = testbed.tiny("--random-05b")
    for engine, path in (("llamacpp", paths["random-0.5b-gguf"]), ("torch", paths["random-0.5b"])):
        yield from _measure(engine, path)


def _measure(name: str, path: Path) -> Iterator[Row]:
    events: list[Event] = []
    format = "gguf" if name == "llamacpp" else "safetensors"
    spec = EngineSpec(name, "random", str(path), format, context=1024, parallel=8, device="cpu")
    engine: Engine = importlib.import_module(f"llmctl.engines.{name}").load(spec, lambda *_: None, events.append)
    for streams in (1, 8):
        for masked in (True, False):  # the first mask also makes the vocabulary known to llguidance
            _rate(engine, events, streams, masked)
        ratios = [
            _rate(engine, events, streams, True) / _rate(engine, events, streams, False) for _ in range(RUNS)
        ]  # fmt: skip
        yield row(
            f"{name}, {streams} streams: tokens/s with a JSON schema ÷ without", ratios, "≥ 0.9",
            f"{NEW} new tokens each, greedy, in turns, in-process",
        )  # fmt: skip
    engine.close()


def _rate(engine: Engine, events: list[Event], streams: int, masked: bool) -> float:
    """Tokens a second from the first token to the last."""
    events.clear()
    mask = Format(JSON_SCHEMA, json.dumps(SCHEMA)) if masked else None
    for i in range(streams):
        prompt = tuple((7919 * (i + 1) + 31 * k) % 30_000 + 300 for k in range(PROMPT))
        engine.submit(
            GenerateRequest(
                f"{i}", prompt=prompt, format=mask, max_tokens=NEW, ignore_eos=True, sampling=Sampling(temperature=0)
            )
        )
    begun = None
    while engine.step():
        if begun is None and sum(isinstance(e, Chunk) for e in events) >= streams:
            begun, before = time.perf_counter(), _tokens(events)
    assert begun is not None and _tokens(events) == streams * NEW, events[-1]
    return (_tokens(events) - before) / (time.perf_counter() - begun)


def _tokens(events: list[Event]) -> int:
    return sum(e.tokens for e in events if isinstance(e, Chunk))
