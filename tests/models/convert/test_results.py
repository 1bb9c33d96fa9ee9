"""What is made of every architecture answers right on the engine of its format."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmctl.models import manifest as manifests
from llmctl.models import store
from llmctl.models.checkpoint import inspect
from tests.conftest import REPO
from tests.models.convert.asking import ANSWER
from tests.models.convert.conftest import converted

pytestmark = [pytest.mark.models, pytest.mark.slow]

FAMILIES = [
    "tiny-llama", "tiny-qwen2", "tiny-mistral", "tiny-phi", "tiny-phi3", "tiny-qwen3", "tiny-gemma3", "tiny-llama-spm",
]  # fmt: skip
EVERY = {"mlx": ("4bit",), "gguf": ("q4_k_m",), "torch": ("int8",)}
MORE = {
    "mlx": ("3bit-g32", "5bit", "6bit", "8bit-g128", "mxfp4", "nvfp4", "mxfp8", "mixed-3-6", "mixed-4-6", "fp16"),
    "gguf": ("f16", "q8_0"),
    "torch": ("bf16", "fp16", "int4"),
}
FROM_GGUF = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q3_k_l", "q4_k_s", "q5_k_m", "q6_k")
ENGINES = {"mlx": "mlx", "gguf": "llamacpp", "torch": "torch"}
CASES = [(name, to, q) for to, all_of in EVERY.items() for name in FAMILIES for q in all_of]
CASES += [("tiny-qwen2", to, q) for to, all_of in MORE.items() for q in all_of]
CASES += [("tiny-qwen2-gguf", "gguf", q) for q in FROM_GGUF]

Case = tuple[str, str, str]


@pytest.fixture(scope="module")
def made(
    tiny_models: dict[str, Path], converters: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Case, Mapping[str, Any]]:
    """All of them, one conversion a core at a time."""
    folder = tmp_path_factory.mktemp("made")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        running: dict[Case, Future[Mapping[str, Any]]] = {
            case: pool.submit(converted, tiny_models[case[0]], *case[1:], folder / "-".join(case), converters)
            for case in CASES
        }
    return {case: future.result() for case, future in running.items()}


@pytest.fixture(scope="module")
def answers(made: dict[Case, Mapping[str, Any]]) -> dict[Case, str]:
    """What each says, asked in one process per engine."""
    found: dict[Case, str] = {}
    for to, engine in ENGINES.items():
        cases = [case for case in CASES if case[1] == to]
        paths = [str(store.content(Path(made[case]["path"]), made[case]["format"])) for case in cases]
        argv = [sys.executable, "-m", "tests.models.convert.asking", engine, *paths]
        done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        found |= dict(zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True))
    return found


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_it_answers_right(answers: dict[Case, str], case: Case) -> None:
    assert answers[case] == ANSWER


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_its_header_and_manifest_say_what_it_is(made: dict[Case, Mapping[str, Any]], case: Case) -> None:
    name, to, quantization = case
    folder = Path(made[case]["path"])
    kept, found = manifests.read(folder), inspect(folder)
    assert kept
    assert (kept.format, kept.quantization) == (found.format, quantization)
    if "int" not in quantization and not quantization.startswith("mixed"):
        assert quantization.startswith(found.quantization or {"bfloat16": "bf16", "float16": "fp16"}[found.dtype])
    assert {entry.path for entry in kept.files} | {manifests.NAME} == {path.name for path in folder.iterdir()}
    origin = kept.origin
    assert origin["by"] == "convert" and Path(origin["from"]["path"]).name in (name, "model.gguf")
    assert origin["parameters"] == {"to": to, "quantization": quantization, "pre": None}
    assert {"llmctl", "python"} < set(origin["tools"])
    assert 20e6 < origin["peak_bytes"] < 1e9 and origin["seconds"] > 0


def test_tiny_mixtures_of_two_bits_load(tiny_models: dict[str, Path], converters: Path, tmp_path: Path) -> None:
    """Too few bits for a model this small to know anything, so they are only loaded."""
    for to, quantization, engine in (("mlx", "mixed-2-6", "mlx"), ("gguf", "q2_k", "llamacpp")):
        result = converted(tiny_models["tiny-llama"], to, quantization, tmp_path, converters)
        path = str(store.content(Path(result["path"]), result["format"]))
        argv = [sys.executable, "-m", "tests.models.convert.asking", engine, path]
        assert subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=120).returncode == 0
