"""The control socket's verbs, in a table: what an operator's command does to the server of a port."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmctl import __version__
from llmctl.domain import SlotSpec, build
from llmctl.errors import Refused
from llmctl.runner.control_server import Verb
from llmctl.slots.state import Disabled

if TYPE_CHECKING:
    from llmctl.runner.server import Server

KEPT = 5  # profiles of a slot


def verbs(server: Server) -> dict[str, Verb]:
    """Name → coroutine of (arguments, owner, on_event)."""
    slot, life = server.slot, server.life()

    def wait(args: Mapping[str, Any]) -> float:
        return float(args.get("lock_wait", 0.0))

    async def ping(args: Any, owner: str, on_event: Any) -> Any:
        engine = slot.current
        return {**await life["ping"](args, owner, on_event), "engine": engine.runs if engine else None}

    async def status(args: Any, owner: str, on_event: Any) -> Any:
        return {**slot.status(), **server.spare.status(), "runner_pid": os.getpid(), "version": __version__}

    async def change(args: Any, owner: str, on_event: Any) -> Any:
        spec = SlotSpec.from_dict(args["spec"])
        return await slot.change(
            spec, verb=args["verb"], order=args["order"], owner=owner, stuck=bool(args.get("stuck")),
            lock_wait=wait(args), on_event=on_event,
        )  # fmt: skip

    async def unload(args: Any, owner: str, on_event: Any) -> Any:
        unused = float(args.get("unused") or 0.0)
        return await slot.unload(owner=owner, unused=unused, lock_wait=wait(args), on_event=on_event)

    async def restart(args: Any, owner: str, on_event: Any) -> Any:
        stuck = bool(args.get("stuck"))
        return await slot.restart(owner=owner, stuck=stuck, lock_wait=wait(args), on_event=on_event)

    async def disable(args: Any, owner: str, on_event: Any) -> Any:
        return await slot.disable(build(Disabled, args), owner=owner, on_event=on_event)

    async def enable(args: Any, owner: str, on_event: Any) -> Any:
        return await slot.enable(owner=owner, on_event=on_event)

    async def profile(args: Mapping[str, Any], owner: str, on_event: Any) -> Any:
        if slot.current is None:
            raise Refused(f"port {slot.port} has no engine now", hint=f"llmctl status {slot.port}", port=slot.port)
        server.note(f"profile {'ended' if args['stop'] else 'started'} by {owner}")
        return await slot.current.profile(trace_file(server.folder.path) if args["stop"] else None)

    changes = (change, unload, restart, disable, enable)
    return {**life, **{verb.__name__: verb for verb in (ping, status, profile, *changes)}}


def trace_file(slot: Path) -> Path:
    """A new file for a profile in a slot's folder, which keeps the last ones."""
    folder = slot / "profiles"
    folder.mkdir(mode=0o700, exist_ok=True)
    for old in sorted(folder.iterdir())[: 1 - KEPT]:
        old.unlink()
    file = folder / datetime.datetime.now().strftime("%Y%m%dT%H%M%S.%f.json")
    file.touch(0o600)
    return file
