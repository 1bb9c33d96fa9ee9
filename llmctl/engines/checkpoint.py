"""What a safetensors checkpoint folder says about itself, read before any weight is."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.backends.page_cache import bring_in
from llmctl.domain import EngineSpec, Progress
from llmctl.errors import Unsupported

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """config.json, the weight files, and the dtype most of their bytes have (`float32`, `bfloat16`, …)."""

    path: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]

    @property
    def architecture(self) -> str:
        """`model_type`, else the first of `architectures`, as it is written there."""
        named = self.config.get("model_type") or next(iter(self.config.get("architectures") or ()), "")
        return str(named)

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.weights)

    @property
    def dtype(self) -> str:
        names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
        sizes: dict[str, int] = {}
        for tensor in tensors(self.weights[0]).values():
            start, end = tensor["data_offsets"]
            sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + end - start
        floats = {names[k]: v for k, v in sizes.items() if k in names}
        return max(floats, key=lambda k: floats[k], default="float32")


def read_checkpoint(spec: EngineSpec) -> Checkpoint:
    """Unsupported, with the reason, for a folder that is no safetensors checkpoint or that needs its own code."""
    path = Path(spec.path)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unsupported(f"{spec.model}: {path / 'config.json'} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise Unsupported(f"{spec.model}: config.json is not an object")
    weights = tuple(sorted(path.glob("*.safetensors")))
    if not weights:
        pickled = next((f.name for f in sorted(path.iterdir()) if f.suffix in PICKLES), None)
        why = f"{pickled} is a pickle, which can run code" if pickled else "there is no *.safetensors file"
        raise Unsupported(f"{spec.model}: {why}", hint="pull a safetensors revision of this model")
    for key in ("auto_map", "model_file"):
        if config.get(key) and not spec.allow_code:
            raise Unsupported(
                f"{spec.model}: its checkpoint wants to run code of its own ({key} in config.json)",
                hint="set allow_code = true in its catalog entry if you trust it",
            )
    return Checkpoint(path, config, weights)


def tensors(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: tensor name → {dtype, shape, data_offsets}."""
    try:
        with open(file, "rb") as data:
            (length,) = struct.unpack("<Q", data.read(8))
            if length > 100 * 2**20:
                raise ValueError("its header is over 100 MB")
            header: dict[str, Any] = json.loads(data.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise Unsupported(f"{file.name} is not a safetensors file: {error}") from error
    header.pop("__metadata__", None)
    return header


def read_ahead(files: tuple[Path, ...], progress: Progress) -> None:
    """Have the weights read once in order: what follows finds them in memory, and the operator sees bytes move."""
    total, before = sum(file.stat().st_size for file in files), 0
    for path in files:
        for done in bring_in(path):
            progress("weights", min(before + done, total - 1), total)
        before += path.stat().st_size
