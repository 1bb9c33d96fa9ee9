"""The load's client, in a process of its own: python -m scripts.benchmarks.client PORT PATH < bodies.json"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from scripts.benchmarks.testbed import read_events


async def main(port: int, path: str) -> None:
    bodies = json.load(sys.stdin)
    began = time.perf_counter()
    results = await asyncio.gather(*(read_events(port, path, body) for body in bodies))
    seconds = time.perf_counter() - began
    events, tokens, first = zip(*results, strict=True)
    print(json.dumps({"seconds": seconds, "events": sum(events), "tokens": sum(tokens), "first": first}))


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
