"""Read the header of a GGUF file (v2, v3, either byte order): metadata and tensor table, never the weights.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The file is untrusted: every length is checked
before it is used, at most HEADER_LIMIT bytes are read, and vocabularies are counted, not kept.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from llmctl.errors import BadCheckpoint

HEADER_LIMIT = 40 * 2**20  # a vocabulary of 256,000 with its merges takes some 14 MB
STRING_LIMIT = 2**20  # the longest real one is a chat template of some 20 kB
KEPT_ARRAY = 2048  # per-layer numbers are kept, vocabularies are not
KEPT_LIMIT = 200_000  # numbers in kept arrays, all together
STRINGS_LIMIT = 1_500_000  # in all arrays together; the largest vocabulary with its merges has 0.8 million
KEYS_LIMIT = 10_000
TENSORS_LIMIT = 50_000  # converters join experts: the largest models have some 2,000
CHUNK = 2**18

STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

# ggml tensor types: id → (name, elements in a block, bytes of a block).
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip


@dataclass(frozen=True)
class SkippedArray:
    """A long metadata array of which only the length is known."""

    count: int


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: ggml type id, dimensions (fastest first), offset from the start of the data section."""

    name: str
    type: int
    shape: tuple[int, ...]
    offset: int

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def type_name(self) -> str:
        return TENSOR_TYPES[self.type][0] if self.type in TENSOR_TYPES else f"type{self.type}"

    @property
    def bytes(self) -> int | None:
        """Size in the file; None for a type newer than this table."""
        if self.type not in TENSOR_TYPES:
            return None
        _, block, size = TENSOR_TYPES[self.type]
        return self.elements // block * size


@dataclass(frozen=True)
class GGUFHeader:
    """A GGUF file's header; `data_offset` is where the weights begin, `read_bytes` how far the reader went."""

    path: Path
    version: int
    metadata: dict[str, Any] = field(repr=False)
    tensors: tuple[TensorInfo, ...] = field(repr=False)
    data_offset: int
    file_bytes: int
    read_bytes: int

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture") or "")

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the architecture's own namespace: get("block_count") reads `llama.block_count`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def read(path: str | os.PathLike[str]) -> GGUFHeader:
    """The header of the file at `path`; BadCheckpoint names the file and what is wrong with it."""
    path = Path(path)
    if not path.is_file():  # opening a pipe would wait for its writer
        raise BadCheckpoint(f"{path}: there is no such file")
    try:
        with open(path, "rb", buffering=0) as file:
            return _Reader(path, file).header()
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read: {error.strerror or error}") from error


class _Reader:
    """A forward-only cursor over the file; every `take` is checked against file size and HEADER_LIMIT."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size
        self.buffer, self.at, self.read_bytes = b"", 0, 0
        self.order = "<"
        self.strings = self.kept = 0

    def bad(self, what: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self.path}: not a usable GGUF file: {what}")

    @property
    def position(self) -> int:
        return self.read_bytes - len(self.buffer) + self.at

    def need(self, n: int) -> None:
        """Make the next n bytes available in the buffer."""
        if self.at + n <= len(self.buffer):
            return
        if self.position + n > self.size:
            raise self.bad(f"it ends at byte {self.size}, inside the header")
        if self.position + n > HEADER_LIMIT:
            raise self.bad(f"its header is larger than {HEADER_LIMIT >> 20} MiB")
        self.buffer, self.at = self.buffer[self.at :], 0
        while len(self.buffer) < n:
            more = self.file.read(max(CHUNK, n - len(self.buffer)))
            if not more:
                raise self.bad("it was cut while it was read")
            self.buffer += more
            self.read_bytes += len(more)

    def take(self, n: int) -> bytes:
        self.need(n)
        self.at += n
        return self.buffer[self.at - n : self.at]

    def number(self, code: str) -> Any:
        size = struct.calcsize(self.order + code)
        self.need(size)
        (value,) = struct.unpack_from(self.order + code, self.buffer, self.at)
        self.at += size
        return value

    def string(self, limit: int = STRING_LIMIT) -> str:
        length = self.number("Q")
        if length > limit:
            raise self.bad(f"a string of {length} bytes at byte {self.position}")
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array()
        if kind not in SCALARS:
            raise self.bad(f"value type {kind} at byte {self.position}")
        return self.number(SCALARS[kind])

    def array(self) -> tuple[Any, ...] | SkippedArray:
        kind, count = self.number("I"), self.number("Q")
        if kind == STRING:
            self.strings += count
            if self.strings > STRINGS_LIMIT:
                raise self.bad(f"more than {STRINGS_LIMIT} strings in arrays")
            self.skip_strings(count)
            return SkippedArray(count)
        if kind not in SCALARS:
            raise self.bad(f"an array of type {kind}")
        size = struct.calcsize(self.order + SCALARS[kind]) * count
        if count <= KEPT_ARRAY:
            self.kept += count
        if count > KEPT_ARRAY or self.kept > KEPT_LIMIT:
            if self.position + size > min(self.size, HEADER_LIMIT):
                raise self.bad(f"an array of {count} numbers does not fit")
            for _ in range(size // CHUNK):
                self.take(CHUNK)
            self.take(size % CHUNK)
            return SkippedArray(count)
        return struct.unpack(f"{self.order}{count}{SCALARS[kind]}", self.take(size))

    def skip_strings(self, count: int) -> None:
        length_at = struct.Struct(self.order + "Q").unpack_from
        for _ in range(count):
            if self.at + 8 > len(self.buffer):
                self.need(8)
            (length,) = length_at(self.buffer, self.at)
            self.at += 8
            if self.at + length > len(self.buffer):
                if length > STRING_LIMIT:
                    raise self.bad(f"a string of {length} bytes at byte {self.position}")
                self.need(length)
            self.at += length

    def header(self) -> GGUFHeader:
        if self.take(4) != b"GGUF":
            raise self.bad("it does not begin with GGUF")
        version = self.number("I")
        if version & 0xFFFF == 0 and version:  # written on a big-endian machine
            self.order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise self.bad(f"version {version}, readable are 2 and 3")
        tensor_count, key_count = self.number("Q"), self.number("Q")
        if tensor_count > TENSORS_LIMIT or key_count > KEYS_LIMIT:
            raise self.bad(f"{tensor_count} tensors and {key_count} keys announced")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self.string(65535)
            metadata[key] = self.value(self.number("I"))
        tensors = tuple(self.tensor() for _ in range(tensor_count))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
            raise self.bad(f"alignment {alignment!r}")
        start = -(-self.position // alignment) * alignment
        header = GGUFHeader(self.path, version, metadata, tensors, start, self.size, self.read_bytes)
        self.check_size(header)
        return header

    def tensor(self) -> TensorInfo:
        name, dims = self.string(1024), self.number("I")
        if dims > 4:
            raise self.bad(f"tensor {name!r} with {dims} dimensions")
        shape = struct.unpack(f"{self.order}{dims}Q", self.take(8 * dims))
        info = TensorInfo(name, self.number("I"), shape, self.number("Q"))
        if info.elements >= 2**48 or info.offset >= 2**63:
            raise self.bad(f"tensor {name!r} of shape {shape} at {info.offset}")
        return info

    def check_size(self, header: GGUFHeader) -> None:
        end = max((t.offset + (t.bytes or 0) for t in header.tensors), default=0) + header.data_offset
        if header.tensors and end > self.size:
            raise self.bad(f"truncated: it has {self.size} bytes, its tensors need {end}")
