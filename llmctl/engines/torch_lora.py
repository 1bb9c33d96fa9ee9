"""LoRA adapters (2106.09685) on the torch engine: read from peft's folders, and applied to each token of its sequence.

The base layer computes all tokens at once; then each adapter adds its part to those of its own sequences. Nothing is
merged, so sequences with different adapters stand in one batch. peft itself would wrap the whole model for these few
lines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmctl.domain import EngineSpec
from llmctl.engines.lora import PREFIX, WEIGHTS, read_settings
from llmctl.errors import LoadFailed

Tensor = Any


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
