"""Reading and writing folders of safetensors without holding them in memory."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

BESIDE = (".json", ".model", ".txt", ".jinja", ".tiktoken", ".py", ".md")
INDEX = "model.safetensors.index.json"
REMADE = ("config.json", INDEX)
Described = tuple[str, str, list[int], int]
"""A tensor's name, safetensors' word for its type, its shape and its bytes."""
NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def names(stored: Any) -> list[str]:
    """The tensors of an open safetensors file."""
    return list(stored.keys())


def copy_beside(source: Path, target: Path) -> None:
    """Tokenizer, templates and licence as they are; what a conversion writes itself stays out."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in REMADE and (path.suffix in BESIDE or path.name.startswith("LICENSE")):
            shutil.copyfile(path, target / path.name)


def write_config(target: Path, config: Mapping[str, Any]) -> None:
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_index(target: Path, places: Mapping[str, str], total: int) -> None:
    """Which file holds which tensor, where there are several files."""
    if len(set(places.values())) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


class Writer:
    """A safetensors file written tensor by tensor: types and shapes first, then the data in the same order."""

    def __init__(self, path: Path, tensors: Iterable[Described], about: Mapping[str, str]) -> None:
        head: dict[str, Any] = {"__metadata__": dict(about)}
        at = 0
        for name, dtype, shape, size in tensors:
            head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(head, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.total = at
        self._file = open(path, "wb")  # noqa: SIM115
        self._file.write(struct.pack("<Q", len(text)) + text)

    def add(self, data: memoryview) -> None:
        self._file.write(data)

    def close(self) -> None:
        self._file.close()
