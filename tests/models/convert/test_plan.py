"""What can be made of what: names, choices and sizes, decided by values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmctl.catalog import Artifact
from llmctl.errors import Refused, Unsupported, UsageError
from llmctl.models.checkpoint import FULL, Checkpoint, trusted
from llmctl.models.convert import plan
from llmctl.models.convert.plan import Source, Target

GB = 10**9
PLAIN = Checkpoint(
    Path("/models/m/safetensors"), "safetensors", "qwen2", 24, 14, 2, 64, 896, 151936, 32768, None, (FULL,) * 24,
    (256,) * 24, 988_000_000, 494_000_000, "bfloat16", None, "tokenizer.json", True, (1,),
)  # fmt: skip


def source(format: str = "safetensors", name: str | None = None, **changed: object) -> Source:
    return Source(Artifact(format, name), replace(PLAIN, format=format, **changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("to", "said", "name"),
    [
        ("mlx", None, "4bit"), ("mlx", "MXFP4", "mxfp4"), ("mlx", "mixed_3_6", "mixed-3-6"), ("mlx", "f16", "fp16"),
        ("mlx", "6bit-g32", "6bit-g32"), ("gguf", None, "q4_k_m"), ("gguf", "Q4_K_M", "q4_k_m"),
        ("gguf", "q8-0", "q8_0"),
        ("gguf", "fp16", "f16"), ("gguf", "bfloat16", "bf16"), ("torch", None, "bf16"), ("torch", "float32", "fp32"),
        ("torch", "INT8", "int8"),
    ],
)  # fmt: skip
def test_any_spelling_of_a_target(to: str, said: str | None, name: str) -> None:
    assert plan.target(to, said) == Target(to, name)


@pytest.mark.parametrize(
    ("to", "said", "word"),
    [("onnx", None, "--to mlx or gguf or torch"), ("gguf", "4bit", "q4_k_m"), ("mlx", "7bit", "mxfp4"),
     ("mlx", "4bit-g48", "-g32"), ("torch", "int2", "int8"), ("mlx", "../x", "4bit"), ("mlx", "", None)],
)  # fmt: skip
def test_no_such_target_lists_those_that_there_are(to: str, said: str | None, word: str | None) -> None:
    if word is None:
        assert plan.target(to, said).quantization == plan.USUAL[to]
        return
    with pytest.raises(UsageError) as error:
        plan.target(to, said)
    assert word in (error.value.hint or "")


def test_every_target_has_a_folder_name_of_its_own() -> None:
    targets = [Target(to, q) for to in plan.FORMATS for q in (*plan.CASTS[to], *plan.QUANTIZED[to])]
    folders = [target.artifact.folder for target in targets]
    assert len(set(folders)) == len(folders)
    assert all(folder == folder.lower() and "/" not in folder for folder in folders)


def test_the_most_precise_safetensors_is_taken() -> None:
    full, half = source(name="f32", dtype="float32"), source(name="bf16")
    gguf = source("gguf", "f32", dtype="float32", quantization="f32")
    assert plan.choose("m", [gguf, half, full], Target("gguf", "q4_0"), None) == full
    assert plan.choose("m", [gguf, half, full], Target("gguf", "q4_0"), "safetensors/bf16") == half
    assert plan.choose("m", [gguf, half, full], Target("gguf", "q4_0"), "torch/bfloat16") == half
    assert plan.choose("m", [gguf, half, full], Target("gguf", "q4_0"), "GGUF") == gguf
    assert plan.choose("m", [half, full], Target("torch", "fp32"), None) == half


def test_a_model_that_is_not_here_is_refused_with_the_pull_line() -> None:
    with pytest.raises(Refused) as error:
        plan.choose("m", [], Target("mlx", "4bit"), None)
    assert error.value.hint == "llmctl pull m --format safetensors"
    with pytest.raises(Refused, match="not here as gguf/f16"):
        plan.choose("m", [source()], Target("mlx", "4bit"), "gguf/f16")


@pytest.mark.parametrize(
    ("has", "wanted", "why"),
    [
        (source("mlx"), Target("gguf", "q4_0"), "MLX weights become MLX only"),
        (source("mlx", quantization="4bit"), Target("mlx", "8bit"), "quantized already"),
        (source(quantization="mxfp4"), Target("mlx", "4bit"), "quantized already"),
        (source("gguf", quantization="q4_0"), Target("gguf", "q8_0"), "quantized already"),
        (source("gguf", quantization="f16"), Target("gguf", "bf16"), "quantized GGUF only"),
        (source("gguf", quantization="f16"), Target("torch", "bf16"), "quantized GGUF only"),
        (source(), Target("torch", "bf16"), "is bf16 already"),
        (source("script"), Target("torch", "bf16"), "not weights"),
        (source(), Target("torch", "fp16"), None),
        (source("gguf", quantization="bf16"), Target("gguf", "q4_k_m"), None),
        (source("mlx"), Target("mlx", "4bit"), None),
    ],
)
def test_what_becomes_what(has: Source, wanted: Target, why: str | None) -> None:
    found = plan.why_not(has, wanted)
    assert found == why if why is None else why in (found or "")
    if why:
        with pytest.raises(Unsupported):
            plan.choose("m", [has], wanted, None)


def test_sizes_are_rather_too_large_and_a_quantized_gguf_needs_its_base_too() -> None:
    half = source()
    assert 280e6 < plan.expected_bytes(PLAIN, Target("mlx", "4bit")) < 500e6
    assert 395e6 < plan.expected_bytes(PLAIN, Target("gguf", "q4_k_m")) < 700e6
    assert plan.needed_bytes(half, Target("gguf", "q4_k_m")) > 395e6 + 988e6
    assert plan.needed_bytes(source("gguf", quantization="bf16"), Target("gguf", "q4_k_m")) < 700e6


def test_s06_code_is_refused_unless_the_catalog_allows_it() -> None:
    wants = replace(PLAIN, needs_code=("auto_map in config.json",))
    with pytest.raises(Unsupported, match="auto_map") as refused:
        trusted(wants, "it", allow_code=False)
    assert "allow_code" in (refused.value.hint or "")
    assert trusted(wants, "it", allow_code=True) is wants and trusted(PLAIN, "it", allow_code=False) is PLAIN
