"""Which engine runs a model that is there in some formats: a pure decision (engines.md, "So, by default")."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from llmctl.errors import Unsupported

# Which formats an engine reads, and on which backends it runs.
READS = {
    "llamacpp": ("gguf",),
    "torch": ("safetensors",),
    "mlx": ("mlx", "safetensors"),
    "scripted": ("script",),
    "upstream": ("server",),
}
RUNS_ON = {
    "llamacpp": ("cpu", "cuda", "metal"),
    "torch": ("cpu", "cuda", "metal"),
    "mlx": ("metal", "cpu"),
    "scripted": ("cpu", "cuda", "metal"),
    "upstream": ("cpu", "cuda", "metal"),
}
# `auto` takes the first of these that reads a format there is.
PREFERENCE = {
    "cpu": ("llamacpp", "torch", "scripted", "upstream"),
    "metal": ("mlx", "llamacpp", "torch", "scripted", "upstream"),
    "cuda": ("upstream", "torch", "llamacpp", "scripted"),
}
REASON = {
    ("cpu", "llamacpp"): "fastest from GGUF on a CPU",
    ("cpu", "torch"): "runs safetensors on any CPU; `convert --to gguf` is 3-4 times faster",
    ("metal", "mlx"): "native to Metal",
    ("metal", "llamacpp"): "runs GGUF on Metal",
    ("metal", "torch"): "the last resort on Metal",
    ("cuda", "upstream"): "its entry names a server for it",
    ("cuda", "torch"): "runs safetensors on CUDA",
    ("cuda", "llamacpp"): "runs GGUF; on the GPU only with a CUDA build of it",
}


class Choice(NamedTuple):
    """The engine `choose_engine` took, why, and why each other one was not taken."""

    engine: str
    why: str
    why_not: dict[str, str]


def choose_engine(backend: str, formats: Collection[str], requested: str = "auto") -> Choice:
    """The engine for a model that is there in `formats`; Unsupported says why not each of them."""
    candidates = PREFERENCE[backend] if requested == "auto" else (requested,)
    why_not = {}
    for engine in READS:
        if why := _obstacle(engine, backend, formats):
            why_not[engine] = why
    able = [engine for engine in candidates if engine in READS and engine not in why_not]
    if not able:
        why_not |= {name: f"never the default on {backend}" for name in READS if name not in {*why_not, *candidates}}
        tried = "; ".join(f"{name}: {why_not.get(name, 'no such engine')}" for name in candidates)
        raise Unsupported(
            f"no engine for it on {backend} ({tried})",
            hint="`llmctl convert` makes another format" if formats else "`llmctl pull` brings the model here",
            details={"why_not": why_not, "formats": sorted(formats)},
        )
    taken = able[0]
    for engine in READS:
        if engine != taken and engine not in why_not:
            why_not[engine] = f"{taken} was asked for" if requested != "auto" else _second_best(engine, taken, backend)
    why = "asked for" if requested != "auto" else REASON.get((backend, taken), "the only one for this format")
    return Choice(taken, why, why_not)


def format_for(engine: str, formats: Collection[str]) -> str | None:
    """The format of `formats` that this engine prefers; None when it reads none of them."""
    return next((f for f in READS[engine] if f in formats), None)


def _obstacle(engine: str, backend: str, formats: Collection[str]) -> str | None:
    if backend not in RUNS_ON[engine]:
        return f"does not run on {backend}"
    if not format_for(engine, formats):
        return f"reads {' or '.join(READS[engine])}, there is {', '.join(sorted(formats)) or 'nothing'}"
    return None


def _second_best(engine: str, taken: str, backend: str) -> str:
    if engine not in PREFERENCE[backend]:
        return f"never the default on {backend}"
    return f"{taken} comes first on {backend}"
