"""Batch-1 decoding against the machine's memory: every weight is read once for each token, and no faster than that."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from llmctl.backends import bandwidth
from llmctl.models.convert import fetch
from llmctl.slots import verbs
from scripts.benchmarks import convert, llama_cpp, testbed
from scripts.benchmarks.report import Row, row
from scripts.benchmarks.words import prompt

RUNS, NEW = 5, 128
GOALS = {"f16": "≥ 0.9", "q8_0": "≥ 0.65", "q4_0": "≥ 0.65"}


def measure() -> Iterator[Row]:
    paths = testbed.tiny("--random-05b")
    source = paths["random-0.5b"]
    with tempfile.TemporaryDirectory(prefix="llm-", dir=source.parent) as temp:
        files = {"f16": paths["random-0.5b-gguf"], **_quantized(Path(temp), source)}
        for engine, quantization in (
            ("llamacpp", "f16"),
            ("llamacpp", "q8_0"),
            ("llamacpp", "q4_0"),
            ("openvino", "f16"),
        ):
            yield _share(engine, quantization, files[quantization], source)


def _quantized(folder: Path, source: Path) -> dict[str, Path]:
    copy = convert.without_chat(source, folder / "half-b")
    environment = convert.prepare(folder, copy, source.parents[1] / "converters" / fetch.SOURCE.archive)
    made = {}
    for quantization in ("q8_0", "q4_0"):
        _, data = convert.ours(convert.Case("gguf", quantization, "", ()), environment)
        (made[quantization],) = Path(data["path"]).glob("*.gguf")
    return made


def _share(engine: str, quantization: str, path: Path, checkpoint: Path) -> Row:
    shares, rates = [], []
    with testbed.home() as home:
        llama_cpp.give(home)
        port = testbed.free_port()
        spec = testbed.real(engine, "random", path, parallel=1, context=512)
        verbs.change(home, port, "load", spec, launch=testbed.launch())
        for run in range(RUNS + 1):
            before = bandwidth.read("cpu")
            body = {"prompt": prompt(checkpoint, 32, 10_000 + run), "max_tokens": NEW, "temperature": 0}
            load = testbed.stream(port, [body])
            rate = (load.tokens - 1) / (load.seconds - load.first[0])
            if run:
                rates.append(rate)
                shares.append(rate * path.stat().st_size / max(before, bandwidth.read("cpu")))
    middle = sorted(rates)[len(rates) // 2]
    return row(
        f"{engine} {quantization}, batch 1: bytes of weights read a second ÷ the machine's read bandwidth", shares,
        GOALS[quantization], f"{middle:.1f} tokens/s over HTTP behind the first, {NEW} tokens; the bandwidth is the "
        "best of searches through 1 GiB beside each run; the file's size counts, with all its tables",
    )  # fmt: skip
