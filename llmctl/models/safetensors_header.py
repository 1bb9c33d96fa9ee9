"""Read safetensors headers and sharded indexes: names, types and places of tensors, never the weights.

Format: https://huggingface.co/docs/safetensors (8-byte little-endian length, JSON, data). The file is untrusted: the
length is checked before it is read, and every offset against shape, type and file size.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from llmctl.errors import BadCheckpoint
from llmctl.models import bounded_json

# Bytes. The format allows headers of 100 MB; the 163 files of a model of 91,000 tensors have 12 MB in all.
HEADER_LIMIT, HEADERS_LIMIT = 30_000_000, 24_000_000
INDEX_LIMIT = 16 * 2**20
INDEX = "model.safetensors.index.json"

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: type as the file names it, shape, and its byte range in the data section."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class SafetensorsHeader:
    """A file's tensors by name, its free-form metadata, and the sizes of header and file."""

    path: Path
    tensors: dict[str, TensorInfo] = field(repr=False)
    metadata: dict[str, str]
    data_offset: int
    file_bytes: int


def read(path: str | os.PathLike[str]) -> SafetensorsHeader:
    """The header of the file at `path`; BadCheckpoint names the file and what is wrong with it."""
    path = Path(path)

    def bad(what: str) -> BadCheckpoint:
        return BadCheckpoint(f"{path}: not a usable safetensors file: {what}")

    if not path.is_file():  # opening a pipe would wait for its writer
        raise BadCheckpoint(f"{path}: there is no such file")
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                raise bad(f"it has {size} bytes")
            length = int.from_bytes(file.read(8), "little")
            if length > HEADER_LIMIT:
                raise bad(f"a header of {length} bytes is announced")
            if 8 + length > size:
                raise bad(f"truncated: a header of {length} bytes is announced, the file has {size}")
            text = file.read(length)
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        table = bounded_json.loads(text)
    except ValueError as error:
        raise bad(f"its header is not JSON: {error}"[:300]) from error
    if not isinstance(table, dict):
        raise bad("its header is not a JSON object")
    metadata = table.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise bad("__metadata__ is not an object")
    tensors = {}
    for name, entry in table.items():
        try:
            tensors[name] = _tensor(entry)
        except (ValueError, TypeError, KeyError) as error:
            raise bad(f"tensor {name[:80]!r}: {error}") from error
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != at:
            raise bad(f"tensor {name[:80]!r} begins at {tensor.begin}, expected {at}")
        at = tensor.end
    if 8 + length + at > size:
        raise bad(f"truncated: it has {size} bytes, its tensors need {8 + length + at}")
    return SafetensorsHeader(path, tensors, {str(k): str(v) for k, v in metadata.items()}, 8 + length, size)


def _tensor(entry: Any) -> TensorInfo:
    """One entry of the header; ValueError says what is wrong. A dtype newer than BITS has its size taken on trust."""
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(offsets, list):
        raise TypeError("dtype, shape or data_offsets of the wrong type")
    if len(offsets) != 2 or len(shape) > 16 or not all(type(n) is int and 0 <= n < 2**63 for n in shape + offsets):
        raise ValueError("shape or data_offsets out of range")
    tensor = TensorInfo(dtype, tuple(shape), *offsets)
    if tensor.end < tensor.begin:
        raise ValueError("it ends before it begins")
    if dtype in BITS and tensor.elements * BITS[dtype] != tensor.bytes * 8:
        raise ValueError(f"{dtype} of shape {shape} does not fill {tensor.bytes} bytes")
    return tensor


def read_folder(folder: str | os.PathLike[str]) -> tuple[SafetensorsHeader, ...]:
    """The headers of a folder's weights: the shards its index names, else every *.safetensors; empty when none."""
    folder = Path(folder)
    index = folder / INDEX
    if not index.is_file():
        return _read_all(sorted(folder.glob("*.safetensors")))
    weight_map = _weight_map(index)
    shards = [folder / name for name in sorted(set(weight_map.values()))]
    for path in shards:
        if not path.is_file():
            raise BadCheckpoint(f"{index}: the shard {path.name} it names is missing")
    headers = _read_all(shards)
    held = {header.path.name: header.tensors for header in headers}
    for tensor, name in weight_map.items():
        if tensor not in held[name]:
            raise BadCheckpoint(f"{folder / name}: the tensor {tensor[:80]!r} that the index places in it is missing")
    return headers


def _read_all(paths: Iterable[Path]) -> tuple[SafetensorsHeader, ...]:
    """The headers of all these files, no more than HEADERS_LIMIT bytes and one more of them."""
    headers, size = [], 0
    for path in paths:
        if size > HEADERS_LIMIT:
            raise BadCheckpoint(f"{path.parent}: the headers of its safetensors files have more than {size} bytes")
        headers.append(read(path))
        size += headers[-1].data_offset
    return tuple(headers)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        if index.stat().st_size > INDEX_LIMIT:
            raise BadCheckpoint(f"{index}: larger than {INDEX_LIMIT >> 20} MiB")
        weight_map = bounded_json.loads(index.read_bytes())["weight_map"]
    except OSError as error:
        raise BadCheckpoint(f"{index}: cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise BadCheckpoint(f"{index}: no JSON with a weight_map") from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpoint(f"{index}: an empty weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise BadCheckpoint(f"{index}: {str(name)[:80]!r} is not the name of a shard")
    return weight_map
