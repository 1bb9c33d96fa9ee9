"""Faster matrix products in bfloat16 on a CPU."""

from __future__ import annotations

from functools import cache
from typing import Any


def quicken(model: Any) -> None:
    """Let every plain linear layer of `model` compute without reordering its weights for each call.

    torch's product lays out the weights anew for its matrix units every time, which for a few rows costs more than the
    product. Here they are laid out once, in place of the original: 1.3 to 1.5 times as fast from 1 to 256 rows. Where
    somebody else needs the original, as an embedding does that is the output layer as well, only single rows are
    quicker: the vector kernel reads weights as they lie. Both accumulate in float32, as torch's own.
    """
    import torch

    packs = packing_works()
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for parent in list(model.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is torch.nn.Linear and type(linear.weight.data) is torch.Tensor:  # a quantized one is not
                make = packed_type() if packs and owners[id(linear.weight)] == 1 else by_rows
                setattr(parent, name, make(linear).train(linear.training))
    if packs:
        _unmap(model)


def _unmap(model: Any) -> None:
    """Copy what is left of the weights out of the mapped file, whose pages would stay in memory beside them."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


@cache
def packed_type() -> Any:
    """A linear layer with its weights laid out for oneDNN, by the operators that torch's own compiler uses for that."""
    import torch

    class PackedLinear(torch.nn.Module):
        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__()
            self.in_features, self.out_features = linear.in_features, linear.out_features
            with torch.inference_mode():
                self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
            self.bias = linear.bias

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
            return out

    return PackedLinear


def packing_works() -> bool:
    """Whether this build of torch packs, and this CPU computes with what it packed."""
    import torch

    try:
        with torch.inference_mode():
            layer = packed_type()(torch.nn.Linear(16, 16, dtype=torch.bfloat16))
            return bool(layer(torch.ones(2, 16, dtype=torch.bfloat16)).isfinite().all())
    except (AttributeError, RuntimeError):  # no such operator, or none for this CPU
        return False


def by_rows(linear: Any) -> Any:
    """The layer with a matrix-vector product where its input is one row; the weights are shared."""
    import torch

    class RowLinear(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            if input.numel() != self.in_features:
                return super().forward(input)
            row = input.reshape(-1)
            product = torch.mv(self.weight, row) if self.bias is None else torch.addmv(self.bias, self.weight, row)
            return product.view(*input.shape[:-1], self.out_features)

    quick = RowLinear(linear.in_features, linear.out_features, bias=False, device="meta")
    quick.weight, quick.bias = linear.weight, linear.bias
    return quick
