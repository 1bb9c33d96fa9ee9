"""Prove at load that a model computes with our caches, in pieces and beside another, what it computes in one piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmctl.decoding.sampling import nonfinite
from llmctl.engines.jobs import as_error
from llmctl.engines.mlx_caches import Caches
from llmctl.engines.mlx_steps import MlxEngine
from llmctl.errors import Unsupported

EXACT, HALF = 1e-3, 0.4
"""The largest root-mean-square difference, in standard deviations of the logits, in float32 and in other types."""


def prove(engine: MlxEngine, model: Any, fresh: Callable[[], Caches]) -> None:
    """NonFiniteLogits when the model's logits are not finite; Unsupported when it does not compute the same in pieces.

    A model that computes the same only alone is left to compute each sequence alone.
    """
    import numpy

    name, exact = engine.identity.architecture, engine.identity.dtype == "float32"
    tokens = [(7919 * n + 11) % engine.identity.vocab for n in range(12)]
    try:
        expected = in_one(model, fresh(), tokens)
        if not numpy.isfinite(expected.max()):
            raise nonfinite()
        difference = float("inf")
        for together in [True, False] if engine.together else [False]:
            engine.together = together
            distance = numpy.square(in_pieces(engine, tokens) - expected).mean()
            difference = float(numpy.sqrt(distance) / expected.std())
            if difference < (EXACT if exact else HALF):
                return
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, IndexError) as error:
        if (typed := as_error(error)).code == "out_of_memory":
            raise typed from error
        raise Unsupported(f"{engine.identity.model}: architecture {name!r} does not run here: {error}") from error
    finally:
        engine.forget()
    raise Unsupported(
        f"{engine.identity.model}: architecture {name!r} does not compute the same with this engine's cache "
        f"(difference {difference:.2g})"
    )


def in_one(model: Any, caches: Caches, tokens: list[int]) -> Any:
    """The logits after `tokens`, computed in one piece."""
    import mlx.core as mx
    import numpy

    return numpy.array(model(mx.array([tokens]), cache=caches)[0, -1].astype(mx.float32))


def in_pieces(engine: MlxEngine, tokens: list[int]) -> Any:
    """The logits after `tokens`, computed as prompts come: two chunks beside another, then steps beside it."""
    one, other = engine.open(), engine.open()
    try:
        engine.forward({one: tokens[:5], other: tokens[:2]})
        engine.forward({one: tokens[5:-2], other: tokens[2:4]})
        engine.step({one: tokens[-2], other: tokens[4]})
        return engine.step({other: tokens[5], one: tokens[-1]}).row(1)
    finally:
        engine.free(one)
        engine.free(other)
