"""Whether a handle's name says what stands behind it. Its parts are checked, and never taken for the truth. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llmctl.gateway.registry import Handle, Replica
from llmctl.models.registry.naming import handle as handle_of
from llmctl.models.registry.naming import model_id

PREFIXES = {"mlx-": "mlx", "ov-": "openvino"}
"""Of names that promise an engine."""
COMPOSED = "opt-"
"""Of names that promise a technique: opt-TIER-TECHNIQUE or opt-TIER-INTENT."""
Means = Callable[[str], str | None]
"""The model that a name means in the catalog, None for a name that means none."""


def problems(handle: Handle, means: Means = lambda name: None) -> Iterator[str]:
    """What its name says that is not so."""
    for prefix, engine in PREFIXES.items():
        if handle.name.startswith(prefix):
            for replica in handle.replicas:
                yield from _prefixed(handle.name, prefix, engine, replica, means)
    if handle.name.startswith(COMPOSED):
        words = handle.name.removeprefix(COMPOSED).split("-", 1)
        if handle.technique is None and handle.intent is None:
            yield f"{COMPOSED} promises a technique or an intent, and it declares none"
        elif len(words) < 2 or words[0] != handle.tier or words[1] not in (handle.technique, handle.intent):
            said = "-".join(part for part in (handle.tier, handle.technique or handle.intent) if part)
            yield f"what it declares would make it {COMPOSED}{said}"
    elif handle.technique is not None and not handle.name.startswith(tuple(PREFIXES)):
        yield f"a handle with the technique {handle.technique} begins with {COMPOSED}"


def _prefixed(name: str, prefix: str, engine: str, replica: Replica, means: Means) -> Iterator[str]:
    if replica.engine not in (engine, "", "auto"):
        yield f"{prefix} promises the engine {engine}, and {replica.where} runs {replica.engine}"
    if _base(name.removeprefix(prefix)) != _base(replica.model) and means(name) != replica.model:
        yield f"behind {prefix} stands the model, which is {handle_of(replica.model)} on {replica.where}"


def _base(name: str) -> str:
    """Without its quantization, wherever in it that stands."""
    return handle_of(model_id(name))
