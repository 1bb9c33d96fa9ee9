"""The libraries' own servers, each started as its makers tell, until they answer; ended with their process group."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.processes import memory_bytes
from scripts.benchmarks import llama_cpp, testbed

SERVING = ("transformers[serving]==5.23.0", "torch==2.13.0")
BLOCK = 256  # tokens of a page of transformers' continuous batching


@dataclass(frozen=True)
class Server:
    """One that answers: its name in the table, its port, what a request calls its model, its seconds from command to
    first token, its processes. One without HTTP is asked through `call`."""

    name: str
    port: int
    model: str
    start: float
    pids: tuple[int | None, ...]
    call: Callable[[Sequence[dict[str, Any]]], testbed.Load] | None = None

    def ask(self, bodies: Sequence[dict[str, Any]]) -> testbed.Load:
        """All at once."""
        return self.call(bodies) if self.call else testbed.stream(self.port, bodies)

    def resident(self) -> int:
        return sum(memory_bytes(pid) for pid in self.pids if pid)


Peer = Callable[[Path, int, int], AbstractContextManager[Server]]
"""(file or folder, tokens of context for each stream, streams)"""


@contextlib.contextmanager
def transformers_serve(path: Path, context: int, streams: int) -> Iterator[Server]:
    blocks = streams * (context // BLOCK + 2)
    argv = [str(serving() / "transformers"), "serve", str(path), "--continuous-batching", "--dtype", "bfloat16"]
    argv += ["--cb-num-blocks", str(max(blocks, 16)), "--cb-block-size", str(BLOCK), "--cb-max-batch-tokens", "1024"]
    with _started("transformers serve", argv, str(path)) as server:
        yield server


@contextlib.contextmanager
def mlx_server(path: Path, context: int, streams: int) -> Iterator[Server]:
    argv = [sys.executable, "-m", "mlx_lm", "server", "--model", str(path)]
    argv += ["--decode-concurrency", str(streams), "--prompt-concurrency", str(streams)]
    with _started("mlx_lm.server", argv, str(path)) as server:
        yield server


@contextlib.contextmanager
def llama_server(path: Path, context: int, streams: int) -> Iterator[Server]:
    """llama.cpp's own server, built for this CPU from the source of the wheel."""
    argv = [str(llama_cpp.built() / "llama-server"), "-m", str(path), "-c", str(context * streams), "-np", str(streams)]
    argv += ["-t", str(os.cpu_count() or 2), "--no-webui", "--no-cache-prompt"]
    with _started("llama-server", argv, "random") as server:
        yield server


@contextlib.contextmanager
def xllamacpp_server(path: Path, context: int, streams: int) -> Iterator[Server]:
    port = testbed.free_port()
    argv = [sys.executable, "-m", "scripts.benchmarks.llamacpp_server", str(path), str(port), str(streams)]
    with _child(argv, port, context * streams) as (child, began):
        assert child.stdout
        child.stdout.readline()
        yield Server("xllamacpp's server", port, "random", _first(port, "random", began), (child.pid,))


@contextlib.contextmanager
def openvino_pipeline(path: Path, context: int, streams: int) -> Iterator[Server]:
    """OpenVINO's batching pipeline in its own process, without HTTP: it is handed text and counts tokens."""
    argv = [sys.executable, "-m", "scripts.benchmarks.openvino_loop", str(path), str(streams)]
    with _child(argv, 0, context * streams) as (child, began):
        assert child.stdin and child.stdout

        def call(bodies: Sequence[dict[str, Any]]) -> testbed.Load:
            print(json.dumps(list(bodies)), file=child.stdin, flush=True)
            found = json.loads(child.stdout.readline())  # type: ignore[union-attr]
            return testbed.Load(found["seconds"], 0, found["tokens"], tuple(found["first"]))

        call([{"prompt": "go", "max_tokens": 1}])
        yield Server("OpenVINO's pipeline in-process", 0, "random", time.perf_counter() - began, (child.pid,), call)


@contextlib.contextmanager
def _started(name: str, argv: Sequence[str], model: str) -> Iterator[Server]:
    """A server with --port, up when it has answered one token."""
    port = testbed.free_port()
    began = time.perf_counter()
    with testbed.serving(name, [*argv, "--port", str(port)], port, {"HF_HUB_OFFLINE": "1"}) as pid:
        yield Server(name, port, model, _first(port, model, began), (pid,))


@contextlib.contextmanager
def _child(argv: Sequence[str], port: int, context: int) -> Iterator[tuple[subprocess.Popen[str], float]]:
    """A process that ends with its standard input."""
    began = time.perf_counter()
    child = subprocess.Popen(
        [*argv, str(context)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        cwd=testbed.REPO,
    )  # fmt: skip
    try:
        yield child, began
    finally:
        assert child.stdin and child.stdout
        child.stdin.close()
        child.wait()
        child.stdout.close()


def _first(port: int, model: str, began: float) -> float:
    """Seconds from the command to the first token."""
    testbed.stream(port, [{"prompt": "go", "max_tokens": 1, "model": model}])
    return time.perf_counter() - began


def serving() -> Path:
    """transformers' server, in an environment of its own that is made once."""
    folder = Path.home() / ".cache" / "llmctl-bench" / "serving"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", *SERVING], check=True)
        (folder / "installed").touch()
    return folder / "bin"
