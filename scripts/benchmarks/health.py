"""What a health run over the fleet costs: 20 ssh hosts, each with two slots that generate."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.benchmarks.fleet import HOSTS, configure, timed
from scripts.benchmarks.report import Row, row
from tests.testbed.machines import light_hosts
from tests.units.conftest import Host, install

RUNS = 5
PORTS = (8101, 8102)


def measure() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="llm-") as made, light_hosts(HOSTS) as testbed:
        folder = Path(made)
        configure(folder, testbed)
        for machine in testbed.machines:
            install(machine, "none")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_load, [Host(machine) for machine in testbed.machines]))
        health = [sys.executable, "-m", "llmctl", "--json", "health"]
        timed(testbed, folder, health, ok=(0, 3))  # hosts compile their Python files once
        runs = [timed(testbed, folder, health, ok=(0, 3)) for _ in range(RUNS)]
    cores, fleet = os.cpu_count() or 1, f"{HOSTS} hosts × {len(PORTS)} slots"
    how = "wall time of the process; ssh hosts in namespaces of this machine, scripted slots, nothing kept open"
    yield row(
        f"`llmctl health` of {fleet} ÷ (CPU seconds of the whole machine meanwhile ÷ {cores})",
        [wall / (busy / cores) for wall, busy in runs], "≤ 1.3",
        f"{how}; clients, hosts and engines share the cores, so that no program can be faster than the bound",
    )  # fmt: skip
    yield row(f"`llmctl health` of {fleet}, seconds", [wall for wall, _ in runs], "", how)


def _load(host: Host) -> None:
    host.model("alpha")
    host.machine.sh("chown -R op: /home/op")
    for port in PORTS:
        host.llmctl(f"load {port} alpha")
