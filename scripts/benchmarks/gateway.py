"""What a hop through the gateway costs, beside nginx's proxy_pass and the LiteLLM proxy, over a fake slot.

All on two cores of this machine and on loopback, the clients and the fake slot too; what is compared runs in turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.gateway import life, registry
from llmctl.gateway.registry import Handle, Registry, Replica
from llmctl.processes import memory_bytes
from llmctl.slots import control
from llmctl.slots.state import SlotFolder
from scripts.benchmarks import gateway_litellm, gateway_nginx, gateway_wrk, testbed
from scripts.benchmarks.gateway_paced import KEY
from scripts.benchmarks.gateway_streams import WARM
from scripts.benchmarks.report import Row, row

CONNECTIONS, RATE = 16, 200.0
PAIRS, WINDOW = 5, 6.0
SLOW_RATE = 10.0
"""Requests a second that the LiteLLM proxy answers without a queue."""
LOADS, LOADED = 5, 4.0
STREAMS, FLOWS, FLOWING = 64, 5, 3.0
OPEN, HELD = 1000, 5.0
ASKED = 200_000
BODY = {
    "model": "fast", "max_tokens": 64, "temperature": 0,
    "messages": [
        {"role": "system", "content": "You answer in one sentence, in plain words, and you say so if you do not know."},
        {"role": "user", "content": "What is a slot, and why does a fleet of machines have more than one of them?"},
    ],
}  # fmt: skip
FAST, CHUNKS, PACED, SLOW = "fast", "chunks", "paced", "slow"
PACES = {CHUNKS: 0.0, PACED: 50.0, SLOW: 1.0}
"""Events a second on each stream of a handle; 0: as fast as they are taken."""
CLIENT = "client, proxies and fake slot share two cores"


@dataclass(frozen=True)
class Ports:
    """Where each handle is asked directly, and through nginx; the gateway's port, and the pid of its process."""

    direct: Mapping[str, int]
    nginx: Mapping[str, int]
    gateway: int
    pid: int


def measure() -> Iterator[Row]:
    gateway_nginx.tools()
    with _on_two_cores(), _running() as (folder, ports):
        yield from _memory(ports)
        yield from _latency(ports)
        yield from _streaming(ports)
        yield _leak(folder, ports)
        alone = Registry({FAST: _handle(FAST, ports.direct[FAST])}, FAST)
        with gateway_litellm.running(folder, alone, KEY) as litellm:
            yield from _full_load(folder, ports, litellm)


