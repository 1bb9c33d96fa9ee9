"""The gateway as a slot: brought up under the host's service manager, taken down, and asked how it is."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmctl import events
from llmctl.domain import GATEWAY, EngineSpec, SlotSpec
from llmctl.errors import Refused, Unreachable
from llmctl.gateway import kinds
from llmctl.slots import control, verbs
from llmctl.slots.launch import ensure_server
from llmctl.slots.state import Launch, SlotFolder

OPTIONS = ("bind", "require_key", "on_demand")
"""What of its launch a gateway takes up when it starts, and not before; the usual means: as it runs."""
SPEC = SlotSpec(EngineSpec(GATEWAY, GATEWAY, "", "server"))


def up(home: Path, port: int, launch: Launch, spec: SlotSpec = SPEC) -> bool:
    """A gateway serves `port` afterwards; whether it had to be started. Refused where a model, or a gateway of another
    kind, has that port. One that runs takes up what is new in `spec` by itself."""
    folder = SlotFolder(home, port)
    folder.make()
    desired = folder.read_desired()
    if desired.spec and desired.spec.engine.engine != GATEWAY:
        raise Refused(
            f"port {port} holds {desired.spec.model}", hint=f"--port PORT, or llmctl unload {port}", port=port
        )
    if desired.spec and desired.spec.model != spec.model:
        hint = "llmctl gateway down, then up again; or --port PORT"
        raise Refused(f"the gateway on port {port} is {kinds.NAMES[desired.spec.model]}", hint=hint, port=port)
    try:
        control.call(folder.control, "ping", timeout=verbs.STATUS_TIMEOUT)
    except Unreachable:
        folder.write_desired(replace(desired, spec=spec, disabled=None))
        ensure_server(home, port, launch)
        events.note(home, "load", port=port, model=GATEWAY, outcome=events.OK, who=control.who())
        return True
    if desired.spec is None:
        raise Refused(f"port {port} is a slot without a model", hint=f"--port PORT, or llmctl stop {port}", port=port)
    usual, runs = Launch(), desired.launch
    others = [key for key in OPTIONS if getattr(launch, key) not in (getattr(usual, key), getattr(runs, key))]
    if others:
        raise Refused(
            f"the gateway on port {port} runs with another {', '.join(others)}",
            hint="llmctl gateway down, then up again", port=port,
        )  # fmt: skip
    if desired.spec != spec:
        folder.write_desired(replace(desired, spec=spec))
    return False


def launched(home: Path, port: int) -> Launch:
    """How the gateway of a port was started."""
    return SlotFolder(home, port).read_desired().launch


def down(home: Path, port: int) -> None:
    """End it, over reboots too; its registry and keys stay."""
    folder = SlotFolder(home, port)
    desired = folder.read_desired()
    if desired.spec is None or desired.spec.engine.engine != GATEWAY:
        raise Refused(f"port {port} has no gateway", hint="llmctl gateway status", port=port)
    verbs.stop(home, port)
    folder.write_desired(replace(desired, spec=None))
    events.note(home, "unload", port=port, model=GATEWAY, outcome=events.OK, who=control.who())


def goes_by(home: Path, port: int, registry: str, seconds: float) -> bool:
    """Wait until a gateway goes by the registry of that hash; False where it does not within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if status(home, port).get("registry") == registry:
                return True
        except Unreachable:
            return False
        time.sleep(0.1)
    return False


def status(home: Path, port: int) -> dict[str, Any]:
    """What it says of itself; Unreachable where none runs."""
    try:
        return dict(control.call(SlotFolder(home, port).control, "status", timeout=verbs.STATUS_TIMEOUT))
    except Unreachable:
        raise Unreachable(f"no gateway answers on port {port}", hint="llmctl gateway up", port=port) from None
