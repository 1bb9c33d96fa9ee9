"""How much memory a model needs, and which engine runs it: pure decisions over a Checkpoint (design.md, "Admission").

The KV cache is exact arithmetic over the layers; the rest of an engine's memory is a measured constant.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from llmctl.errors import Unsupported
from llmctl.models.checkpoint import Checkpoint

MB = 10**6
DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8": 1, "int8": 1}
LLAMACPP_ROWS = 256  # rows of logits in its compute buffer: as many as a batch has tokens
LLAMACPP_CELLS = 256  # it rounds a sequence's cells up to a multiple of this
TORCH_CELLS = 256  # its cache starts with these

# Resident memory of the engine process without a model, measured on Linux x86-64 with Python 3.11 (RSS after import),
# and what a first request adds (activations, allocator slack), rounded up.
BASELINE = {
    "llamacpp": 100 * MB,  # xllamacpp 2026.10 and numpy: 35 MB; with a vocabulary of 152,000 and one request: 105 MB
    "torch": 500 * MB,  # torch 2.13 and transformers 5.23 with a model class: 336 MB; a prefill's activations beside it
    "mlx": 400 * MB,  # mlx-lm 0.32 with transformers' tokenizers, CPU build; never measured on Metal
    "scripted": 30 * MB,
}

# Which formats an engine reads, and on which backends it runs (engines.md, "So, by default").
READS = {"llamacpp": ("gguf",), "torch": ("safetensors",), "mlx": ("mlx", "safetensors"), "scripted": ("script",)}
RUNS_ON = {
    "llamacpp": ("cpu", "cuda", "metal"),
    "torch": ("cpu", "cuda", "metal"),
    "mlx": ("metal", "cpu"),
    "scripted": ("cpu", "cuda", "metal"),
}
# `auto` takes the first of these that reads a format there is.
PREFERENCE = {
    "cpu": ("llamacpp", "torch", "scripted"),
    "metal": ("mlx", "llamacpp", "torch", "scripted"),
    "cuda": ("torch", "llamacpp", "scripted"),
}
REASON = {
    ("cpu", "llamacpp"): "fastest from GGUF on a CPU",
    ("cpu", "torch"): "runs safetensors on any CPU; `convert --to gguf` is 3-4 times faster",
    ("metal", "mlx"): "native to Metal",
    ("metal", "llamacpp"): "runs GGUF on Metal",
    ("metal", "torch"): "the last resort on Metal",
    ("cuda", "torch"): "runs safetensors on CUDA",
    ("cuda", "llamacpp"): "runs GGUF; on the GPU only with a CUDA build of it",
}


@dataclass(frozen=True)
class Fit:
    """Estimated bytes of one engine with one model."""

    weights: int
    kv: int
    overhead: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.overhead


class Choice(NamedTuple):
    """The engine `choose_engine` took, why, and why each other one was not taken."""

    engine: str
    why: str
    why_not: dict[str, str]


def estimate(checkpoint: Checkpoint, context: int, parallel: int, engine: str, dtype: str | None = None) -> Fit:
    """Bytes for `parallel` sequences of `context` tokens each.

    `dtype` None is the checkpoint's own; torch computes in float32 on a CPU without bf16 (`backends.cpu.fast_bf16`).
    """
    weights = checkpoint.weights_bytes
    if dtype and engine != "llamacpp" and not checkpoint.quantization:
        weights = checkpoint.parameters * DTYPE_BYTES.get(dtype, 4)
    return Fit(weights, kv_bytes(checkpoint, context, parallel, engine, dtype), overhead(checkpoint, engine))


def kv_bytes(checkpoint: Checkpoint, context: int, parallel: int, engine: str, dtype: str | None = None) -> int:
    """Bytes of keys and values at full use; our engines keep sliding layers whole.

    llama.cpp allots them at once, in half precision; torch's cache doubles its rows and tokens as it grows. A recurrent
    layer's state does not grow with the context and is not counted.
    """
    if checkpoint.context:
        context = min(context, checkpoint.context)
    if engine == "llamacpp":
        return 2 * sum(checkpoint.kv_widths) * parallel * (-(-context // LLAMACPP_CELLS) * LLAMACPP_CELLS)
    if engine == "torch":
        parallel, context = _doubled(1, parallel), _doubled(TORCH_CELLS, context)
    element = DTYPE_BYTES.get(dtype or checkpoint.dtype, 2)
    return element * sum(checkpoint.kv_widths) * parallel * context


def _doubled(size: int, needed: int) -> int:
    while size < needed:
        size *= 2
    return size


def overhead(checkpoint: Checkpoint, engine: str) -> int:
    """The process itself, and the buffers that grow with the vocabulary and the width of the model."""
    rows = LLAMACPP_ROWS if engine == "llamacpp" else 64
    return BASELINE[engine] + rows * 4 * (checkpoint.vocab + 8 * checkpoint.hidden)


def choose_engine(backend: str, formats: Collection[str], requested: str = "auto") -> Choice:
    """The engine for a model that is there in `formats`; Unsupported says why not each of them."""
    candidates = PREFERENCE[backend] if requested == "auto" else (requested,)
    why_not = {}
    for engine in READS:
        if why := _obstacle(engine, backend, formats):
            why_not[engine] = why
    able = [engine for engine in candidates if engine in READS and engine not in why_not]
    if not able:
        tried = "; ".join(f"{name}: {why_not.get(name, 'no such engine')}" for name in candidates)
        raise Unsupported(
            f"no engine for it on {backend} ({tried})",
            hint="`llmctl convert` makes another format" if formats else "`llmctl pull` brings the model here",
            details={"why_not": why_not, "formats": sorted(formats)},
        )
    taken = able[0]
    for engine in READS:
        if engine != taken and engine not in why_not:
            why_not[engine] = f"{taken} was asked for" if requested != "auto" else _second_best(engine, taken, backend)
    why = "asked for" if requested != "auto" else REASON.get((backend, taken), "the only one for this format")
    return Choice(taken, why, why_not)


def format_for(engine: str, formats: Collection[str]) -> str | None:
    """The format of `formats` that this engine prefers; None when it reads none of them."""
    return next((f for f in READS[engine] if f in formats), None)


def _obstacle(engine: str, backend: str, formats: Collection[str]) -> str | None:
    if backend not in RUNS_ON[engine]:
        return f"does not run on {backend}"
    if not format_for(engine, formats):
        return f"reads {' or '.join(READS[engine])}, there is {', '.join(sorted(formats)) or 'nothing'}"
    return None


def _second_best(engine: str, taken: str, backend: str) -> str:
    if engine not in PREFERENCE[backend]:
        return f"never the default on {backend}"
    return f"{taken} comes first on {backend}"
