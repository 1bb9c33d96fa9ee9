"""From a model's name to all that a slot server must know: artifact, engine, context, memory."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmctl import backends
from llmctl.backends import cpu
from llmctl.catalog import Artifact, Catalog, Model, Traits, normal
from llmctl.config import Host, ProfileSlot, Tuning
from llmctl.domain import EngineSpec, MediaPolicy, SlotSpec
from llmctl.environments import installed
from llmctl.errors import ConfigError, Unsupported, UsageError
from llmctl.models import fit
from llmctl.models.architectures import LIBRARIES
from llmctl.models.checkpoint import Checkpoint
from llmctl.models.choice import BETTER, Case, Choice, choose_engine, format_for
from llmctl.slots import artifacts, servers, spread, tuning
from llmctl.slots.state import Launch

DEFAULT_CONTEXT = 32768
DEFAULT_PARALLEL = 4
SCRIPT_BYTES = 60_000_000


@dataclass(frozen=True)
class Wish(Tuning):
    """What an operator or a profile asks for; None is "as llmctl would choose"."""

    model: str
    engine: str = "auto"
    quantization: str | None = None
    context: int | None = None
    parallel: int | None = None
    idle_unload: float | None = None
    names: tuple[str, ...] = ()
    spare: bool | None = None


def profile_slot(catalog: Catalog, host: Host, slot: ProfileSlot) -> SlotSpec:
    """The complete spec of a profile's slot."""
    names = tuple(entry.name for entry in slot.named())
    wish = Wish(
        slot.model, slot.engine, slot.quantization, slot.context, slot.parallel, slot.idle_unload, names,
        **slot.tuning(),
    )  # fmt: skip
    spec = resolve(catalog, host, wish)
    return replace(spec, evictable=slot.on_demand and not slot.pinned, exclusive=slot.exclusive)


def backend_of(host: Host) -> str:
    """The host's backend, detected when its entry says auto."""
    return backends.detect() if host.backend == "auto" else host.backend


def launch_of(host: Host) -> Launch:
    """How a slot server of `host` starts."""
    media = MediaPolicy(str(host.image_folder) if host.image_folder else None, host.image_urls)
    return Launch(
        host.bind, memory_budget=host.memory_budget, backend=backend_of(host), service=host.service, media=media
    )


def resolve(catalog: Catalog, host: Host, wish: Wish) -> SlotSpec:
    """The complete spec; Refused when the model is not on this host, Unsupported when no engine here runs it."""
    model = catalog.resolve(wish.model)
    present = artifacts.present(model, host)
    if wish.quantization:
        present = [(a, p) for a, p in present if (a.quantization or "").casefold() == wish.quantization.casefold()]
    named = [(a, p) for a, p in present if normal(wish.model) in map(normal, a.names)]
    present = named or present
    if not present:
        raise artifacts.absent(model, host, wish.quantization)
    choice = choose_engine(backend_of(host), {a.format for a, _ in present}, wish.engine, case_of(model, present, wish))
    format = format_for(choice.engine, {a.format for a, _ in present})
    artifact, path = next((a, p) for a, p in present if a.format == format)
    if artifact.format == "script":
        return _script(model, path, wish, host)
    if artifact.server:
        engine = servers.engine_spec(model, artifact, path, wish.context, wish.parallel, wish)
        return _finish(model, engine, artifact.server.memory or 0, wish, artifact, host)
    beside = tuning.resolved(catalog, host, wish, choice.engine)
    return _spec(model, artifact, path, choice, host, wish, beside)


def case_of(model: Model, present: Sequence[tuple[Artifact, Path]], wish: Wish) -> Case:
    """What decides between two engines for the same file; its header is read only where several requests at once are
    asked for."""
    path = next((p for a, p in present if a.format == "gguf"), None)
    if path is None or wish.engine != "auto" or (wish.parallel or 0) < min(suits.parallel for suits in BETTER.values()):
        return Case()
    ready = tuple(engine for _, engine in BETTER if installed.package(engine, LIBRARIES[engine]))
    found = artifacts.readable(model, path)
    quantization = (found.quantization or "") if not found.sees else ""
    return Case(wish.parallel or 0, platform.machine(), found.architecture, quantization, ready)


