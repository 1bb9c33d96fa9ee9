"""The verbs of slots on this host: ask the slot server where one runs, read the state where none does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmctl import events, logs, units
from llmctl.domain import BACKOFF, CRASH_LOOP, EMPTY, GATEWAY, STARTING, SlotSpec, build
from llmctl.errors import LoadFailed, Refused, UnknownName, Unreachable
from llmctl.processes import code, start_time
from llmctl.slots import control
from llmctl.slots.hung import end_hung
from llmctl.slots.launch import ensure_server, held_down, under
from llmctl.slots.state import Disabled, Launch, SlotFolder
from llmctl.slots.status import SlotStatus as SlotStatus
from llmctl.slots.status import status as status

OnEvent = Callable[[dict[str, Any]], None]
STATUS_TIMEOUT = 5.0
STOP_TIMEOUT = 60.0
REEXEC_TIMEOUT = 60.0


@dataclass(frozen=True)
class ChangeResult:
    """What a change did. `cut` counts answers that the finish cap ended; `seconds` is the change's whole time."""

    port: int
    model: str | None
    previous: str | None
    engine: str | None
    order: str
    seconds: float
    load_seconds: float
    cut: int
    state: str


def change(
    home: Path,
    port: int,
    action: str,
    spec: SlotSpec,
    *,
    order: str = "auto",
    lock_wait: float = 0.0,
    launch: Launch | None = None,
    on_event: OnEvent | None = None,
) -> ChangeResult:
    """`load` or `swap`: the port's model becomes `spec`, or the old one goes on and the error says why."""
    _no_gateway(home, port)
    ensure_server(home, port, launch)
    args = {"verb": action, "spec": spec.to_dict(), "order": order, "lock_wait": lock_wait}
    result = _call(home, port, "change", args, on_event)
    if result.previous is None:
        _units(home, port).at_boot(home, port, True)
    return result


def back(home: Path, port: int, *, stuck: bool = False, on_event: OnEvent | None = None) -> ChangeResult:
    """Swap to the model that served before the present one, not waiting for one that is `stuck`; Refused when there is
    none."""
    _no_gateway(home, port)
    before = SlotFolder(home, port).read_actual().before
    if before is None:
        raise Refused(f"port {port} had no other model before", hint=f"llmctl swap {port} MODEL", port=port)
    return _swap_to(home, port, before, stuck, on_event)


def undo(home: Path, port: int, *, on_event: OnEvent | None = None) -> ChangeResult:
    """Swap to what the last change put out, with all that it was loaded with; Refused when there was nothing."""
    replaced = SlotFolder(home, port).read_actual().replaced
    if replaced is None:
        raise Refused(f"port {port} had nothing before", hint=f"llmctl swap {port} MODEL", port=port)
    return _swap_to(home, port, replaced, False, on_event)


def _swap_to(home: Path, port: int, spec: SlotSpec, stuck: bool, on_event: OnEvent | None) -> ChangeResult:
    end_hung(home, port)
    ensure_server(home, port)
    args = {"verb": "swap", "spec": spec.to_dict(), "order": "auto", "stuck": stuck}
    return _call(home, port, "change", args, on_event)


def unload(
    home: Path, port: int, *, unused: float = 0.0, lock_wait: float = 0.0, on_event: OnEvent | None = None
) -> ChangeResult:  # fmt: skip
    """End the model after its requests; a port that is up stays up and says that nothing is loaded.

    With `unused` only where it had none for so many seconds, else Busy.
    """
    _must_exist(home, port)
    _no_gateway(home, port)
    folder = SlotFolder(home, port)
    with held_down(folder) as down:
        if down:
            desired = folder.read_desired()
            folder.write_desired(replace(desired, spec=None))
            before = desired.spec.model if desired.spec else None
            result = ChangeResult(port, None, before, None, "none", 0.0, 0.0, 0, EMPTY)
            events.note(home, "unload", port=port, model=before, outcome=events.OK, who=control.who())
    if not down:
        result = _call(home, port, "unload", {"lock_wait": lock_wait, "unused": unused}, on_event)
    _units(home, port).at_boot(home, port, False)
    return result


def restart(
    home: Path, port: int, *, reexec: bool = False, stuck: bool = False, service: str = "auto", lock_wait: float = 0.0,
    on_event: OnEvent | None = None,
) -> ChangeResult:  # fmt: skip
    """Start the model anew (new-first where memory allows), or with `reexec` this llmctl's slot server around it.

    A slot server that runs under another service manager than `service` comes under that one; its engine starts anew.
    One that is there and answers nobody is killed first. An engine that is `stuck` is not waited for.
    """
    _must_exist(home, port)
    if end_hung(home, port) and on_event:
        on_event({"event": "note", "message": f"the slot server of port {port} did not answer: it was killed"})
    if service not in ("auto", _service(SlotFolder(home, port))):
        return _move(home, port, service)
    if reexec:
        return _reexec(home, port)
    ensure_server(home, port)
    result = _call(home, port, "restart", {"lock_wait": lock_wait, "stuck": stuck}, on_event)
    _units(home, port).at_boot(home, port, True)  # somebody may have disabled its unit
    return result


