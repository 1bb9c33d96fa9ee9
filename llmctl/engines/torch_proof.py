"""Prove at load that a model decodes with our cache as it does alone.

Not every transformers model keeps to its own interfaces: some call attention twice in a layer, some place positions by
the attention mask, and their tokens would be wrong without an error. Twelve tokens in pieces through the engine against
transformers' own eager attention over the whole tell; it takes a few forward passes, and warms the model up.
"""

from __future__ import annotations

from typing import Any

from llmctl.decoding.sampling import nonfinite
from llmctl.domain import StepEngine
from llmctl.engines import torch_attention
from llmctl.engines.jobs import reason
from llmctl.errors import Unsupported

EXACT, HALF = 1e-3, 0.4
"""The largest root-mean-square difference, in standard deviations of the logits, in float32 and in half precision."""


def prove(engine: StepEngine, model: Any) -> None:
    """Unsupported when the engine's logits are not the model's; NonFiniteLogits when the model's are not finite."""
    import torch

    vocab, name = engine.identity.vocab, engine.identity.architecture
    tokens = [(7919 * n + 11) % vocab for n in range(12)]
    try:
        model.set_attn_implementation("eager")
        with torch.inference_mode():
            ids = torch.tensor([tokens], device=model.device)
            expected = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float().cpu()
        model.set_attn_implementation(torch_attention.NAME)
        found = torch.from_numpy(in_pieces(engine, tokens))
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise Unsupported(
            f"{engine.identity.model}: architecture {name!r} does not run here: {reason(error)}"
        ) from error
    if not expected.max().isfinite():
        raise nonfinite()
    spread = float(expected.std()) or 1.0  # a model may have learned nothing: its probe says so
    difference = float((found - expected).square().mean().sqrt()) / spread
    if not difference < (EXACT if model.dtype == torch.float32 else HALF):
        raise Unsupported(
            f"{engine.identity.model}: architecture {name!r} does not compute the same with this engine's cache "
            f"(difference {difference:.2g})"
        )


def in_pieces(engine: StepEngine, tokens: list[int]) -> Any:
    """The logits after `tokens`, computed as prompts come: two chunks, then steps beside a shorter sequence."""
    one, other = engine.open(), engine.open()
    engine.prefill(one, tokens[:5])
    engine.prefill(other, tokens[:2])
    engine.prefill(one, tokens[5:-2])
    engine.step({one: tokens[-2], other: tokens[2]})
    row = engine.step({other: tokens[3], one: tokens[-1]}).row(1)
    engine.free(one)
    engine.free(other)
    return row
