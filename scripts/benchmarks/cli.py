"""`llmctl status --json` against the import of Typer, and the slot server's memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from llmctl.processes import memory_bytes
from llmctl.slots import verbs
from scripts.benchmarks import testbed
from scripts.benchmarks.report import Row, row

RUNS = 21


def measure() -> Iterator[Row]:
    with testbed.home() as home:
        spec = testbed.scripted(home, "alpha")
        ports = [testbed.free_port() for _ in range(2)]
        verbs.change(home, ports[0], "load", spec, launch=testbed.launch())
        verbs.ensure_server(home, ports[1], testbed.launch())
        status = [sys.executable, "-m", "llmctl", "status", "--json"]
        bare = [sys.executable, "-c", "import typer"]
        ratios = [testbed.seconds(status) / testbed.seconds(bare) for _ in range(RUNS)]
        yield row(
            "`llmctl status --json`, one host with two slots ÷ `python -c 'import typer'`", ratios, "≤ 2.0",
            "wall time of the whole process, pairs run one after the other",
        )  # fmt: skip
        empty = verbs.status(home, [ports[1]])[0].runner_pid
        yield row(
            "slot server without an engine, MB resident", [memory_bytes(empty or 0) / 1e6], "≤ 40",
            "VmRSS of a slot server that has answered its control socket",
        )  # fmt: skip
