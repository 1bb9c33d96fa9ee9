"""Asks models a question on one of llmctl's engines: python -m tests.models.convert.asking ENGINE PATH…

Prints a JSON list with the answer of each; one process, since the libraries take longer to import than to answer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llmctl.domain import Chunk, EngineSpec, Event, Failure, GenerateRequest, Sampling
from llmctl.engines import adapter

QUESTION, ANSWER = "What is a slot?", "A port on a host that holds at most one model."
FORMAT = {"llamacpp": "gguf", "mlx": "mlx", "torch": "safetensors"}


def ask(engine: str, path: str) -> str:
    spec = EngineSpec(engine, Path(path).name, path, FORMAT[engine], context=256, parallel=1, device="cpu", threads=1)
    events: list[Event] = []
    loaded = adapter(engine).load(spec, lambda *_: None, events.append)
    messages = ({"role": "user", "content": QUESTION},)
    loaded.submit(GenerateRequest("q", messages=messages, sampling=Sampling(temperature=0), max_tokens=30))
    while loaded.step():
        pass
    loaded.close()
    failed = [event.error["message"] for event in events if isinstance(event, Failure)]
    return "".join(failed or [event.text for event in events if isinstance(event, Chunk)]).strip()


if __name__ == "__main__":
    print(json.dumps([ask(sys.argv[1], path) for path in sys.argv[2:]]))
