"""Prove at load that an image-text model takes pictures where its template puts them, and decodes as it does alone.

Models may keep something of the last sequence in their modules; here two sequences take turns, as in a batch.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from llmctl.decoding.sampling import nonfinite
from llmctl.domain import IMAGE, GenerateRequest, Media
from llmctl.engines.jobs import as_error
from llmctl.engines.torch_proof import EXACT, HALF
from llmctl.errors import RequestError, Unsupported

if TYPE_CHECKING:
    from llmctl.engines.torch_vision import VisionEngine

TAIL = 3
"""So many tokens behind the picture are computed one by one."""


def prove(engine: VisionEngine, model: Any) -> None:
    """Unsupported when the engine's logits are not the model's; NonFiniteLogits when the model's are not finite."""
    import torch

    name, id = engine.identity.architecture, engine.identity.model
    try:
        tokens, seen = engine.see(_question())
        with torch.inference_mode():
            ids = torch.tensor([tokens], device=model.device)
            expected = model(input_ids=ids, use_cache=False, **seen.inputs).logits[0, -1].float().cpu()
        found = torch.from_numpy(_in_turns(engine, tokens, seen))
    except (RequestError, TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        if (typed := as_error(error)).code == "out_of_memory":
            raise typed from error
        raise Unsupported(f"{id}: architecture {name!r} does not take a picture here: {error}") from error
    if not expected.max().isfinite():
        raise nonfinite()
    difference = float((found - expected).square().mean().sqrt() / expected.std())
    if not difference < (EXACT if model.dtype == torch.float32 else HALF):
        raise Unsupported(
            f"{id}: architecture {name!r} does not compute the same from its cache (difference {difference:.2g})"
        )


def _in_turns(engine: VisionEngine, tokens: list[int], seen: Any) -> Any:
    """The logits after `tokens`, the last of them one by one, beside a sequence without a picture."""
    head = len(tokens) - TAIL
    one, other = engine.open(seen=seen.first(head, len(tokens))), engine.open()
    engine.prefill(one, tokens[:head])
    engine.prefill(other, tokens[-2:])
    for token in tokens[head:-1]:
        engine.step({other: token, one: token})
    row = engine.step({other: tokens[0], one: tokens[-1]}).row(1)
    engine.free(one)
    engine.free(other)
    return row


def _question() -> GenerateRequest:
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "PNG")
    parts = [{"type": "image"}, {"type": "text", "text": "What is in the picture?"}]
    return GenerateRequest(
        "proof", messages=({"role": "user", "content": parts},), media=(Media(IMAGE, file.getvalue()),)
    )
