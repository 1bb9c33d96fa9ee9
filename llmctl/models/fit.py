"""How much memory a model needs and whether that is there: pure arithmetic over a Checkpoint (design.md, "Admission").

Weights and KV cache are exact: the bytes that the engine allots. What comes with them and the process itself are
constants, measured with scripts/benchmarks/fit.py on Linux x86-64: torch 2.13 and transformers 5.23, mlx 0.32 built
for the CPU, xllamacpp 2026.10. What they are on Metal and CUDA was never measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmctl.models.checkpoint import SLIDING, Checkpoint

MB = 10**6
DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8": 1, "int8": 1}

CELLS = 256  # llama.cpp and mlx-lm round a sequence's tokens up to a multiple of this, torch's cache starts with it
# Prompt tokens at once, on a CPU and beyond.
CHUNK = {"llamacpp": (256, 256), "torch": (256, 2048), "mlx": (64, 512), "openvino": (1024, 1024)}
BLOCK = 32  # tokens of a block of OpenVINO's cache
ROTATING = {"gemma3", "gemma3_text", "gpt_oss", "cohere2"}  # whose sliding layers mlx-lm keeps at their window
UNIFORM = {"mistral", "mixtral", "phi3", "starcoder2"}  # whose every layer the mlx engine does, where they have one
SCORED = {"gemma2", "gpt_oss"}  # whose attention torch computes by hand: it holds all scores, three times in float32

# Resident memory of the process with its libraries imported and no model.
PROCESS = {"llamacpp": 45 * MB, "torch": 360 * MB, "mlx": 270 * MB, "openvino": 95 * MB, "scripted": 30 * MB}
# What comes with any model, however small: its tokenizer's and the library's own structures, buffers of the threads.
WITH_A_MODEL = {"llamacpp": 15 * MB, "torch": 30 * MB, "mlx": 15 * MB, "openvino": 35 * MB, "scripted": 0}
# Bytes of a tokenizer per token of its vocabulary (152,000 tokens: 35 MB in llama.cpp, 56 MB in tokenizers).
PER_TOKEN = {"llamacpp": 230, "torch": 370, "mlx": 370, "openvino": 230, "scripted": 0}
# OpenVINO holds the embedding apart from the last product, and what it reordered of that.
OPENVINO_HEADS = 2
# A prompt's activations are this many times its tokens × the model's width (a hidden layer is 3 to 6 times as wide).
WIDTHS = 16
# Of a quantized key or value: a scale (and what mlx-lm adds to it) in half precision for 32 (64) of them.
SCALE_BITS = 0.5
# CPU matrix products in half precision hold a reordered copy of one weight, some 8 × width² elements.
REORDERED = 8


@dataclass(frozen=True)
class Fit:
    """Estimated bytes of one engine with one model: what the model adds to the process, by part, and the process."""

    weights: int
    kv: int
    compute: int
    process: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.compute + self.process


@dataclass(frozen=True)
class Room:
    """Memory that a new model may take, in bytes: what is free, and what the budget leaves over the reservations."""

    free: int
    budget: int
    reserved: int

    @property
    def available(self) -> int:
        return min(self.free, self.budget - self.reserved)


def estimate(
    checkpoint: Checkpoint, context: int, parallel: int, engine: str, dtype: str | None = None, backend: str = "cpu",
    *, cache_bits: int | None = None, cache_bytes: int | None = None,
) -> Fit:  # fmt: skip
    """Bytes for `parallel` sequences of `context` tokens each, all of them full.

    `dtype` None is the checkpoint's own; torch computes in float32 on a CPU without bf16 (`backends.cpu.fast_bf16`).
    Keys and values of `cache_bits` (8 or 4) are quantized, and never more than `cache_bytes`.
    """
    if checkpoint.context:
        context = min(context, checkpoint.context)
    weights = checkpoint.weights_bytes
    widens = checkpoint.dtype in DTYPE_BYTES if engine == "openvino" else not checkpoint.quantization
    if dtype and engine != "llamacpp" and widens:
        weights = checkpoint.parameters * DTYPE_BYTES.get(dtype, 4)
    kv = kv_bytes(checkpoint, context, parallel, engine, dtype, backend)
    if cache_bits:
        whole = 2 if engine == "llamacpp" else DTYPE_BYTES.get(dtype or checkpoint.dtype, 2)
        kv = round(kv * (cache_bits + SCALE_BITS) / (8 * whole))
    return Fit(
        weights,
        min(kv, cache_bytes or kv),
        compute_bytes(checkpoint, context, parallel, engine, dtype, backend),
        PROCESS[engine],
    )


def kv_bytes(
    checkpoint: Checkpoint, context: int, parallel: int, engine: str, dtype: str | None = None, backend: str = "cpu"
) -> int:
    """Bytes of keys and values at full use.

    llama.cpp allots them at once, in half precision; torch's cache doubles its rows and tokens as it grows; mlx-lm
    grows each sequence in steps, and keeps of some families' sliding layers only the window and a chunk. A recurrent
    layer's state does not grow with the context and is not counted.
    """
    if checkpoint.context:
        context = min(context, checkpoint.context)
    whole = _rounded_up(context, BLOCK if engine == "openvino" else CELLS)
    if engine == "llamacpp":
        return 2 * sum(checkpoint.kv_widths) * parallel * whole
    element = DTYPE_BYTES.get(dtype or checkpoint.dtype, 2)
    if engine == "torch":
        rows, tokens = _doubled(1, parallel), _doubled(CELLS, context)
        return element * sum(checkpoint.kv_widths) * rows * tokens
    window = whole
    if engine == "mlx" and checkpoint.architecture in ROTATING | UNIFORM and checkpoint.sliding_window:
        window = min(whole, checkpoint.sliding_window - 1 + _chunk(engine, backend))
    if checkpoint.architecture in UNIFORM:
        whole = window
    tokens_of = {SLIDING: window}
    layers = zip(checkpoint.layer_types, checkpoint.kv_widths, strict=True)
    return element * parallel * sum(width * tokens_of.get(kind, whole) for kind, width in layers)


def compute_bytes(
    checkpoint: Checkpoint, context: int, parallel: int, engine: str, dtype: str | None = None, backend: str = "cpu"
) -> int:
    """Bytes beside weights and keys that come with this model: tokenizer, activations of a prompt's chunk, its mask
    and scores, logits. On a CPU llama.cpp touches the logits it is asked for only, elsewhere it allots a chunk's."""
    if engine == "scripted":
        return 0
    element = DTYPE_BYTES.get(dtype or checkpoint.dtype, 2)
    chunk = _chunk(engine, backend)
    at_once = max(chunk, context) if checkpoint.sees and engine == "torch" else chunk  # a prompt with images is one
    rows = chunk if engine == "llamacpp" and backend != "cpu" else parallel
    scores = 2  # a mask in half precision
    if engine == "mlx" and backend == "cpu":
        scores += 4 * checkpoint.heads
    if engine == "torch" and checkpoint.architecture in SCORED:
        scores += 3 * 4 * checkpoint.heads
    heads = 0
    if engine == "openvino":
        heads = (
            OPENVINO_HEADS
            * checkpoint.vocab
            * checkpoint.hidden
            * checkpoint.weights_bytes
            // max(1, checkpoint.parameters)
        )
    reordered = REORDERED * element * checkpoint.hidden**2 if engine != "llamacpp" and backend == "cpu" else 0
    return (
        WITH_A_MODEL[engine]
        + PER_TOKEN[engine] * checkpoint.vocab
        + WIDTHS * element * checkpoint.hidden * at_once
        + scores * chunk * _rounded_up(context, CELLS)
        + 4 * checkpoint.vocab * rows
        + reordered
        + heads
    )


def largest_context(needed: Callable[[int], int], available: int, longest: int) -> int:
    """The most tokens up to `longest` whose `needed(context)` bytes are available; 0 when not even one fits.

    `needed` must not fall as the context grows.
    """
    low, high = 0, longest
    while low < high:
        middle = (low + high + 1) // 2
        if needed(middle) <= available:
            low = middle
        else:
            high = middle - 1
    return low


def _chunk(engine: str, backend: str) -> int:
    return CHUNK[engine][backend != "cpu"]


def _rounded_up(size: int, step: int) -> int:
    return -(-size // step) * step


def _doubled(size: int, needed: int) -> int:
    while size < needed:
        size *= 2
    return size
