"""Whether a handle's name says what stands behind it. Its parts are checked, and never taken for the truth. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from llmctl.gateway.registry import Handle
from llmctl.models.registry.naming import handle as handle_of

PREFIXES = {"mlx-": "mlx", "ov-": "openvino"}
"""Of names that promise an engine."""
COMPOSED = "opt-"
"""Of names that promise a technique: opt-TIER-TECHNIQUE or opt-TIER-INTENT."""


def problems(handle: Handle) -> Iterator[str]:
    """What its name says that is not so."""
    for prefix, engine in PREFIXES.items():
        if handle.name.startswith(prefix):
            for replica in handle.replicas:
                if replica.engine not in (engine, "", "auto"):
                    yield f"{prefix} promises the engine {engine}, and {replica.where} runs {replica.engine}"
                base = handle_of(replica.model)
                if not handle.name.removeprefix(prefix).startswith(base.removeprefix(prefix)):
                    yield f"behind {prefix} stands the model, which is {base} on {replica.where}"
    if handle.name.startswith(COMPOSED):
        words = handle.name.removeprefix(COMPOSED).split("-", 1)
        if handle.technique is None and handle.intent is None:
            yield f"{COMPOSED} promises a technique or an intent, and it declares none"
        elif len(words) < 2 or words[0] != handle.tier or words[1] not in (handle.technique, handle.intent):
            said = "-".join(part for part in (handle.tier, handle.technique or handle.intent) if part)
            yield f"what it declares would make it {COMPOSED}{said}"
    elif handle.technique is not None and not handle.name.startswith(tuple(PREFIXES)):
        yield f"a handle with the technique {handle.technique} begins with {COMPOSED}"
