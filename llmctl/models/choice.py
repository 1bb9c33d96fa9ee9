"""Which engine runs a model that is there in some formats: a pure decision (engines.md, "So, by default")."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from llmctl.errors import Unsupported

# Which formats an engine reads, and on which backends it runs.
READS = {
    "llamacpp": ("gguf",),
    "openvino": ("gguf",),
    "torch": ("safetensors",),
    "mlx": ("mlx", "safetensors"),
    "scripted": ("script",),
    "upstream": ("server",),
}
RUNS_ON = {
    "llamacpp": ("cpu", "cuda", "metal"),
    "openvino": ("cpu",),
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
    ("cpu", "openvino"): "fastest from GGUF for several requests at once on an x86 CPU",
    ("cpu", "torch"): "runs safetensors on any CPU; `convert --to gguf` is 3-4 times faster",
    ("metal", "mlx"): "native to Metal",
    ("metal", "llamacpp"): "runs GGUF on Metal",
    ("metal", "torch"): "the last resort on Metal",
    ("cuda", "upstream"): "its entry names a server for it",
    ("cuda", "torch"): "runs safetensors on CUDA",
    ("cuda", "llamacpp"): "runs GGUF; on the GPU only with a CUDA build of it",
}


@dataclass(frozen=True)
class Suits:
    """When an engine is better than what PREFERENCE says: so many requests at once asked for, on such a machine, for
    such a model; any others run on it only when it is asked for."""

    parallel: int
    machines: tuple[str, ...]
    architectures: tuple[str, ...]
    quantizations: tuple[str, ...]


# `auto` takes these before PREFERENCE where they are installed and what is asked for suits them.
BETTER = {
    ("cpu", "openvino"): Suits(
        4, ("x86_64", "amd64"), ("llama", "qwen2", "qwen3"), ("f16", "q8_0", "q4_0", "q6_k")
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What else is known of a model to run: `parallel` requests at once were asked for (0: it was left open), on such
    a `machine`, by its GGUF's `architecture` and `quantization`, with the engines that are `installed` there."""

    parallel: int = 0
    machine: str = ""
    architecture: str = ""
    quantization: str = ""
    installed: tuple[str, ...] = ()


class Choice(NamedTuple):
    """The engine `choose_engine` took, why, and why each other one was not taken."""

    engine: str
    why: str
    why_not: dict[str, str]


def choose_engine(backend: str, formats: Collection[str], requested: str = "auto", case: Case = Case()) -> Choice:
    """The engine for a model that is there in `formats`; Unsupported says why not each of them."""
    better = [name for at, name in BETTER if at == backend and not unsuited(backend, name, case)]
    candidates = (*better, *PREFERENCE[backend]) if requested == "auto" else (requested,)
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
            asked = requested != "auto"
            why_not[engine] = f"{taken} was asked for" if asked else _second_best(engine, taken, backend, case)
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


def unsuited(backend: str, engine: str, case: Case) -> str | None:
    """Why an engine of BETTER is not better here."""
    suits = BETTER[backend, engine]
    if case.parallel < suits.parallel:
        return f"better from {suits.parallel} requests at once on, when they are asked for (--parallel)"
    if engine not in case.installed:
        return "not installed here"
    if case.machine.lower() not in suits.machines:
        return f"better on {suits.machines[0]} only"
    if case.architecture not in suits.architectures:
        return f"does not run {case.architecture or 'this architecture'}"
    if case.quantization.lower() not in suits.quantizations:
        return f"does not read {case.quantization or 'this quantization'} exactly"
    return None


def _second_best(engine: str, taken: str, backend: str, case: Case) -> str:
    if (backend, engine) in BETTER and (why := unsuited(backend, engine, case)):
        return why
    if engine not in PREFERENCE[backend]:
        return f"never the default on {backend}"
    return f"{taken} comes first on {backend}"
