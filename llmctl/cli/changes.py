"""What every verb that changes a slot shares: from typed words to a spec, the change with its progress, its JSON."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmctl import tables
from llmctl.cli.session import Session, Target
from llmctl.config import Tuning
from llmctl.domain import SlotSpec
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError

if TYPE_CHECKING:
    from llmctl.slots.verbs import ChangeResult


def spec_of(
    session: Session,
    target: Target,
    model: str,
    engine: str,
    quantization: str | None,
    context: int | None,
    parallel: int | None,
    idle_unload: str | None,
    spare: bool | None,
    tuning: Tuning,
) -> SlotSpec:
    """The complete content of a slot, from what was typed."""
    from llmctl.slots.resolve import Wish, resolve

    idle = tables.seconds(idle_unload) if idle_unload else None
    wish = Wish(model, engine, quantization, context, parallel, idle, spare=spare, **tuning.tuning())
    return resolve(session.catalog, target.host, wish)


def change(
    session: Session, target: Target, action: str, spec: SlotSpec, order: str = "auto", lock_wait: str = "0",
    evict: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Load or swap, with its progress shown; the data of the result. With `evict` others that may go make room."""
    from llmctl.slots import room, verbs

    home, port, launch, wait = session.home, target.port, session.launch(target.host), tables.seconds(lock_wait)
    with session.progress() as on_event:
        making = room.made(home, port, spec, launch, on_event, order) if evict else nullcontext(on_event)
        with making as told:
            result = verbs.change(home, port, action, spec, order=order, lock_wait=wait, launch=launch, on_event=told)
    return data_of(target, result)


def planned(action: str, target: Target, spec: SlotSpec) -> Answer:
    """The answer of --dry-run."""
    engine = spec.engine
    data = {
        "would": action,
        "host": target.host.name,
        "port": target.port,
        "model": spec.model,
        "engine": engine.engine,
        "path": engine.path,
        "context": engine.context,
        "parallel": engine.parallel,
        "needed_bytes": spec.needed_bytes,
        "draft": engine.draft,
        "adapters": dict(engine.adapters),
        "cache_bits": engine.cache_bits,
        "cache_bytes": engine.cache_bytes,
        "spread": [dict(member) for member in engine.spread],
        "spare_bytes": spec.spare_bytes,
    }
    return Answer(data)


def room_for(session: Session, target: Target, spec: SlotSpec) -> dict[str, Any]:
    """What --dry-run tells of memory: what is left, who would be unloaded (--evict), or why that does not help."""
    from llmctl.slots import room

    launch = session.launch(target.host)
    space = room.space(session.home, target.port, launch)
    found = {"free_bytes": space.free, "budget_bytes": space.budget, "evicts": [], "problem": None}
    try:
        gone = room.needed(session.home, target.port, spec, launch)
    except LlmctlError as error:
        return {**found, "problem": error.message}
    return {**found, "evicts": [room.row(one) for one in gone]}


def data_of(target: Target, result: ChangeResult) -> dict[str, Any]:
    """The JSON of a change."""
    return {"host": target.host.name, **asdict(result)}
