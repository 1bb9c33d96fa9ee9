"""Prompts that begin alike: the second one's time to first token against the first one's, on every engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmctl.slots import verbs
from scripts.benchmarks import testbed
from scripts.benchmarks.report import Row, row
from scripts.benchmarks.words import prompt

RUNS, SHARED, OWN = 5, 1500, 16


def measure() -> Iterator[Row]:
    paths = testbed.tiny("--random-05b")
    checkpoint = paths["random-0.5b"]
    for engine, path in (
        ("llamacpp", paths["random-0.5b-gguf"]), ("openvino", paths["random-0.5b-gguf"]), ("torch", checkpoint),
    ):  # fmt: skip
        yield _engine(engine, path, checkpoint, SHARED, RUNS)
    yield _engine("mlx", testbed.tiny()["tiny-qwen2"], checkpoint, SHARED, RUNS)


def _engine(engine: str, path: Path, checkpoint: Path, shared: int, runs: int) -> Row:
    ratios = []
    with testbed.home() as home:
        port = testbed.free_port()
        spec = testbed.real(engine, "random", path, parallel=2, context=shared + 300)
        verbs.change(home, port, "load", spec, launch=testbed.launch())
        for run in range(runs):
            same = prompt(checkpoint, shared, 20_000 + run)
            firsts = [
                testbed.stream(port, [_body(same + prompt(checkpoint, OWN, 30_000 + 10 * run + i))]).first[0]
                for i in range(2)
            ]
            ratios.append(firsts[1] / firsts[0])
    return row(
        f"{engine}: time to first token of a prompt that shares {shared} tokens ÷ the first one's", ratios, "≤ 0.15",
        f"{OWN} tokens of its own; the same slot, one after the other" + ("; a tiny model" if engine == "mlx" else ""),
    )  # fmt: skip


def _body(text: str) -> dict[str, object]:
    return {"prompt": text, "max_tokens": 2, "temperature": 0}
