"""Load an engine in this process, probe it twice, and generate one token: python -m scripts.benchmarks.bare_start
ENGINE PATH"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from llmctl.domain import Chunk, Event, GenerateRequest, Probe, Sampling
from scripts.benchmarks.testbed import real

engine_name, path = sys.argv[1], Path(sys.argv[2])
spec = real(engine_name, "alpha", path, parallel=1).engine
events: list[Event] = []
adapter = importlib.import_module(f"llmctl.engines.{engine_name}")
adapter.check(spec)
engine = adapter.load(spec, lambda *a: None, events.append)
probe = Probe()
for i, tokens in enumerate((probe.max_tokens, probe.max_tokens, 1)):
    request = GenerateRequest(
        str(i), messages=({"role": "user", "content": probe.prompt},), sampling=Sampling(temperature=0.0),
        max_tokens=tokens, logprobs=0, fresh=True,
    )  # fmt: skip
    engine.submit(request)
    while not any(isinstance(e, Chunk) and e.id == str(i) and e.usage for e in events):
        engine.step()
