"""The slot server: owns one port for as long as it lives, whatever model is behind it.

python -m llmctl.runner.server PORT --home HOME
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llmctl import backends, keys
from llmctl.domain import GATEWAY, SlotSpec
from llmctl.errors import LlmctlError
from llmctl.files import take_lock
from llmctl.processes import ProcessId
from llmctl.runner import handover, spare
from llmctl.runner.announce import announce
from llmctl.runner.app import make_app
from llmctl.runner.auth import Auth
from llmctl.runner.bring_up import Effects
from llmctl.runner.control_server import Verb
from llmctl.runner.engine_process import EngineProcess
from llmctl.runner.listener import Listener, bind
from llmctl.runner.metrics import Metrics
from llmctl.runner.notify import READY, notify
from llmctl.runner.port_server import PortServer
from llmctl.runner.read_ahead import reading_ahead
from llmctl.runner.server_verbs import verbs
from llmctl.runner.slot import Slot
from llmctl.runner.spare import Spare
from llmctl.slots.admission import NEW_FIRST, Ledger
from llmctl.slots.callback import Callback
from llmctl.slots.state import Launch, SlotFolder


class Server(PortServer):
    """A slot server, wired: listener, slot, log, metrics."""

    def __init__(self, folder: SlotFolder, *, lock: int, sock: socket.socket, keep: bool) -> None:
        super().__init__(folder, lock=lock, sock=sock, keep=keep)
        self.metrics = Metrics(self.launch.backend)
        self.ledger = Ledger(folder.home)
        self.backend = backends.get(self.launch.backend)
        self.spare = Spare(spare.Effects(self.warm, self.reserve_spare, self.ledger.release, self.note))
        effects = Effects(
            self.spawn, self.reserve, self.ledger.release, self.ledger.settle, self.note, self.spare.want, self.ahead,
            self.happened if keep else lambda kind, **said: None,
        )  # fmt: skip
        self.slot = Slot(folder, effects, self.metrics, keep=keep)
        auth = Auth(self.launch.bind, keys.read(folder.home), require_key=self.launch.require_key)
        app = make_app(self.slot.traffic, auth, self.metrics)
        self.listener = Listener(sock, app, self.launch.limits, self.metrics.refused)

    # ── effects of the slot ─────────────────────────────────────────────────────────────────────────────────────────

    async def spawn(self, spec: SlotSpec) -> EngineProcess:
        engine = self.spare.take(spec) or await self._process(spec)
        engine.load(spec)
        return engine

    async def warm(self, spec: SlotSpec) -> EngineProcess:
        process = await self._process(spec)
        process.warm_up()
        return process

    async def _process(self, spec: SlotSpec) -> EngineProcess:
        environment = {**self.backend.environment(), "LLMCTL_PORT": str(self.folder.port)}
        return await EngineProcess.spawn(spec, self.log, environment, self.launch.limits.write_buffer)

    def reserve(self, spec: SlotSpec, resident: int, order: str) -> tuple[str, str]:
        return self._reserve(spec.needed_bytes, self.spare.make_way(spec), resident, order)

    def reserve_spare(self, needed: int) -> str:
        return self._reserve(needed, 0, 0, NEW_FIRST)[0]

    def _reserve(self, needed: int, coming: int, resident: int, order: str) -> tuple[str, str]:
        memory = self.backend.memory()
        budget, free = self.launch.memory_budget or memory.total, memory.free + coming
        return self.ledger.reserve(self.folder.port, needed, free=free, budget=budget, resident=resident, order=order)

    def ahead(self, spec: SlotSpec) -> AbstractContextManager[None]:
        return reading_ahead(spec.engine)

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def verbs(self) -> Mapping[str, Verb]:
        return verbs(self)

    def begin(self) -> None:
        record = self.slot.record
        record.note(replace(record.actual, server=asdict(ProcessId.of(os.getpid()))))
        self.slot.start()

    async def end(self) -> None:
        await self.slot.close()
        await self.spare.close()

    def claim(self, verb: str, owner: str) -> None:
        self.slot.operations.claim(verb, owner)

    def release(self) -> None:
        self.slot.operations.release()

    async def part(self) -> None:
        await self.slot.resting.end()
        await self.spare.close()

    def carried(self) -> dict[str, Any]:
        return {"engine": self.slot.current.handover() if self.slot.current else None}

    async def announce(self, callback: str | None) -> None:
        """Tell the pool of a worker, where there is one, when the model is ready."""
        if callback:
            to, bind = Callback.from_json(callback), self.launch.bind
            await announce(to, bind, self.folder.port, self.slot.traffic, self.note)


async def main_loop(args: argparse.Namespace) -> int:
    """Set up from scratch or from the image before, report readiness, serve."""
    folder = SlotFolder(Path(args.home), args.port)
    resumed = handover.receive(args.resume_fd) if args.resume_fd is not None else None
    try:
        server = await set_up(folder, args, resumed)
    except LlmctlError as error:
        report(folder, args, {"ok": False, "error": error.to_dict()})
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code
    handover.unblock()
    report(folder, args, {"ok": True, "pid": os.getpid()})
    notify(READY)
    announcing = asyncio.ensure_future(server.announce(args.callback)) if isinstance(server, Server) else None
    await server.run()
    if announcing:
        announcing.cancel()
    return 0


async def set_up(folder: SlotFolder, args: argparse.Namespace, resumed: dict[str, Any] | None) -> PortServer:
    """A started server. What keeps it from starting is raised before anything is changed."""
    folder.make()
    if resumed:
        lock, sock = resumed["lock"], socket.socket(fileno=resumed["socket"])
    else:
        desired = folder.read_desired()
        asked = Launch.from_dict(json.loads(args.launch)) if args.launch else desired.launch
        launch = asked.after(desired.launch)
        Auth(launch.bind, keys.read(folder.home), require_key=launch.require_key)
        taken = handover.take(folder, launch)
        lock = take_lock(folder.lock, wait=taken is not None, what=f"port {folder.port}")
        sock = taken or bind(launch.bind, folder.port)
        if launch != desired.launch:
            folder.write_desired(replace(desired, launch=launch))
    spec = folder.read_desired().spec
    if spec and spec.engine.engine == GATEWAY and not args.foreground:
        from llmctl.gateway import kinds

        gateway = kinds.server(spec)(folder, lock=lock, sock=sock, keep=True)
        await gateway.start()
        return gateway
    server = Server(folder, lock=lock, sock=sock, keep=args.foreground is None)
    if resumed and resumed["engine"]:
        write_buffer = server.launch.limits.write_buffer
        server.slot.adopt(await EngineProcess.adopt(resumed["engine"], server.log, write_buffer))
    if args.foreground:
        record = server.slot.record
        record.want(replace(record.desired, spec=SlotSpec.from_dict(json.loads(args.foreground))))
    await server.start()
    return server


def report(folder: SlotFolder, args: argparse.Namespace, answer: dict[str, Any]) -> None:
    """Tell the launcher how the start went: by its pipe, or where it finds it when a service manager stands between."""
    if args.ready_fd is not None:
        os.write(args.ready_fd, json.dumps(answer).encode() + b"\n")
        os.close(args.ready_fd)
    elif args.foreground is None and not answer["ok"]:
        folder.refusal.write_text(json.dumps(answer["error"]), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="llmctl.runner.server")
    parser.add_argument("port", type=int)
    parser.add_argument("--home", required=True)
    parser.add_argument("--launch", help="JSON of slots.state.Launch; default: as before")
    parser.add_argument("--foreground", help="JSON of a SlotSpec to run without keeping any state")
    parser.add_argument("--callback", help="JSON of a slots.callback.Callback, told when the model is ready")
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--resume-fd", type=int)
    parser.add_argument("--check", action="store_true", help="only read the state; exit 0 when that works")
    args = parser.parse_args()
    if args.check:
        folder = SlotFolder(Path(args.home), args.port)
        try:
            folder.read_desired()
            folder.read_actual()
        except LlmctlError as error:
            print(error.message)
            return error.exit_code
        return 0
    return asyncio.run(main_loop(args))


if __name__ == "__main__":
    sys.exit(main())
