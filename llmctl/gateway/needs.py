"""What decoding techniques need of an engine, and what engines have for sure. Pure; nothing is decoded here."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from llmctl.errors import nearest

NEEDS: dict[str, tuple[str, ...]] = {
    "cot-decoding": ("fork", "logprobs"),
    "entropy": ("logprobs",),
    "deepconf": ("fork", "logprobs"),
    "self-consistency": ("fork",),
    "think-budget": ("mask",),
    "autothink": ("mask",),
    **dict.fromkeys(
        ("bon", "genselect", "moa", "re2", "cot-reflection", "router", "plansearch", "mcts", "rstar", "leap", "pvg",
         "cepo", "mars"), (),
    ),
}  # fmt: skip
"""Technique → words of `Identity.capabilities`; none: a chat is enough. A mask that allows one token forces it."""

_STEPS = ("fork", "logprobs", "logit_bias", "mask", "seed")
HAVE = {"torch": _STEPS, "mlx": _STEPS, "openvino": _STEPS, "llamacpp": _STEPS, "scripted": ("logprobs",)}
"""Engine → what every model that it generates text with has. Of one that is not here a slot must be asked."""


def problems(technique: str, engine: str, capabilities: Collection[str] | None = None) -> Iterator[str]:
    """Why an engine cannot serve a technique; `capabilities` are those that a slot itself tells."""
    if technique not in NEEDS:
        close = nearest(technique, NEEDS)
        yield f"there is no technique {technique[:140]!r}" + (f", did you mean {close!r}?" if close else "")
        return
    able = capabilities if capabilities is not None else HAVE.get(engine)
    if able is not None and (missing := [need for need in NEEDS[technique] if need not in able]):
        yield f"{technique} needs {' and '.join(missing)}, and the engine {engine} has no such thing"
