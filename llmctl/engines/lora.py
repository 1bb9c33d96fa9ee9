"""What peft's folders of LoRA adapters (2106.09685) say, for every engine that reads them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmctl.engines.checkpoint import PICKLES
from llmctl.errors import Unsupported

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
OTHER_WAYS = (
    "use_dora", "use_qalora", "lora_bias", "modules_to_save", "fan_in_fan_out", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "layer_replication",
)  # fmt: skip
"""Settings of peft under which an adapter is more than two matrices for a linear layer."""


@dataclass(frozen=True)
class Settings:
    """What adapter_config.json says of the scale: `alpha` ÷ rank, or ÷ its square root (rsLoRA, 2312.03732)."""

    alpha: float
    alphas: Mapping[str, float]
    root: bool

    def scale(self, layer: str, rank: int) -> float:
        alpha = next((a for key, a in self.alphas.items() if re.fullmatch(rf"(.*\.)?({key})", layer)), self.alpha)
        return alpha / (math.sqrt(rank) if self.root else rank)


def read_settings(name: str, folder: Path) -> Settings:
    """Unsupported when the folder has no LoRA adapter in safetensors, or one of a kind that is not computed here."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is not an object")
        alphas = {str(key): float(alpha) for key, alpha in (config.get("alpha_pattern") or {}).items()}
        settings = Settings(float(config["lora_alpha"]), alphas, bool(config.get("use_rslora")))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        why = f"it says no {error}" if isinstance(error, KeyError) else error
        raise Unsupported(f"adapter {name!r}: {folder / CONFIG} cannot be used: {why}") from error
    if (kind := config.get("peft_type", "LORA")) != "LORA":
        raise Unsupported(f"adapter {name!r} is a {kind} adapter; llmctl computes LORA only")
    other = [key for key in OTHER_WAYS if config.get(key)] + ["bias"] * (config.get("bias", "none") != "none")
    if other:
        raise Unsupported(f"adapter {name!r} has {other[0]}, which llmctl does not compute")
    if not (folder / WEIGHTS).is_file():
        pickled = next((file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLES), None)
        why = f"{pickled} is a pickle, which can run code" if pickled else f"there is no {WEIGHTS}"
        raise Unsupported(f"adapter {name!r}: {why}", hint="save it with safe_serialization=True")
    return settings
