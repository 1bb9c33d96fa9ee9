"""What benchmarks share: a state folder of their own, slots in it, and a lean client that counts events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl import backends
from llmctl.domain import EngineSpec, Limits, Probe, SlotSpec
from llmctl.models import fit
from llmctl.models.checkpoint import inspect
from llmctl.slots import verbs
from llmctl.slots.probe import LEAST_TOKENS
from llmctl.slots.state import Launch

REPO = Path(__file__).parents[2]
UP = 300.0
"""Seconds that another server may take to start."""


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """A fresh state folder as LLMCTL_HOME; every slot in it is stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="llm-"))
    os.environ["LLMCTL_HOME"] = str(folder)
    try:
        yield folder
    finally:
        for slot in verbs.status(folder):
            verbs.stop(folder, slot.port)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(name: str, argv: Sequence[str], port: int, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """A server of others, by its pid: from when it answers /health in any way to the end of its process group."""
    child = subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    try:
        end = time.monotonic() + UP
        while not _answers(port):
            if child.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{name} did not start: {' '.join(argv)}")
            time.sleep(0.1)
        yield child.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def launch() -> Launch:
    return Launch(limits=Limits(queue=1000), backend=backends.detect())


def scripted(folder: Path, model: str, *, parallel: int = 64, **play: Any) -> SlotSpec:
    """A scripted model's spec."""
    path = folder / f"{model}.json"
    path.write_text(json.dumps(play))
    engine = EngineSpec("scripted", model, str(path), "script", context=100_000, parallel=parallel)
    return SlotSpec(engine, needed_bytes=1_000_000)


def real(engine: str, model: str, path: Path, *, context: int = 1024, parallel: int = 8) -> SlotSpec:
    """A real checkpoint's spec, with a probe so short that random weights pass it: they soon repeat one token."""
    found = inspect(path)
    spec = EngineSpec(engine, model, str(path), found.format, context=context, parallel=parallel)
    needed = fit.estimate(found, context, parallel, engine).total
    return SlotSpec(spec, needed_bytes=needed, probe=Probe(max_tokens=LEAST_TOKENS))


def tiny(*arguments: str) -> dict[str, Path]:
    """Model paths from scripts/tiny-models."""
    return made("tiny-models", *arguments)


def made(script: str, *arguments: str) -> dict[str, Path]:
    """Model paths from a script that makes them, once."""
    done = subprocess.run(
        [REPO / "scripts" / script, *arguments], stdout=subprocess.PIPE, check=True,
        env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    return {name: Path(path) for name, path in json.loads(done.stdout).items()}


@dataclass(frozen=True)
class Load:
    """What a client load saw: seconds in all, `data:` events, tokens by the servers' own count, first-token times."""

    seconds: float
    events: int
    tokens: int
    first: tuple[float, ...]


def stream(port: int, bodies: Sequence[dict[str, Any]], path: str = "/v1/completions") -> Load:
    """Run all `bodies` as concurrent streaming requests in a process of its own, and count."""
    argv = [sys.executable, "-m", "scripts.benchmarks.client", str(port), path]
    done = subprocess.run(argv, input=json.dumps(list(bodies)), text=True, stdout=subprocess.PIPE, check=True, cwd=REPO)
    found = json.loads(done.stdout)
    return Load(found["seconds"], found["events"], found["tokens"], tuple(found["first"]))


def cpu_seconds(pid: int) -> float:
    """Of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def seconds(argv: Sequence[str]) -> float:
    """Wall time of a command."""
    began = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, cwd=REPO)
    return time.perf_counter() - began


async def read_events(port: int, path: str, body: dict[str, Any]) -> tuple[int, int, float]:
    """One streaming request on a raw socket: events, tokens, seconds to the first event."""
    data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    began = time.perf_counter()
    writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data)
    events, first, tail = 0, 0.0, b""
    while chunk := await reader.read(2**18):
        found = chunk.count(b"data: ")
        if found and not events:
            first = time.perf_counter() - began
        events += found
        tail = (tail + chunk)[-4000:]
    writer.close()
    at = tail.rfind(b'"completion_tokens":')
    if at < 0:
        raise RuntimeError(f"no usage in the answer: {tail[-500:]!r}")
    return events, int(tail[at + 20 :].split(b",")[0].split(b"}")[0]), first
