"""Tokens a second over HTTP against the same library without llmctl: 0.5B random weights, 1 and 8 streams."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from llmctl.slots import verbs
from scripts.benchmarks import testbed
from scripts.benchmarks.report import Row, row

RUNS, PROMPT, NEW = 5, 128, 64


def measure() -> Iterator[Row]:
    paths = testbed.tiny("--random-05b")
    yield from _llamacpp(paths["random-0.5b-gguf"])
    yield from _torch(paths["random-0.5b"])


def bodies(streams: int, run: int) -> list[dict[str, object]]:
    """Requests whose prompts share nothing, with each other or with another run's."""
    return [
        {
            "prompt": [(7919 * (run * 64 + s + 1) + 31 * i) % 30_000 + 300 for i in range(PROMPT)],
            "max_tokens": NEW, "temperature": 0,
        }
        for s in range(streams)
    ]  # fmt: skip


def rate(port: int, streams: int, run: int) -> float:
    load = testbed.stream(port, bodies(streams, run))
    assert load.tokens == streams * NEW, load
    return load.tokens / load.seconds


def _llamacpp(path: Path) -> Iterator[Row]:
    with _ours("llamacpp", path) as port, _child("llamacpp_server", str(path)) as (child, _):
        theirs = int(json.loads(child())["port"])
        for streams in (1, 8):
            rate(port, streams, 90), rate(theirs, streams, 91)
            ratios = [rate(port, streams, 2 * i) / rate(theirs, streams, 2 * i + 1) for i in range(RUNS)]
            yield row(
                f"llamacpp f16, {streams} streams: tokens/s ÷ xllamacpp's own HTTP server", ratios, "≥ 0.95",
                f"{PROMPT} prompt + {NEW} new tokens each, greedy, the same client on both",
            )  # fmt: skip


def _torch(path: Path) -> Iterator[Row]:
    with _ours("torch", path) as port, _child("transformers_loop", str(path)) as (read, write):
        for streams in (1, 8):

            def theirs(run: int, streams: int = streams) -> float:
                write(json.dumps({"prompts": [b["prompt"] for b in bodies(streams, run)], "new": NEW}))
                return float(json.loads(read())["rate"])

            rate(port, streams, 90), theirs(91)
            ratios = [rate(port, streams, 2 * i) / theirs(2 * i + 1) for i in range(RUNS)]
            yield row(
                f"torch bf16, {streams} streams: tokens/s over HTTP ÷ transformers' generate() in-process", ratios,
                "≥ 0.95", f"{PROMPT} prompt + {NEW} new tokens each, greedy; theirs as one static batch, without HTTP",
            )  # fmt: skip


@contextlib.contextmanager
def _ours(engine: str, path: Path) -> Iterator[int]:
    with testbed.home() as home:
        port = testbed.free_port()
        verbs.change(home, port, "load", testbed.real(engine, "random", path), launch=testbed.launch())
        yield port


@contextlib.contextmanager
def _child(module: str, *arguments: str) -> Iterator[tuple[object, object]]:
    """A peer in a process of its own, spoken to by lines: (read, write)."""
    argv = [sys.executable, "-m", f"scripts.benchmarks.{module}", *arguments]
    peer = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=testbed.REPO
    )
    assert peer.stdin and peer.stdout

    def write(line: str) -> None:
        print(line, file=peer.stdin, flush=True)

    def read() -> str:
        assert peer.stdout
        line = peer.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} ended: {peer.poll()}")
        return line

    try:
        yield read, write
    finally:
        peer.stdin.close()
        peer.kill()
        peer.wait()
        peer.stdout.close()
