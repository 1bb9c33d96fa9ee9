"""What must hold of a checkpoint, and of the model that was made of it, before the torch engine answers with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmctl.domain import EngineSpec
from llmctl.engines.checkpoint_checks import VERIFY
from llmctl.errors import LoadFailed

OTHER_FILES = "its config.json and its weights are not of the same model; pull it again"


def accounted(spec: EngineSpec, report: Mapping[str, Any], config: Any, spare: str) -> None:
    """LoadFailed unless the weights are those of this configuration, by transformers' report of what it loaded.

    Weights named `spare…` may be missing. Others may be too many (a projector, a rotary table), but no whole layers.
    """
    wrong = sorted((name, [*stored], [*built]) for name, stored, built in report["mismatched_keys"])
    if wrong:
        name, stored, built = wrong[0]
        raise LoadFailed(f"{spec.model}: config.json makes {name} {built}, its weights are {stored}", hint=OTHER_FILES)
    if absent := sorted(name for name in report["missing_keys"] if not spare or not name.startswith(spare)):
        raise LoadFailed(f"{spec.model}: {len(absent)} weights are missing, {absent[0]} among them", hint=VERIFY)
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    numbers = {int(found[1]) for name in report["unexpected_keys"] if (found := re.search(r"\.layers\.(\d+)\.", name))}
    if layers and max(numbers, default=-1) >= layers:
        raise LoadFailed(
            f"{spec.model}: config.json says {layers} layers, its weights have {max(numbers) + 1}", hint=OTHER_FILES
        )


def residency(spec: EngineSpec, model: Any, device: str) -> dict[str, int]:
    """Bytes of weights and buffers by device; LoadFailed when some are not on `device`."""
    import torch

    wanted, found = torch.device(device), dict[str, int]()
    for kind in (model.named_parameters(), model.named_buffers()):
        for name, tensor in kind:
            here = tensor.device
            if here.type != wanted.type or (wanted.index is not None and here.index != wanted.index):
                raise LoadFailed(f"{spec.model}: {name} is on {here}, not on {wanted}")
            found[str(here)] = found.get(str(here), 0) + tensor.numel() * tensor.element_size()
    return found
