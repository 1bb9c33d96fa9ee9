"""Copies of a tiny checkpoint with something wrong in them that every engine loads without a word."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"


def copied(source: Path, folder: Path, change: Any) -> Path:
    """A copy in which `change(weights, config)` has changed the tensors by name, or the configuration, in place."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(WEIGHTS))
    weights, config = load_file(source / WEIGHTS), json.loads((source / "config.json").read_text())
    change(weights, config)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def swapped(weights: dict[str, Any], config: dict[str, Any]) -> None:
    """The first two layers change places."""
    order = {"0": "1", "1": "0"}
    moved = {re.sub(r"(?<=layers\.)\d+", lambda m: order.get(m[0], m[0]), name): t for name, t in weights.items()}
    weights.update(moved)


def zeroed(weights: dict[str, Any], config: dict[str, Any]) -> None:
    """One matrix of the second layer is all zeros."""
    name = next(n for n in weights if re.search(r"layers\.1\.mlp\.(down_proj|fc2)\.weight", n))
    weights[name].zero_()


def scaled(weights: dict[str, Any], config: dict[str, Any]) -> None:
    """All matrices of the second layer half as large again, as by a wrong scale.

    Gemma 3 norms what comes out of its matrices: there the norms' own scales (1 + weight) are wrong.
    """
    gemma = config["model_type"].startswith("gemma3")
    for name, tensor in weights.items():
        if "layers.1." not in name or ("norm" in name) != gemma:
            continue
        tensor.copy_((1 + tensor) * 1.5 - 1 if gemma else tensor * 1.5)


def turned(weights: dict[str, Any], config: dict[str, Any]) -> None:
    """A wrong base of the rotary embedding."""
    for key in ("rope_theta", "rope_local_base_freq"):
        if key in config:
            config[key] *= 0.01 if config[key] >= 1e5 else 100


def poisoned(weights: dict[str, Any], config: dict[str, Any]) -> None:
    """NaN in one matrix."""
    name = next(n for n in weights if re.search(r"layers\.1\.mlp\.(down_proj|fc2)\.weight", n))
    weights[name][0, 0] = float("nan")


def rounded(bits: int) -> Any:
    """Matrices rounded to `bits`, in groups of 64 with a scale and an offset each (as affine quantization does)."""

    def change(weights: dict[str, Any], config: dict[str, Any]) -> None:
        for name, tensor in weights.items():
            if tensor.ndim == 2:
                groups = tensor.reshape(-1, 64)
                low = groups.min(1, keepdim=True).values
                step = ((groups.max(1, keepdim=True).values - low) / (2**bits - 1)).clamp(min=1e-12)
                weights[name] = (((groups - low) / step).round() * step + low).reshape(tensor.shape)

    return change
