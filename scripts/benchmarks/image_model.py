"""A vision checkpoint of a real one's size with random weights: the tiny vision model's files around larger layers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.benchmarks.testbed import REPO

TEXT = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_window_layers": 24,
    "max_position_embeddings": 32768,
    "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
    "initializer_range": 0.02,
}
EYE = {"depth": 12, "embed_dim": 512, "hidden_size": 896, "num_heads": 8, "initializer_range": 0.02}
PIXELS = 1280 * 28 * 28


def write(folder: Path) -> Path:
    """The checkpoint, in float32."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    made = subprocess.run(
        [REPO / "scripts" / "tiny-vision"],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    shutil.copytree(json.loads(made.stdout)["tiny-vision"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = {**_read(folder / "config.json"), **TEXT}
    config["vision_config"] = {**config["vision_config"], **EYE}
    _write(folder / "config.json", config)
    pictures = folder / "preprocessor_config.json"
    _write(pictures, {**_read(pictures), "max_pixels": PIXELS})
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    model.save_pretrained(folder)
    _write(folder / "config.json", config)
    return folder


def _read(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")
