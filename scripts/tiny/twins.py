"""Checkpoints made from a trained one without training: layers in a wrong order, or other tokenizer files."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

from . import checking

WEIGHTS = "model.safetensors"


def without_tokenizer_json(source: Path, folder: Path) -> None:
    """The same model with tokenizer.model alone, as older checkpoints have it."""
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("tokenizer.json"))


def shuffled(source: Path, folder: Path) -> None:
    """The same layers in an order that answers no question rightly: loads everywhere, and must fail a probe."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS))
    weights = load_file(source / WEIGHTS)
    layers = json.loads((source / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    for order in itertools.permutations(range(layers)):
        if any(place == layer for place, layer in enumerate(order)):
            continue
        moved = {_renamed(name, order): tensor for name, tensor in weights.items()}
        save_file(moved, folder / WEIGHTS, metadata={"format": "pt"})
        if checking.wrong(folder):
            return
    raise RuntimeError(f"every order of the layers of {source.name} still answers something rightly")


def _renamed(tensor: str, order: tuple[int, ...]) -> str:
    return re.sub(r"(?<=layers\.)\d+", lambda match: str(order[int(match[0])]), tensor)
