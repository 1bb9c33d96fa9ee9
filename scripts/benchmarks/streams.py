"""How many chunks a second the slot server carries over HTTP: 64 streams of the scripted engine."""

from __future__ import annotations

from collections.abc import Iterator

from llmctl.slots import verbs
from scripts.benchmarks import testbed
from scripts.benchmarks.report import Row, row

RUNS, STREAMS, TOKENS = 7, 64, 3000


def measure() -> Iterator[Row]:
    with testbed.home() as home:
        port = testbed.free_port()
        spec = testbed.scripted(home, "alpha", length=TOKENS, context=TOKENS * 2)
        verbs.change(home, port, "load", spec, launch=testbed.launch())
        bodies = [{"prompt": "go", "max_tokens": TOKENS}] * STREAMS
        rates = []
        for _ in range(RUNS):
            load = testbed.stream(port, bodies)
            assert load.tokens == STREAMS * TOKENS, load
            rates.append(load.events / load.seconds)
        yield row(
            f"{STREAMS} scripted streams, chunks a second", rates, "≥ 20000",
            f"{TOKENS} one-token chunks each, as server-sent events; client, server and engine share the cores",
        )  # fmt: skip
