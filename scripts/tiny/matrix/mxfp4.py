"""Four-bit floats in blocks of 32 with a common power of two (OCP MX v1.0), as gpt-oss keeps its experts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

BLOCK, BIAS = 32, 127
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
WEIGHTS = "model.safetensors"
EXPERTS = ("gate_up_proj", "down_proj")
LEFT = ("model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head")


def packed(weight: Any) -> tuple[Any, Any]:
    """Blocks (experts, out, in / 32, 16) and scales (experts, out, in / 32) of weights (experts, in, out)."""
    import torch

    rows = weight.transpose(1, 2).float()
    rows = rows.reshape(*rows.shape[:2], -1, BLOCK)
    most = rows.abs().amax(-1).clamp(min=2.0**-60)
    power = torch.ceil(torch.log2(most / VALUES[-1]))
    scaled = rows / torch.exp2(power).unsqueeze(-1)
    nearest = (scaled.abs().unsqueeze(-1) - torch.tensor(VALUES)).abs().argmin(-1)
    codes = (nearest + 8 * (scaled < 0)).to(torch.uint8)
    return codes[..., 0::2] | (codes[..., 1::2] << 4), (power + BIAS).to(torch.uint8)


def rounded(weight: Any) -> Any:
    """The same weights as four bits can say them."""
    import torch

    blocks, scales = packed(weight)
    codes = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).long()
    size = torch.tensor(VALUES)[codes & 7] * (1 - 2 * (codes >> 3))
    rows = size * torch.exp2(scales.float() - BIAS).unsqueeze(-1)
    return rows.flatten(-2).transpose(1, 2).contiguous()


def pack(source: Path, folder: Path) -> None:
    """The checkpoint `source`, whose experts are `rounded` already, in the layout of the hub's gpt-oss."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS))
    weights = {}
    for name, weight in load_file(source / WEIGHTS).items():
        if name.endswith(EXPERTS):
            weights[f"{name}_blocks"], weights[f"{name}_scales"] = packed(weight)
        else:
            weights[name] = weight.to(torch.bfloat16)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": list(LEFT)}
    config["torch_dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
