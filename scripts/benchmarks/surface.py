"""64 clients at once: what the slot server adds before a first token; the same load on the libraries' own servers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llmctl.slots import verbs
from scripts.benchmarks import testbed
from scripts.benchmarks.peer_servers import serving
from scripts.benchmarks.report import Row, row

RUNS, PEER_RUNS, CLIENTS = 5, 3, 64
STEP, TOKENS, REQUESTS = 0.01, 100, 5  # of the scripted engine: seconds a step, tokens an answer, answers a client
QUESTION = {"messages": [{"role": "user", "content": "What is a slot?"}], "max_tokens": 24, "temperature": 0}
UP = 180.0


def measure() -> Iterator[Row]:
    yield _added()
    models = testbed.tiny("--gguf")
    yield from _beside("llamacpp", models["tiny-qwen2-gguf"], "xllamacpp's own server", _xllamacpp)
    yield from _beside("mlx", models["tiny-qwen2"], "mlx_lm.server", _mlx)
    yield from _beside("torch", models["tiny-qwen2"], "transformers serve --continuous-batching", _transformers)


def load(port: int, clients: int, requests: int, **body: Any) -> dict[str, Any]:
    """What `many` saw."""
    argv = [sys.executable, "-m", "scripts.benchmarks.many", str(port), str(clients), str(requests)]
    done = subprocess.run(
        argv, input=json.dumps({**QUESTION, **body}), text=True, stdout=subprocess.PIPE, check=True, cwd=testbed.REPO
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def _added() -> Row:
    """Of the slot server alone: the engine gives each request its first token after one step."""
    with testbed.home() as home:
        port = testbed.free_port()
        spec = testbed.scripted(home, "alpha", length=2 * TOKENS, step=STEP)
        verbs.change(home, port, "load", spec, launch=testbed.launch())
        added = []
        for _ in range(RUNS):
            alone = load(port, 1, 40, max_tokens=2)
            all_at_once = load(port, CLIENTS, REQUESTS, max_tokens=TOKENS)
            assert not alone["failed"] and not all_at_once["failed"], all_at_once
            added.append(1000 * (p99(all_at_once["first"]) - statistics.median(alone["first"])))
    return row(
        f"time to first token that {CLIENTS} streams add on the scripted engine, p99, ms", added, "≤ 50",
        f"p99 of {CLIENTS * REQUESTS} requests − the median of one client's; about {TOKENS} tokens each, a step of "
        f"{STEP * 1000:.0f} ms for all; client, server and engine share the cores",
    )  # fmt: skip


def _beside(
    engine: str, path: Path, peer: str, server: Callable[[Path, int], contextlib.AbstractContextManager[str]]
) -> Iterator[Row]:
    """Ours and the library's own server under the same 64 clients, in alternation: first tokens and throughput."""
    port = testbed.free_port()
    firsts, rates, failed = [], [], 0
    with testbed.home() as home, server(path, port) as model:
        ours = testbed.free_port()
        verbs.change(
            home, ours, "load", testbed.real(engine, "tiny", path, parallel=CLIENTS, context=256),
            launch=testbed.launch(),
        )  # fmt: skip
        for run in range(PEER_RUNS + 1):
            here = load(ours, CLIENTS, 2)
            there = load(port, CLIENTS, 2, model=model)
            assert not here["failed"], here
            failed += there["failed"]
            if not there["first"]:
                print(f"{peer} answered none of {2 * CLIENTS}: {there['why']}", file=sys.stderr)
                return
            if run:  # the first warms both up
                firsts.append(p99(here["first"]) / p99(there["first"]))
                share = len(there["first"]) / len(here["first"])
                rates.append(there["seconds"] / here["seconds"] / share)
    asked = 2 * CLIENTS * (PEER_RUNS + 1)
    how = f"{CLIENTS} clients, 2 chats each, tiny-qwen2, greedy; {failed} of {asked} failed there, none here"
    yield row(f"{engine}, {CLIENTS} streams: time to first token, p99, ÷ {peer}", firsts, "≤ 1.0", how)
    yield row(f"{engine}, {CLIENTS} streams: answers a second ÷ {peer}", rates, "≥ 1.0", how)


@contextlib.contextmanager
def _process(argv: Sequence[str | Path], port: int) -> Iterator[None]:
    """A peer's server, until it listens; its process group is ended with it."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    child = subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=environment
    )
    try:
        end = time.monotonic() + UP
        while time.monotonic() < end and child.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            time.sleep(0.2)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextlib.contextmanager
def _xllamacpp(path: Path, port: int) -> Iterator[str]:
    argv = [sys.executable, str(Path(__file__).with_name("llamacpp_server.py")), str(path), str(port), str(CLIENTS)]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout and child.stdin
    try:
        child.stdout.readline()
        yield "tiny"
    finally:
        child.stdin.close()
        child.wait()


@contextlib.contextmanager
def _mlx(path: Path, port: int) -> Iterator[str]:
    argv = [sys.executable, "-m", "mlx_lm", "server", "--model", str(path), "--port", str(port)]
    with _process([*argv, "--decode-concurrency", str(CLIENTS), "--prompt-concurrency", str(CLIENTS)], port):
        yield str(path)


@contextlib.contextmanager
def _transformers(path: Path, port: int) -> Iterator[str]:
    program = serving() / "transformers"
    argv = [program, "serve", str(path), "--port", str(port), "--continuous-batching", "--dtype", "float32"]
    argv += ["--cb-num-blocks", "512", "--cb-max-batch-tokens", "2048"]
    with _process(argv, port):
        yield str(path)
