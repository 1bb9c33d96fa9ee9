"""LoRA adapters (2106.09685) on the torch engine: read from peft's folders, and applied to each token of its sequence.

The base layer computes all tokens at once; then each adapter adds its part to those of its own sequences. Nothing is
merged, so sequences with different adapters stand in one batch. peft itself would bring accelerate and a wrapper
around the whole model for these few lines.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmctl.domain import EngineSpec
from llmctl.engines.checkpoint import PICKLES
from llmctl.errors import LoadFailed, Unsupported

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
OTHER_WAYS = (
    "use_dora", "use_qalora", "lora_bias", "modules_to_save", "fan_in_fan_out", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "layer_replication",
)  # fmt: skip
"""Settings of peft under which an adapter is more than two matrices for a linear layer."""

Tensor = Any


@dataclass(frozen=True)
class Settings:
    """What adapter_config.json says of the scale: `alpha` ÷ rank, or ÷ its square root (rsLoRA, 2312.03732)."""

    alpha: float
    alphas: Mapping[str, float]
    root: bool

    def scale(self, layer: str, rank: int) -> float:
        alpha = next((a for key, a in self.alphas.items() if re.fullmatch(rf"(.*\.)?({key})", layer)), self.alpha)
        return alpha / (math.sqrt(rank) if self.root else rank)


@dataclass
class Chosen:
    """Which tokens of the pass under way are whose: (adapter, its first token, the one after its last)."""

    spans: list[tuple[str, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Adapters:
    """The loaded adapters, and how a pass says which sequences want which."""

    names: tuple[str, ...] = ()
    bytes: int = 0
    _chosen: Chosen = field(default_factory=Chosen)

    @contextlib.contextmanager
    def chosen(self, order: Iterable[tuple[str | None, int]]) -> Iterator[None]:
        """For the pass within the block: the adapter and the count of tokens of each sequence in turn."""
        at = 0
        try:
            for name, tokens in order if self.names else ():
                if name is not None:
                    self._chosen.spans.append((name, at, at + tokens))
                at += tokens
            yield
        finally:
            self._chosen.spans.clear()


def check(spec: EngineSpec) -> None:
    """Unsupported, by the adapter's name, for a folder that cannot be one of these; no weights are read."""
    for name, path in spec.adapters.items():
        read_settings(name, Path(path))


def attach(spec: EngineSpec, model: Any) -> Adapters:
    """Load the adapters of `spec` and put them into the model's layers; LoadFailed for one that does not fit them."""
    chosen, size = Chosen(), 0
    for name, path in spec.adapters.items():
        settings = read_settings(name, Path(path))
        for layer, (a, b) in read_pairs(name, Path(path)).items():
            linear = _linear(name, layer, model)
            if a.shape[1:] != (linear.in_features,) or b.shape != (linear.out_features, len(a)):
                raise LoadFailed(
                    f"adapter {name!r} does not fit {spec.model}: {layer} takes {linear.in_features} and gives "
                    f"{linear.out_features}, the adapter's matrices are {[*a.shape]} and {[*b.shape]}",
                    hint="it was trained on another base model",
                )
            b = b.float() * settings.scale(layer, len(a))
            pair = a.to(model.device, model.dtype), b.to(model.device, model.dtype)
            if not all(bool(matrix.isfinite().all()) for matrix in pair):
                raise LoadFailed(f"adapter {name!r}: the weights of {layer} are not finite")
            size += sum(matrix.numel() * matrix.element_size() for matrix in pair)
            _adapted(model, layer, linear, chosen).pairs[name] = pair
    return Adapters(tuple(spec.adapters), size, chosen)


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
        raise Unsupported(f"adapter {name!r} is a {kind} adapter; the torch engine computes LORA only")
    other = [key for key in OTHER_WAYS if config.get(key)] + ["bias"] * (config.get("bias", "none") != "none")
    if other:
        raise Unsupported(f"adapter {name!r} has {other[0]}, which the torch engine does not compute")
    if not (folder / WEIGHTS).is_file():
        pickled = next((file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLES), None)
        why = f"{pickled} is a pickle, which can run code" if pickled else f"there is no {WEIGHTS}"
        raise Unsupported(f"adapter {name!r}: {why}", hint="save it with safe_serialization=True")
    return settings


def read_pairs(name: str, folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The two matrices for each layer, by its name in the base model; LoadFailed for anything else in the file."""
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / WEIGHTS)
    except Exception as error:
        raise LoadFailed(f"adapter {name!r}: {folder / WEIGHTS} cannot be read: {error}") from error
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        layer, _, half = key.removeprefix(PREFIX).rpartition(".lora_")
        if half not in ("A.weight", "B.weight") or not layer or tensor.dim() != 2:
            raise LoadFailed(f"adapter {name!r}: {key} is no matrix of a LoRA adapter")
        halves.setdefault(layer, {})[half[0]] = tensor
    alone = sorted(layer for layer, pair in halves.items() if len(pair) != 2)
    if alone or not halves:
        raise LoadFailed(f"adapter {name!r}: " + (f"{alone[0]} has one matrix of two" if alone else "it is empty"))
    return {layer: (pair["A"], pair["B"]) for layer, pair in halves.items()}


def _linear(name: str, layer: str, model: Any) -> Any:
    """The layer of the model that an adapter names."""
    try:
        found = model.get_submodule(layer)
    except AttributeError:
        raise LoadFailed(
            f"adapter {name!r} adapts {layer}, which the model does not have", hint="it was trained on another model"
        ) from None
    if found is model.get_output_embeddings() or not hasattr(found, "in_features"):
        raise LoadFailed(f"adapter {name!r} adapts {layer}, which is no linear layer within the model")
    return found


def _adapted(model: Any, layer: str, linear: Any, chosen: Chosen) -> Any:
    """The layer with room for adapters, put in its place when it has none yet."""
    import torch

    if hasattr(linear, "pairs"):
        return linear

    class LoraLinear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = linear
            self.in_features, self.out_features = linear.in_features, linear.out_features
            self.pairs: dict[str, tuple[Tensor, Tensor]] = {}

        def forward(self, input: Tensor) -> Tensor:
            out = self.base(input)
            tokens, added = input.reshape(-1, self.in_features), out.view(-1, self.out_features)
            for name, start, end in chosen.spans:
                if name in self.pairs:
                    a, b = self.pairs[name]
                    added[start:end] += (tokens[start:end] @ a.T) @ b.T
            return out

    parent, _, leaf = layer.rpartition(".")
    new = LoraLinear()
    setattr(model.get_submodule(parent), leaf, new)
    return new
