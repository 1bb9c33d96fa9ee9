"""`llmctl convert` against each library called bare, and the memory that each converter takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmctl.jobs.context import Silent
from llmctl.models.convert import fetch
from scripts.benchmarks import testbed
from scripts.benchmarks.report import Row, row

PAIRS = 3
GB = 10**9
BARE_CAST = (
    "import sys; from safetensors.torch import load_file, save_file\n"
    "w = load_file(sys.argv[1] + '/model.safetensors')\n"
    "save_file({k: v.half() for k, v in w.items()}, sys.argv[2] + '/model.safetensors', metadata={'format': 'pt'})"
)
BARE_INT8 = (
    "import sys; from transformers import AutoModelForCausalLM, TorchAoConfig\n"
    "from torchao.quantization import Int8WeightOnlyConfig\n"
    "q = TorchAoConfig(Int8WeightOnlyConfig(version=2))\n"
    "m = AutoModelForCausalLM.from_pretrained(sys.argv[1], quantization_config=q, dtype='auto')\n"
    "m.save_pretrained(sys.argv[2])"
)


class Case(NamedTuple):
    to: str
    quantization: str
    library: str
    bare: Sequence[str]


def measure() -> Iterator[Row]:
    source = testbed.tiny("--random-05b")["random-0.5b"]
    most = 2 * max(path.stat().st_size for path in source.glob("*.safetensors")) + GB
    with tempfile.TemporaryDirectory(prefix="llm-", dir=source.parent) as temp:
        folder = Path(temp)
        copy = without_chat(source, folder / "half-b")
        environment = prepare(folder, copy, source.parents[1] / "converters" / fetch.SOURCE.archive)
        for case in _cases(copy, folder / "bare"):
            ratios, peaks = [], []
            for _ in range(PAIRS):
                took, result = ours(case, environment)
                ratios.append(took / _bare(case, folder / "bare", environment))
                peaks.append(result["peak_bytes"] / most)
            name = f"convert a 0.5B model to {case.to} {case.quantization}"
            yield row(
                f"{name}: seconds ÷ {case.library}", ratios, "≤ 1.1",
                "`llmctl convert --no-gate --force`, with its job, checks, hashes and fsync; pairs run alternately",
            )  # fmt: skip
            yield row(
                f"{name}: peak memory ÷ (2 × the largest shard + 1 GB)", peaks, "≤ 1.0",
                "VmHWM of the largest of the converter's processes; a file that is mapped counts where it was read",
            )  # fmt: skip


def _cases(source: Path, out: Path) -> list[Case]:
    python, here, there = sys.executable, str(source), str(out)
    mlx = [python, "-m", "mlx_lm", "convert", "--hf-path", here, "--mlx-path", f"{there}/mlx"]
    gguf = [python, "-m", "scripts.benchmarks.bare_gguf", "qwen2", here, "--outfile", f"{there}/it.gguf", "--outtype"]
    return [
        Case("mlx", "4bit", "mlx_lm convert", [*mlx, "-q"]),
        Case("mlx", "bf16", "mlx_lm convert", mlx),
        Case("gguf", "bf16", "llama.cpp's converter", [*gguf, "bf16"]),
        Case("gguf", "q8_0", "llama.cpp's converter", [*gguf, "q8_0"]),
        Case("torch", "fp16", "load, cast and save by safetensors", [python, "-c", BARE_CAST, here, there]),
        Case("torch", "int8", "transformers' own torchao path", [python, "-c", BARE_INT8, here, there]),
    ]


def without_chat(source: Path, copy: Path) -> Path:
    """Links to the model's files, but for its chat template: its padded vocabulary has the ids of specials twice."""
    copy.mkdir()
    for path in source.iterdir():
        if path.name == "tokenizer_config.json":
            config = json.loads(path.read_text())
            (copy / path.name).write_text(json.dumps({k: v for k, v in config.items() if k != "chat_template"}))
        else:
            (copy / path.name).symlink_to(path)
    return copy


def prepare(folder: Path, source: Path, archive: Path) -> dict[str, str]:
    """A configuration with the model, and a state folder with the converter unpacked."""
    (folder / "hosts.toml").write_text("[hosts.here]\nbackend = 'cpu'\n")
    entry = f"[models.half-b]\nartifacts = [{{ format = 'safetensors', path = '{source}' }}]\n"
    (folder / "models.toml").write_text(entry)
    home = folder / "home"
    (home / "converters").mkdir(parents=True)
    if archive.exists():
        os.link(archive, home / "converters" / fetch.SOURCE.archive)
    tree = fetch.converter(home, Silent())
    return {
        **os.environ, "LLMCTL_CONFIG": str(folder), "LLMCTL_HOME": str(home), "LLAMA_CPP": str(tree),
        "PYTHONPATH": str(testbed.REPO),
    }  # fmt: skip


def ours(case: Case, environment: dict[str, str]) -> tuple[float, dict[str, Any]]:
    argv = [sys.executable, "-m", "llmctl", "--json", "convert", "half-b", "--no-gate", "--force"]
    argv += ["--to", case.to, "--quantization", case.quantization]
    began = time.perf_counter()
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    took = time.perf_counter() - began
    return took, json.loads(done.stdout)["data"]


def _bare(case: Case, out: Path, environment: dict[str, str]) -> float:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    began = time.perf_counter()
    subprocess.run(case.bare, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
