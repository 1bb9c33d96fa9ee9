"""`python -m llmctl.native.probe FOLDER`: exits 0 when the libraries there load, are laid out as the engine knows them,
and compute a small model in the types that weights have. Run in a process of its own: a wrong instruction kills it.
"""

from __future__ import annotations

import ctypes
import random
import struct
import sys
import tempfile
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from llmctl.engines.llamacpp_library import Library, check_layout
from llmctl.native.builds import LIBRARY

BASE = "libggml-base.so"
F32, U32, TEXT = 0, 4, 8
TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q4_0": 2, "q8_0": 8, "q4_K": 12, "q6_K": 14}  # of `enum ggml_type`
OFF = {"f32": 0.0, "f16": 0.01, "bf16": 0.05, "q4_0": 0.5, "q8_0": 0.05, "q4_K": 0.5, "q6_K": 0.1}
"""How far logits may be from those of float32, as a share of these."""
WIDTH, HEADS, VOCAB, TOKENS, ALIGNED = 256, 4, 64, 40, 32
KEYS = {
    "block_count": 1, "context_length": 256, "embedding_length": WIDTH, "feed_forward_length": WIDTH,
    "attention.head_count": HEADS, "attention.head_count_kv": HEADS, "vocab_size": VOCAB,
}  # fmt: skip
MATRICES = {
    "token_embd": VOCAB, "output": VOCAB, "blk.0.attn_q": WIDTH, "blk.0.attn_k": WIDTH, "blk.0.attn_v": WIDTH,
    "blk.0.attn_output": WIDTH, "blk.0.ffn_gate": WIDTH, "blk.0.ffn_up": WIDTH, "blk.0.ffn_down": WIDTH,
}  # fmt: skip
NORMS = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")


def gguf(path: Path, type: int, quantize: Any) -> None:
    """Write a llama of one layer with random weights of this type (GGUF version 3)."""
    rng = random.Random(7)
    keys = [_text("general.architecture") + _value(TEXT, _text("llama"))]
    keys += [_text(f"llama.{key}") + _value(U32, struct.pack("<I", value)) for key, value in KEYS.items()]
    keys.append(_text("llama.attention.layer_norm_rms_epsilon") + _value(6, struct.pack("<f", 1e-5)))
    keys.append(_text("tokenizer.ggml.model") + _value(TEXT, _text("no_vocab")))
    tensors, data = [], b""
    for name, rows in {**MATRICES, **dict.fromkeys(NORMS, 0)}.items():
        values = [rng.gauss(0, 0.1) for _ in range(WIDTH * rows)] if rows else [1.0] * WIDTH
        kind = type if rows else F32
        shape = (WIDTH, rows) if rows else (WIDTH,)
        tensors.append(_text(f"{name}.weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data)))
        packed = quantize(kind, values, rows or 1)
        data += packed + bytes(-len(packed) % ALIGNED)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join([*keys, *tensors])
    path.write_bytes(head + bytes(-len(head) % ALIGNED) + data)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(kind: int, packed: bytes) -> bytes:
    return struct.pack("<I", kind) + packed


def quantizer(base: Path) -> Any:
    """quantize(type, values, rows) → bytes, by ggml itself."""
    chunk = ctypes.CDLL(str(base)).ggml_quantize_chunk
    chunk.restype = c_size_t
    chunk.argtypes = [c_int, POINTER(c_float), c_void_p, c_int64, c_int64, c_int64, POINTER(c_float)]

    def quantize(type: int, values: Sequence[float], rows: int) -> bytes:
        floats = (c_float * len(values))(*values)
        out = ctypes.create_string_buffer(4 * len(values))
        size = ctypes.sizeof(floats)
        if type == F32:
            ctypes.memmove(out, floats, size)
        else:
            size = chunk(type, floats, out, 0, rows, len(values) // rows, None)
        return out.raw[:size]

    return quantize


def logits(library: Library, path: Path) -> list[float]:
    """Those behind the last of TOKENS tokens, computed in one batch and then one by one."""
    params = library.model_default_params()
    params.n_gpu_layers = 0
    model = library.model_load_from_file(str(path).encode(), params)
    if not model:
        raise SystemExit(f"{path.name} does not load: {' '.join(library.log)}")
    context = library.init_from_model(model, library.context_default_params())
    batch = library.batch_init(TOKENS, 0, 1)
    for start, size in ((0, TOKENS - 2), (TOKENS - 2, 1), (TOKENS - 1, 1)):
        for i in range(size):
            batch.token[i], batch.pos[i] = (start + i) % VOCAB, start + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, i == size - 1
        batch.n_tokens = size
        if library.decode(context, batch):
            raise SystemExit(f"{path.name} cannot be computed")
    found = list(library.get_logits(context)[:VOCAB])
    library.batch_free(batch)
    library.free(context)
    library.model_free(model)
    return found


def main(folder: Path) -> None:
    """SystemExit with what is wrong."""
    library = Library(str(folder / LIBRARY))
    check_layout(library.context_default_params(), library.model_default_params())
    quantize, right = quantizer(folder / BASE), [0.0]
    with tempfile.TemporaryDirectory() as temp:
        for name, type in TYPES.items():
            path = Path(temp) / f"{name}.gguf"
            gguf(path, type, quantize)
            found = logits(library, path)
            right = right if len(right) > 1 else found
            off, size = max(abs(a - b) for a, b in zip(found, right, strict=True)), max(map(abs, right))
            if not off <= OFF[name] * size:
                raise SystemExit(f"{name} is computed wrongly: {off:.3f} off, of {size:.3f}")
            print(f"{name}: {off / size:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
