"""The slots that profiles want on this host: held against what it runs, and made so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llmctl import profiles
from llmctl.catalog import Catalog
from llmctl.config import Host, ProfileSlot, profile_slot_of
from llmctl.domain import CRASH_LOOP, DOWN, GATEWAY
from llmctl.errors import LlmctlError, Refused, UsageError
from llmctl.paths import slot_ports
from llmctl.profiles import KEEP, LOAD, START, STILL, SWAP, UNLOAD, Now, Step
from llmctl.slots import room, tuning, verbs
from llmctl.slots.ports import free_port
from llmctl.slots.resolve import launch_of, profile_slot
from llmctl.slots.state import SlotFolder
from llmctl.slots.verbs import ChangeResult

OnEvent = Callable[[dict[str, Any]], None]
Bring = Callable[[ProfileSlot], Any]


@dataclass(frozen=True)
class Place:
    """This host: its entry, its state folder and its catalog."""

    host: Host
    home: Path
    catalog: Catalog


@dataclass(frozen=True)
class Done:
    """What became of a step: a result, or an error; neither where there was nothing to do."""

    step: Step
    result: ChangeResult | None = None
    error: LlmctlError | None = None


def read_slots(data: Any) -> list[ProfileSlot]:
    """The slots of a request that another llmctl sent as JSON; UsageError when they are none."""
    known = {field.name for field in fields(ProfileSlot)}
    if not isinstance(data, list) or not all(isinstance(slot, Mapping) and set(slot) <= known for slot in data):
        raise UsageError("the slots are not those of a profile", hint="deploy this host again: its llmctl differs")
    try:
        return [profile_slot_of(slot) for slot in data]
    except (TypeError, AttributeError) as error:
        raise UsageError(f"a slot is not whole: {error}") from None


def running(place: Place) -> dict[int, Now]:
    """What each slot of this host is to run by its own state."""
    models_dir, found = place.host.models(place.home), {}
    states = {slot.port: slot.state for slot in verbs.status(place.home)}
    for port in slot_ports(place.home):
        desired = SlotFolder(place.home, port).read_desired()
        if desired.spec and desired.spec.engine.engine == GATEWAY:
            continue
        held = desired.disabled.why if desired.disabled and not desired.disabled.over() else None
        quantization, tuned = None, {}
        if desired.spec:
            tuned = tuning.said(desired.spec.engine, place.catalog, models_dir)
        if desired.spec and (model := place.catalog.models.get(desired.spec.model)):
            quantization = profiles.quantization_of(desired.spec, model, models_dir)
        found[port] = Now(desired.spec, quantization, held, states.get(port) in (DOWN, CRASH_LOOP), tuned)
    return found


def as_slots(place: Place) -> list[ProfileSlot]:
    """What a profile must say to get the slots of this host as they are."""
    models_dir = place.host.models(place.home)
    return [
        profiles.as_slot(port, now.spec, place.catalog.resolve(now.spec.model), models_dir, now.tuning)
        for port, now in running(place).items()
        if now.spec
    ]


def plan(place: Place, slots: Sequence[ProfileSlot], prune: bool = False, demand: bool = False) -> list[Step]:
    """What must be done for this host to run `slots`; with `demand` also those that are loaded on demand."""
    return profiles.plan(slots, running(place), lambda taken: free_port(place.home, place.host, taken), prune, demand)


def problem(place: Place, step: Step) -> LlmctlError | None:
    """Why a step would fail, as far as it can be told before."""
    if step.action not in (LOAD, SWAP, START) or not step.slot:
        return None
    try:
        if step.slot.technique:
            raise Refused(f"technique {step.slot.technique} is not in this version")
        profile_slot(place.catalog, place.host, step.slot)
    except LlmctlError as error:
        error.port = error.port or step.port
        return error
    return None


def evicts(place: Place, step: Step) -> tuple[list[dict[str, Any]], LlmctlError | None]:
    """Who would be unloaded to make room for a step, as JSON; or why that does not help."""
    if step.action not in (LOAD, SWAP, START) or not step.slot:
        return [], None
    spec, launch = profile_slot(place.catalog, place.host, step.slot), launch_of(place.host)
    try:
        return [room.row(one) for one in room.needed(place.home, step.port, spec, launch, step.slot.order)], None
    except LlmctlError as error:
        return [], error


def apply(
    place: Place, steps: Sequence[Step], on_event: OnEvent, bring: Bring | None = None, *, evict: bool = False
) -> list[Done]:
    """Do the steps one after another, whatever becomes of the others; `bring` has the model of a slot here first. With
    `evict` others that may go make room."""
    return [_do(place, step, on_event, bring, evict) for step in steps]


def _do(place: Place, step: Step, on_event: OnEvent, bring: Bring | None, evict: bool) -> Done:
    if step.action in STILL:
        return Done(step, _as_it_is(place, step) if step.action == KEEP and step.current else None)
    on_event({"event": "note", "message": f"{step.port}: {step.action} {step.model or step.current}"})
    try:
        if bring and step.slot:
            bring(step.slot)
        if why := problem(place, step):
            return Done(step, error=why)
        if step.action == UNLOAD:
            return Done(step, verbs.unload(place.home, step.port, on_event=on_event))
        assert step.slot
        spec, launch = profile_slot(place.catalog, place.host, step.slot), launch_of(place.host)
        order, verb = step.slot.order, SWAP if step.action == SWAP else LOAD
        making = room.made(place.home, step.port, spec, launch, on_event, order) if evict else nullcontext(on_event)
        with making as told:
            result = verbs.change(place.home, step.port, verb, spec, order=order, launch=launch, on_event=told)
        return Done(step, result)
    except LlmctlError as error:
        error.port = error.port or step.port
        return Done(step, error=error)


def _as_it_is(place: Place, step: Step) -> ChangeResult:
    slot = verbs.status(place.home, [step.port])[0]
    return ChangeResult(step.port, slot.model, slot.model, slot.engine, "none", 0.0, 0.0, 0, slot.state)


def row(host: str, step: Step) -> dict[str, Any]:
    """The JSON of a step."""
    return {
        "host": host,
        "port": step.port,
        "action": step.action,
        "model": step.model,
        "current": step.current,
        "differs": list(step.differs),
    }


def row_of(host: str, done: Done) -> dict[str, Any]:
    """The JSON of a step that was done: `result` is the change's, None where nothing was done."""
    return {**row(host, done.step), "result": {"host": host, **asdict(done.result)} if done.result else None}