@contextlib.contextmanager
def _on_two_cores() -> Iterator[None]:
    """For what is started meanwhile too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:2])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _running() -> Iterator[tuple[Path, Ports]]:
    direct = {name: testbed.free_port() for name in (FAST, *PACES)}
    nginx = {name: testbed.free_port() for name in (FAST, CHUNKS)}
    with testbed.home() as home, contextlib.ExitStack() as stack:
        stack.enter_context(gateway_nginx.answering(home / "fast", direct[FAST]))
        for name, pace in PACES.items():
            serve = [sys.executable, "-m", "scripts.benchmarks.gateway_streams", "serve", str(direct[name]), str(pace)]
            stack.enter_context(testbed.serving(name, serve, direct[name]))
        stack.enter_context(gateway_nginx.passing(home / "proxy", {nginx[name]: direct[name] for name in nginx}))
        registry.write(home, Registry({name: _handle(name, port) for name, port in direct.items()}, FAST))
        port = testbed.free_port()
        life.up(home, port, testbed.launch())
        pid = control.call(SlotFolder(home, port).control, "ping", timeout=30)["pid"]
        yield home, Ports(direct, nginx, port, pid)


def _handle(name: str, port: int) -> Handle:
    return Handle(name, (Replica("here", port, name, "scripted", f"127.0.0.1:{port}"),))


def _client(module: str, *arguments: Any, said: str = "") -> Any:
    """What a client that is a process of its own prints."""
    argv = [sys.executable, "-m", f"scripts.benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(argv, input=said, text=True, stdout=subprocess.PIPE, check=True, cwd=testbed.REPO)
    return json.loads(done.stdout)


# ── latency ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _latency(ports: Ports) -> Iterator[Row]:
    ways = {"gateway": ports.gateway, "nginx proxy_pass": ports.nginx[FAST]}
    added: dict[tuple[str, int], list[float]] = {}
    for port in (ports.direct[FAST], *ways.values()):
        _paced(port, RATE, 1.0)
    for _ in range(PAIRS):
        bare = _paced(ports.direct[FAST], RATE, WINDOW)
        for name, port in ways.items():
            seen = _paced(port, RATE, WINDOW)
            for percent in (50, 99):
                more = _percentile(seen, percent) - _percentile(bare, percent)
                added.setdefault((name, percent), []).append(more)
    how = (
        f"{RATE:g} requests/s over {CONNECTIONS} connections, {WINDOW:g} s each, less the same client's percentile "
        "without it just before; requests are due at fixed times, and a latency is from then, whenever it was sent"
    )
    goals = {("gateway", 50): "≤ 3", ("gateway", 99): "≤ 10"}
    for (name, percent), values in added.items():
        yield row(f"{name}, added latency p{percent}, ms", values, goals.get((name, percent), ""), how)


def _paced(port: int, rate: float, seconds: float) -> list[float]:
    """Latencies in ms."""
    found: list[float] = _client("gateway_paced", port, rate, seconds, CONNECTIONS, said=json.dumps(BODY))
    return found


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


# ── full load ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _full_load(folder: Path, ports: Ports, litellm: int) -> Iterator[Row]:
    ways = (ports.gateway, litellm, ports.nginx[FAST])
    for port in ways:
        _asked(folder, port, 1.0)
    runs = [[_asked(folder, port, LOADED) / LOADED for port in ways] for _ in range(LOADS)]
    ours, theirs, limit = (list(seen) for seen in zip(*runs, strict=True))
    how = f"wrk with {CONNECTIONS} connections, {LOADED:g} s each in turns; {CLIENT}"
    yield row("gateway, requests/s at full load", ours, "≥ 2000", how)
    yield row("LiteLLM proxy, requests/s at full load", theirs, "", how)
    for name, others in (("LiteLLM proxy", theirs), ("nginx proxy_pass", limit)):
        ratios = [one / other for one, other in zip(ours, others, strict=True)]
        yield row(f"gateway ÷ {name}, requests/s at full load", ratios, "", how)
    bare, through = _paced(ports.direct[FAST], SLOW_RATE, WINDOW), _paced(litellm, SLOW_RATE, WINDOW)
    yield row(
        "LiteLLM proxy, added latency p50, ms", [_percentile(through, 50) - _percentile(bare, 50)], "",
        f"as the gateway's, at {SLOW_RATE:g} requests/s",
    )  # fmt: skip


def _asked(folder: Path, port: int, seconds: float) -> int:
    return gateway_wrk.asked(folder / "post.lua", port, json.dumps(BODY), seconds, CONNECTIONS)


def _leak(folder: Path, ports: Ports) -> Row:
    done, half = 0, 0
    while done < ASKED:
        done += _asked(folder, ports.gateway, LOADED)
        if not half and done >= ASKED // 2:
            half = memory_bytes(ports.pid)
    return row(
        f"gateway, MB that the second half of {ASKED:,} requests adds", [(memory_bytes(ports.pid) - half) / 1e6], "≤ 1",
        "resident at the end less in the middle, after the latencies and the streams",
    )  # fmt: skip


# ── streams ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _streaming(ports: Ports) -> Iterator[Row]:
    ratios, rates = [], []
    for _ in range(FLOWS):
        limit = _flow(ports.nginx[CHUNKS], CHUNKS)
        rates.append(_flow(ports.gateway, CHUNKS))
        ratios.append(rates[-1] / limit)
    how = (
        f"{STREAMS} streams, {FLOWING:g} s each in turns; the fake slot writes each event by itself, as fast as they "
        f"are taken; {CLIENT}"
    )
    yield row("gateway ÷ nginx proxy_pass, streamed chunks/s", ratios, "≥ 0.9", how)
    yield row("gateway, streamed chunks/s", rates, "", how)
    before = testbed.cpu_seconds(ports.pid)
    events = _flow(ports.gateway, PACED) * (WARM + FLOWING)
    each = 1e6 * (testbed.cpu_seconds(ports.pid) - before) / events
    how = f"{STREAMS} streams of {PACES[PACED]:g} events/s"
    yield row("gateway, CPU µs for a streamed chunk that comes alone", [each], "", how)


def _flow(port: int, handle: str) -> float:
    """Events a second."""
    found = _client("gateway_streams", "count", port, handle, STREAMS, FLOWING)
    if found["streams"] != STREAMS:
        raise RuntimeError(f"{found['streams']} of {STREAMS} streams had events")
    rate: float = found["rate"]
    return rate


def _memory(ports: Ports) -> Iterator[Row]:
    _paced(ports.gateway, RATE, 1.0)
    idle = memory_bytes(ports.pid)
    argv = [sys.executable, "-m", "scripts.benchmarks.gateway_streams", "count", str(ports.gateway), SLOW, str(OPEN)]
    with subprocess.Popen([*argv, str(HELD)], stdout=subprocess.PIPE, cwd=testbed.REPO) as client:
        time.sleep(HELD)  # they begin within a second, and end HELD seconds after that
        held = memory_bytes(ports.pid)
        said, _ = client.communicate()
    if json.loads(said)["streams"] != OPEN:
        raise RuntimeError(f"not all streams had events: {said!r}")
    yield row("gateway, MB resident before any load", [idle / 1e6], "≤ 60", f"after {RATE:g} requests")
    yield row(f"gateway, MB more with {OPEN:,} open streams", [(held - idle) / 1e6], "", "each has an event a second")
