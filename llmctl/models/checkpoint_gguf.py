"""A Checkpoint from the header of a GGUF file, split or whole."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from llmctl.errors import BadCheckpoint
from llmctl.models import gguf_header
from llmctl.models.checkpoint import Checkpoint, layer_count, layer_types, number

HEADERS_LIMIT = 48 * 2**20
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
# llama.cpp's file types (`general.file_type`): the name of the quantization.
FILE_TYPES: dict[Any, str] = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s", 12: "q3_k_m",
    13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k", 19: "iq2_xxs", 20: "iq2_xs",
    22: "iq3_xs", 23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl", 26: "iq3_s", 27: "iq3_m", 28: "iq2_s", 29: "iq2_m",
    30: "iq4_xs", 31: "iq1_m", 32: "bf16", 36: "tq1_0", 37: "tq2_0", 38: "mxfp4", 39: "nvfp4",
}  # fmt: skip


def find(folder: Path) -> Path:
    """The one model of a folder without config.json: its .gguf file, or the first of its shards."""
    files = [f for f in sorted(folder.glob("*.gguf")) if "mmproj" not in f.name and _shard(f) in (None, 1)]
    if not files:
        raise BadCheckpoint(f"{folder}: no config.json and no .gguf file in it")
    if len(files) > 1:
        raise BadCheckpoint(f"{folder}: holds several models, name one of {', '.join(f.name for f in files)}")
    return files[0]


def _shard(path: Path) -> int | None:
    match = SHARD.search(path.name)
    return int(match[1]) if match else None


def shards(path: Path) -> tuple[Path, ...]:
    """All files of a split model, by the name of its first one; BadCheckpoint names the missing one."""
    match = SHARD.search(path.name)
    if not match:
        return (path,)
    if int(match[1]) != 1:
        raise BadCheckpoint(f"{path}: name the first shard (00001) of a split model")
    stem = path.name[: match.start()]
    paths = []
    for i in range(1, int(match[2]) + 1):
        paths.append(path.with_name(f"{stem}-{i:05d}-of-{match[2]}.gguf"))
        if not paths[-1].is_file():
            raise BadCheckpoint(f"{paths[-1]}: this shard is missing")
    return tuple(paths)


def inspect(path: Path) -> Checkpoint:
    """Read the header of `path` (and of its other shards)."""
    headers = _headers(shards(path))
    header, metadata = headers[0], headers[0].metadata
    tensors = [tensor for h in headers for tensor in h.tensors]
    if not header.architecture:
        raise BadCheckpoint(f"{path}: general.architecture is missing")
    if not tensors:
        raise BadCheckpoint(f"{path}: holds no weights")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, gguf_header.SkippedArray):
        raise BadCheckpoint(f"{path}: has no tokenizer (tokenizer.ggml.tokens)")
    layers = layer_count(path, header.get("block_count"))
    hidden = number(header.get("embedding_length"))
    heads = _per_layer(header.get("attention.head_count"), layers)
    kv_heads = _per_layer(header.get("attention.head_count_kv", heads), layers)
    per_head = hidden // max(1, *heads)
    key = number(header.get("attention.key_length")) or per_head
    value = number(header.get("attention.value_length")) or per_head
    window = number(header.get("attention.sliding_window"))
    sizes = Counter[str]()
    for tensor in tensors:
        sizes[tensor.type_name] += tensor.bytes or 0
    eyes = projectors(path.parent)
    main_type = sizes.most_common(1)[0][0]
    eos = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    return Checkpoint(
        path=path,
        format="gguf",
        architecture=header.architecture.lower(),
        layers=layers,
        heads=max(heads),
        kv_heads=max(kv_heads),
        head_dim=key,
        hidden=hidden,
        vocab=tokens.count,
        context=number(header.get("context_length")),
        sliding_window=window or None,
        layer_types=layer_types(header.architecture, window, header.get("attention.sliding_window_pattern"), kv_heads),
        kv_widths=tuple(n * (key + value) for n in kv_heads),
        weights_bytes=sum(map(_weights_bytes, headers)) + sum(file.stat().st_size for file in eyes),
        parameters=sum(tensor.elements for tensor in tensors),
        dtype=DTYPES.get(main_type, main_type.lower()),
        quantization=FILE_TYPES.get(metadata.get("general.file_type"), main_type.lower()),
        tokenizer="gguf",
        has_chat_template="tokenizer.chat_template" in metadata,
        eos_ids=tuple(dict.fromkeys(i for i in eos if type(i) is int)),
        sees=bool(eyes),
    )


def projectors(folder: Path) -> tuple[Path, ...]:
    """The projector of images in a model's folder, which is loaded with it; none where there are several."""
    found = [file for file in folder.glob("*.gguf") if "mmproj" in file.name]
    return tuple(found) if len(found) == 1 else ()


def _headers(paths: tuple[Path, ...]) -> list[gguf_header.GGUFHeader]:
    """Of all shards, no more than HEADERS_LIMIT bytes and one more of them."""
    headers, size = [], 0
    for path in paths:
        if size > HEADERS_LIMIT:
            raise BadCheckpoint(f"{path}: the headers of this model's shards have more than {size} bytes")
        headers.append(gguf_header.read(path))
        size += headers[-1].read_bytes
    return headers


def _weights_bytes(header: gguf_header.GGUFHeader) -> int:
    """Of the tensors, without what aligns them; the whole data section where a type is newer than our table."""
    sizes = [tensor.bytes for tensor in header.tensors]
    known = sum(size for size in sizes if size is not None)
    return known if None not in sizes else header.file_bytes - header.data_offset


def _per_layer(value: Any, layers: int) -> tuple[int, ...]:
    """A number for all layers or an array with one for each, as a tuple of `layers` counts."""
    if isinstance(value, tuple) and len(value) >= layers:
        return tuple(number(v) for v in value[:layers])
    return (number(value),) * layers
