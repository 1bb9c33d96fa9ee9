"""Prove at load that a model computes with our caches, in pieces and beside another, what it computes in one piece."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from llmctl.decoding.sampling import nonfinite
from llmctl.domain import EngineSpec
from llmctl.engines.checkpoint import Checkpoint
from llmctl.engines.jobs import as_error, reason
from llmctl.engines.mlx_steps import MlxEngine
from llmctl.errors import LlmctlError, Unsupported

EXACT, HALF = 1e-3, 0.4
"""The largest root-mean-square difference, in standard deviations of the logits, in float32 and in other types."""


@contextlib.contextmanager
def running(spec: EngineSpec, checkpoint: Checkpoint) -> Iterator[None]:
    """Unsupported, by the architecture's name, when mlx-lm's code fails within the block; no memory is told as that."""
    try:
        yield
    except LlmctlError:
        raise
    except Exception as error:
        raise Unsupported(
            f"{spec.model}: architecture {checkpoint.architecture!r} does not run here: {reason(error)}"
        ) from error


def prove(engine: MlxEngine) -> None:
    """NonFiniteLogits when the model's logits are not finite; Unsupported when it does not compute the same in pieces.

    A model that computes the same only alone is left to compute each sequence alone.
    """
    import numpy

    tokens = [(7919 * n + 11) % engine.identity.vocab for n in range(12)]
    expected = in_one(engine, tokens)
    if not numpy.isfinite(expected.max()):
        raise nonfinite()
    most, why = (EXACT if engine.identity.dtype == "float32" else HALF), ""
    for together in [True, False] if engine.together else [False]:
        engine.together = together
        try:
            distance = numpy.square(in_pieces(engine, tokens) - expected).mean()
            spread = float(expected.std()) or 1.0  # a model may have learned nothing: its probe says so
            difference = float(numpy.sqrt(distance)) / spread
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, IndexError) as error:
            if as_error(error).code == "out_of_memory":
                raise
            why = str(error)
            continue
        finally:
            engine.forget()
        if difference < most:
            return
        why = f"difference {difference:.2g}"
    raise Unsupported(
        f"{engine.identity.model}: architecture {engine.identity.architecture!r} does not compute the same with this "
        f"engine's cache ({why})"
    )


def in_one(engine: MlxEngine, tokens: list[int]) -> Any:
    """The logits after `tokens`, computed in one piece and alone."""
    seq = engine.open()
    try:
        return engine.prefill(seq, tokens).row(0)
    finally:
        engine.free(seq)
        engine.forget()


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