def _spec(
    model: Model, artifact: Artifact, path: Path, choice: Choice, host: Host, wish: Wish, beside: Mapping[str, Any]
) -> SlotSpec:  # fmt: skip
    try:
        installed.python_for(choice.engine, model.env)
    except Unsupported as error:
        raise Unsupported(f"{model.id}: {error.message}", hint=error.hint) from None
    found = artifacts.readable(model, path)
    longest = longest_context(model, artifact, found)
    context = wish.context or min(longest, DEFAULT_CONTEXT)
    if context > longest:
        raise UsageError(f"{model.id} has a context of {longest} tokens, not {context}", hint=f"--context {longest}")
    parallel = wish.parallel or DEFAULT_PARALLEL
    engine = EngineSpec(
        engine=choice.engine, model=model.id, path=str(path), format=artifact.format, context=context,
        parallel=parallel, allow_code=model.allow_code, options=talk(model.traits(artifact)), **beside,
    )  # fmt: skip
    whole = needs(found, engine, backend_of(host), tuning.draft_of(engine))
    needed = whole.total
    if wish.spread:
        engine, needed = spread.over(host, model, artifact, found, engine, whole, wish.spread)
    return _finish(model, engine, needed, wish, artifact, host)


def longest_context(model: Model, artifact: Artifact, found: Checkpoint) -> int:
    """The most tokens of one conversation, by the files and by the catalog."""
    return min(n for n in (found.context, model.traits(artifact).context, 2**31) if n)


def needs(found: Checkpoint, spec: EngineSpec, backend: str, draft: Checkpoint | None = None) -> fit.Fit:
    """The memory of this host's engine with it: torch and OpenVINO widen the weights where a CPU has no bf16.

    `draft` is the model that `tuning.draft_of` found. It has no process of its own, and keys and values as its own
    shape wants; adapters take what their files take.
    """
    widened = spec.engine in ("torch", "openvino") and backend == "cpu" and not cpu.fast_bf16()

    def of(one: Checkpoint) -> fit.Fit:
        return fit.estimate(
            one, spec.context, spec.parallel, spec.engine, "float32" if widened else None, backend,
            cache_bits=spec.cache_bits, cache_bytes=spec.cache_bytes,
        )  # fmt: skip

    total = of(found)
    extra = tuning.adapter_bytes(spec.adapters) * (2 if widened else 1)
    drafted = of(draft) if draft else fit.Fit(0, 0, 0, 0)
    return fit.Fit(
        total.weights + drafted.weights + extra, total.kv + drafted.kv, total.compute + drafted.compute, total.process
    )


def _script(model: Model, path: Path, wish: Wish, host: Host) -> SlotSpec:
    if any(wish.tuning().values()):
        raise UsageError(f"{model.id} is a script: it takes no draft, no adapters, no cache and no other hosts")
    engine = EngineSpec(
        engine="scripted", model=model.id, path=str(path), format="script", context=wish.context or 1024,
        parallel=wish.parallel or DEFAULT_PARALLEL,
    )  # fmt: skip
    return _finish(model, engine, script_bytes(path), wish, None, host)


def script_bytes(path: Path) -> int:
    """What a script says that it needs."""
    try:
        return int(json.loads(path.read_text())["needed"])
    except (OSError, ValueError, KeyError, TypeError):
        return SCRIPT_BYTES


def talk(traits: Traits) -> dict[str, Any]:
    """How the engine is to speak with the model, as its options; the text of a template's file goes with them."""
    template = traits.chat_template
    try:
        text = Path(template).read_text(encoding="utf-8") if template and Path(template).is_absolute() else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{template}: the chat template cannot be read: {error}") from None
    options = {
        "chat_template": text,
        "chat_template_name": None if text else template,
        "chat_template_args": dict(traits.chat_template_args),
        "stop_ids": list(traits.stop_ids),
        "tool_parser": traits.tool_parser,
        "reasoning_parser": traits.reasoning_parser,
    }
    return {key: value for key, value in options.items() if value}


def _finish(
    model: Model, engine: EngineSpec, needed: int, wish: Wish, artifact: Artifact | None, host: Host
) -> SlotSpec:  # fmt: skip
    timeout = model.traits(artifact).load_timeout
    own = artifact.names if artifact else ()
    names = dict.fromkeys([*model.aliases, *own, model.id.replace(".", "-"), *wish.names])
    return SlotSpec(
        engine=engine, names=tuple(n for n in names if n != model.id), probe=model.probe, needed_bytes=needed,
        idle_unload=wish.idle_unload, load_timeout=timeout or SlotSpec.load_timeout, pins=dict(model.env),
        spare_bytes=_spare_bytes(host, wish, engine.engine),
    )  # fmt: skip


def _spare_bytes(host: Host, wish: Wish, engine: str) -> int:
    """What its process takes without a model; 0 where none is to be kept."""
    needed = fit.PROCESS.get(engine, 0)
    if wish.spare and not needed:
        raise UsageError(f"the {engine} engine has no libraries to keep ready", hint="leave --spare out")
    return needed if (host.spare if wish.spare is None else wish.spare) else 0