def _reexec(home: Path, port: int) -> ChangeResult:
    began = time.monotonic()
    control.call(SlotFolder(home, port).control, "reexec", {"python": sys.executable, "code": code()})
    return _settled(home, port, began, REEXEC_TIMEOUT)


def _move(home: Path, port: int, service: str) -> ChangeResult:
    spec, began = SlotFolder(home, port).read_desired().spec, time.monotonic()
    under(home, port, service)
    result = _settled(home, port, began, REEXEC_TIMEOUT + (spec.load_timeout if spec else 0))
    if result.state in (BACKOFF, CRASH_LOOP):
        why = status(home, [port])[0].why
        raise LoadFailed(f"{result.model} did not come back: {why}", hint=f"llmctl logs {port}", port=port)
    return result


def profile(home: Path, port: int, *, stop: bool) -> dict[str, Any]:
    """Start a profile of the slot's engine, or end it: `path`, `way`, `seconds`, `idle` and `top` (engines.profiling).

    Unsupported for an engine that cannot.
    """
    _must_exist(home, port)
    return dict(control.call(SlotFolder(home, port).control, "profile", {"stop": stop}))


def _settled(home: Path, port: int, began: float, within: float) -> ChangeResult:
    """What a slot is once its next slot server answers and has its engine; `began` is when that was asked for."""
    folder = SlotFolder(home, port)
    while time.monotonic() - began < within:
        time.sleep(0.1)
        try:
            row = control.call(folder.control, "status", timeout=STATUS_TIMEOUT)
        except Unreachable:
            continue
        if row["operation"] != "upgrade" and row["state"] != STARTING:
            seconds = round(time.monotonic() - began, 3)
            return ChangeResult(port, row["model"], row["model"], row["engine"], "none", seconds, 0.0, 0, row["state"])
    raise Unreachable(f"port {port} did not come back within {within:.0f} s", hint=f"llmctl logs {port}", port=port)


def disable(home: Path, port: int, why: str, until: str | None = None) -> ChangeResult:
    """Hold the slot down, over reboots, until `enable` or the ISO date-time `until`."""
    _must_exist(home, port)
    _no_gateway(home, port)
    disabled = Disabled(why, until)
    disabled.over()  # a date that cannot be read fails here
    ensure_server(home, port)
    return _call(home, port, "disable", asdict(disabled), None)


def enable(home: Path, port: int, on_event: OnEvent | None = None) -> ChangeResult:
    """Lift `disable` and bring the desired model back."""
    _must_exist(home, port)
    ensure_server(home, port)
    return _call(home, port, "enable", {}, on_event)


def stop(home: Path, port: int) -> None:
    """End the slot server itself, after its requests, over reboots too; its desired state stays. No error when none
    runs."""
    folder = SlotFolder(home, port)
    _units(home, port).stop(home, port)
    try:
        pid = control.call(folder.control, "stop", timeout=STATUS_TIMEOUT)["pid"]
    except Unreachable:
        return
    end = time.monotonic() + STOP_TIMEOUT
    while start_time(pid) is not None:
        if time.monotonic() > end:
            raise Refused(f"the slot server of port {port} still runs after {STOP_TIMEOUT:.0f} s", port=port)
        time.sleep(0.05)


def log_lines(home: Path, port: int, *, follow: bool = False, lines: int = 100) -> Iterator[str]:
    """The last `lines` lines of the slot's log, then, with `follow`, new ones as they come (also after rotation)."""
    _must_exist(home, port)
    return logs.read(SlotFolder(home, port).log, lines, lambda: follow)


def _service(folder: SlotFolder) -> str:
    """What keeps the slot server running: as it says itself, or where none runs as its state says."""
    try:
        return str(control.call(folder.control, "ping", timeout=STATUS_TIMEOUT)["service"])
    except Unreachable:
        return folder.read_desired().launch.service


def _units(home: Path, port: int) -> units.Units:
    return units.get(_service(SlotFolder(home, port)))


def _must_exist(home: Path, port: int) -> None:
    if not SlotFolder(home, port).path.exists():
        raise UnknownName(f"port {port} is no slot here", hint=f"llmctl load {port} MODEL", port=port)


def gateways(port: int) -> Refused:
    """The error of who wants a model on the gateway's port, or off it."""
    return Refused(
        f"port {port} is the gateway, which has no model of its own",
        hint=f"llmctl load auto MODEL; the gateway itself ends with: llmctl gateway down --port {port}", port=port,
    )  # fmt: skip


def _no_gateway(home: Path, port: int) -> None:
    spec = SlotFolder(home, port).read_desired().spec
    if spec and spec.engine.engine == GATEWAY:
        raise gateways(port)


def _call(home: Path, port: int, verb: str, args: dict[str, Any], on_event: OnEvent | None) -> ChangeResult:
    return build(ChangeResult, control.call(SlotFolder(home, port).control, verb, args, on_event=on_event))
