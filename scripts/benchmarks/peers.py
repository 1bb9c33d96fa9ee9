"""Our runner beside each library's own server on the 0.5B model, over HTTP: throughput, first tokens, memory, start.

Both are up all the time and asked in turn by the same client; no prompt is ever asked twice.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.slots import verbs
from scripts.benchmarks import llama_cpp, peer_servers, testbed
from scripts.benchmarks.peer_servers import Peer, Server
from scripts.benchmarks.report import Row, row
from scripts.benchmarks.words import prompt

GOAL = "≥ 0.97"


@dataclass(frozen=True)
class Point:
    """One load: how many streams at once, tokens of each prompt and answer, and how often it is measured."""

    streams: int
    prompt: int
    new: int
    runs: int

    def __str__(self) -> str:
        return f"{self.streams} × ({self.prompt} + {self.new})"


SHORT = (Point(1, 128, 64, 5), Point(8, 128, 64, 5), Point(16, 128, 64, 5), Point(64, 128, 16, 3))
LONG = (Point(1, 2000, 16, 5), Point(8, 2000, 8, 3))
SMALL = (Point(1, 16, 8, 5), Point(8, 16, 4, 5))  # mlx on a CPU: a token or two a second

_numbers = itertools.count(1)


def torch() -> Iterator[Row]:
    paths = testbed.tiny("--random-05b")
    yield from beside("torch", paths["random-0.5b"], peer_servers.transformers_serve, (*SHORT, *LONG))


def mlx() -> Iterator[Row]:
    paths = testbed.tiny("--random-05b")
    yield from beside("mlx", paths["random-0.5b"], peer_servers.mlx_server, SMALL)


def llamacpp() -> Iterator[Row]:
    """The wheel's library on both sides."""
    paths = testbed.tiny("--random-05b")
    yield from beside("llamacpp", paths["random-0.5b-gguf"], peer_servers.xllamacpp_server, SHORT[:3])


def native() -> Iterator[Row]:
    """The library that was built for this CPU, and a llama-server from the same source."""
    paths = testbed.tiny("--random-05b")
    yield from beside("llamacpp", paths["random-0.5b-gguf"], peer_servers.llama_server, (*SHORT, *LONG), native=True)


def openvino() -> Iterator[Row]:
    paths = testbed.tiny("--random-05b")
    yield from beside("openvino", paths["random-0.5b-gguf"], peer_servers.openvino_pipeline, (*SHORT, *LONG), GOAL_8_16)


GOAL_8_16 = "≥ 0.95"


def beside(
    engine: str, path: Path, peer: Peer, points: Sequence[Point], goal: str = GOAL, *, native: bool = False
) -> Iterator[Row]:
    """The rows of one engine."""
    checkpoint = testbed.tiny("--random-05b")["random-0.5b"]
    for streams, group in itertools.groupby(points, key=lambda p: 8 if p.streams <= 8 else p.streams):
        group = list(group)
        context = max(256, *((p.prompt + p.new) * 9 // 8 for p in group))  # a probe wants its place
        with _ours(engine, path, context, streams, native) as ours, peer(path, context, streams) as theirs:
            name = f"{engine}{' native' if native else ''} ÷ {theirs.name}"
            if streams == 8:
                yield row(f"{name}: command to first token", [ours.start / theirs.start], "", "one start each")
            for point in group:
                yield from _point(name, point, ours, theirs, checkpoint, goal)
            yield row(
                f"{name}: memory after {streams} streams", [ours.resident() / theirs.resident()], "",
                "resident bytes of all processes; a mapped file counts where it was read",
            )  # fmt: skip


def _point(name: str, point: Point, ours: Server, theirs: Server, checkpoint: Path, goal: str) -> Iterator[Row]:
    loads: list[tuple[testbed.Load, testbed.Load]] = []
    for server in (ours, theirs):
        _load(server, Point(point.streams, point.prompt, 2, 1), checkpoint)  # warms it up
    for run in range(point.runs):
        pair = [_load(s, point, checkpoint) for s in ((ours, theirs) if run % 2 == 0 else (theirs, ours))]
        loads.append((pair[0], pair[1]) if run % 2 == 0 else (pair[1], pair[0]))
    rates = [(a.tokens / a.seconds) / (b.tokens / b.seconds) for a, b in loads]
    here = statistics.median(a.tokens / a.seconds for a, _ in loads)
    how = f"{here:.1f} tokens/s here, prompts included; greedy, the same client on both, in turn"
    yield row(f"{name}, {point}: tokens/s", rates, goal, how)
    for share in (50, 95):
        firsts = [_part(a.first, share) / _part(b.first, share) for a, b in loads]
        seconds = statistics.median(_part(a.first, share) for a, _ in loads)
        yield row(f"{name}, {point}: first token p{share}", firsts, "", f"{seconds:.2f} s here")


def _load(server: Server, point: Point, checkpoint: Path) -> testbed.Load:
    bodies: list[dict[str, Any]] = [
        {
            "prompt": prompt(checkpoint, point.prompt, next(_numbers)),
            "max_tokens": point.new, "temperature": 0, "model": server.model,
        }
        for _ in range(point.streams)
    ]  # fmt: skip
    load = server.ask(bodies)
    assert load.tokens > 0.9 * point.streams * point.new, (server.name, point, load)
    return load


def _part(values: Sequence[float], share: int) -> float:
    """The percentile of a few values, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share / 100 * (len(ordered) - 1)))]


@contextlib.contextmanager
def _ours(engine: str, path: Path, context: int, streams: int, native: bool) -> Iterator[Server]:
    with testbed.home() as home:
        if native:
            llama_cpp.give(home)
        port = testbed.free_port()
        spec = testbed.real(engine, "random", path, parallel=streams, context=context)
        began = time.perf_counter()
        verbs.change(home, port, "load", spec, launch=testbed.launch())
        testbed.stream(port, [{"prompt": "go", "max_tokens": 1}])
        seconds = time.perf_counter() - began
        pids = verbs.status(home)[0]
        yield Server("llmctl", port, "random", seconds, (pids.pid, pids.runner_pid))
