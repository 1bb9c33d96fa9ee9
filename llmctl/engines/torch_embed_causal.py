"""Vectors of a model that generates, where a request says how to pool: the last layer's normed hidden states.

A prompt is computed in pieces like any other, over a cache of its own, so that running answers get their turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmctl.decoding.sampling import nonfinite
from llmctl.domain import StepEngine
from llmctl.engines.embedding import sized
from llmctl.engines.tasks import Work, checked, fits
from llmctl.engines.torch_attention import Pass
from llmctl.engines.torch_cache import KVCache
from llmctl.errors import RequestError

WAYS = ("mean", "last")


def embed(engine: StepEngine, model: Any, inputs: Sequence[str | Sequence[int]], pooling: str | None) -> Work:
    """A unit vector for each input; texts get the tokenizer's beginning of a sequence, as prompts do."""
    if pooling not in WAYS:
        raise RequestError(f"no pooling {pooling!r} for a model that generates: {', '.join(WAYS)}", param="pooling")
    sized(len(inputs), model.config.hidden_size)
    rows, vectors = [], []
    for given in inputs:
        if isinstance(given, str):
            fits((given,), "input", engine)
            given = engine.tokenizer.encode(given)
        rows.append(checked(given, "input", engine))
        yield
    for ids in rows:
        cache, total = KVCache(), None
        for at in range(0, len(ids), engine.prefill_chunk):
            hidden = _states(model, cache, ids[at : at + engine.prefill_chunk])
            total = hidden[-1] if pooling == "last" else hidden.sum(0) + (0 if total is None else total)
            yield
        vectors.append(_unit(total))
    return {"vectors": vectors, "tokens": sum(map(len, rows))}


def _states(model: Any, cache: KVCache, ids: list[int]) -> Any:
    """The hidden states of the next tokens of the only sequence in `cache`: float32, [tokens, width]."""
    import torch

    past = cache.length(0)
    cache.extend({0: len(ids)})
    with torch.inference_mode():
        out = model.base_model(
            input_ids=torch.tensor([ids], device=model.device),
            position_ids=torch.arange(past, past + len(ids), device=model.device)[None],
            use_cache=False,
            forward=Pass(cache, 0, [past], len(ids)),
        )
        return out.last_hidden_state[0].float()


def _unit(vector: Any) -> list[float]:
    import torch

    with torch.inference_mode():
        found: list[float] = torch.nn.functional.normalize(vector, dim=0).tolist()
        if not bool(vector.isfinite().all()):
            raise nonfinite()
    return found
