"""Prove at load that an image-text model takes pictures where its template puts them, and decodes as it does alone.

Models may keep something of the last sequence in their modules; here a chat with a picture and one without take turns,
as in a batch, and both must come out as the model computes them whole.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmctl.decoding.sampling import nonfinite
from llmctl.domain import IMAGE, GenerateRequest, Media
from llmctl.engines.jobs import reason
from llmctl.engines.torch_proof import EXACT, HALF
from llmctl.errors import RequestError, Unsupported

if TYPE_CHECKING:
    from llmctl.engines.torch_vision import VisionEngine

QUESTION = "What is in the picture?"
TAIL = 3
"""So many tokens at the end of each chat are computed one by one."""


def prove(engine: VisionEngine, model: Any) -> None:
    """Unsupported when the engine's logits are not the model's; NonFiniteLogits when the model's are not finite."""
    name, id = engine.identity.architecture, engine.identity.model
    try:
        tokens, seen = engine.see(_chat([{"type": "image"}, {"type": "text", "text": QUESTION}]))
        plain = engine.tokenizer.chat(({"role": "user", "content": QUESTION},))
        expected = _whole(model, tokens, seen.inputs), _whole(model, plain, {})
        found = _in_turns(engine, tokens, seen, plain)
    except (RequestError, TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise Unsupported(f"{id}: architecture {name!r} does not take a picture here: {reason(error)}") from error
    for whole, pieces in zip(expected, found, strict=True):
        _compare(f"{id}: architecture {name!r}", model, whole, pieces)


def _compare(what: str, model: Any, whole: Any, pieces: Any) -> None:
    import torch

    if not whole.max().isfinite():
        raise nonfinite()
    difference = float((torch.from_numpy(pieces) - whole).square().mean().sqrt()) / (float(whole.std()) or 1.0)
    if not difference < (EXACT if model.dtype == torch.float32 else HALF):
        raise Unsupported(f"{what} does not compute the same from its cache (difference {difference:.2g})")


def _whole(model: Any, tokens: list[int], inputs: Mapping[str, Any]) -> Any:
    """The model's own logits after `tokens`."""
    import torch

    with torch.inference_mode():
        ids = torch.tensor([tokens], device=model.device)
        return model(input_ids=ids, use_cache=False, **inputs).logits[0, -1].float().cpu()


def _in_turns(engine: VisionEngine, tokens: list[int], seen: Any, plain: list[int]) -> tuple[Any, Any]:
    """The engine's logits after both chats: the one without a picture in two chunks, their ends one by one."""
    head, half = len(tokens) - TAIL, (len(plain) - TAIL) // 2
    one, other = engine.open(seen=seen.first(head, len(tokens))), engine.open()
    engine.prefill(other, plain[:half])
    engine.prefill(one, tokens[:head])
    engine.prefill(other, plain[half:-TAIL])
    for left in range(TAIL, 0, -1):
        logits = engine.step({other: plain[-left], one: tokens[-left]})
    engine.free(one)
    engine.free(other)
    return logits.row(1), logits.row(0)


def _chat(parts: list[dict[str, str]]) -> GenerateRequest:
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "PNG")
    media = (Media(IMAGE, file.getvalue()),)
    return GenerateRequest("proof", messages=({"role": "user", "content": parts},), media=media)
