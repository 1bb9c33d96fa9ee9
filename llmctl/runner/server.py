"""The slot server: owns one port for as long as it lives, whatever model is behind it.

python -m llmctl.runner.server PORT --home HOME
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llmctl import __version__, backends, events, keys
from llmctl.domain import SlotSpec
from llmctl.errors import LlmctlError, Refused
from llmctl.files import take_lock
from llmctl.processes import ProcessId
from llmctl.runner import handover, spare
from llmctl.runner.announce import announce
from llmctl.runner.app import make_app
from llmctl.runner.auth import Auth
from llmctl.runner.bring_up import Effects
from llmctl.runner.control_server import serve_control
from llmctl.runner.engine_log import EngineLog
from llmctl.runner.engine_process import EngineProcess
from llmctl.runner.listener import Listener, bind
from llmctl.runner.metrics import Metrics
from llmctl.runner.notify import READY, STOPPING, notify
from llmctl.runner.read_ahead import reading_ahead
from llmctl.runner.server_verbs import verbs
from llmctl.runner.slot import Slot
from llmctl.runner.spare import Spare
from llmctl.slots.admission import NEW_FIRST, Ledger
from llmctl.slots.callback import Callback
from llmctl.slots.launch import server_argv
from llmctl.slots.state import Launch, SlotFolder


class Server:
    """Everything of one port, wired: listener, slot, control socket, log, metrics."""

    def __init__(self, folder: SlotFolder, *, lock: int, sock: socket.socket, keep: bool) -> None:
        self.folder, self.lock = folder, lock
        self.launch = folder.read_desired().launch
        self.log = EngineLog(folder.log, echo=not keep)
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
        self.stopping = asyncio.Event()
        self._control: asyncio.Server | None = None

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

    def note(self, message: str) -> None:
        self.log.line("slot", message)

    def happened(self, kind: str, **said: Any) -> None:
        if not events.note(self.folder.home, kind, port=self.folder.port, **said):
            self.note(f"the event {kind} could not be written")

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Answer on the control socket and the port, then bring up what is desired."""
        self._control = await serve_control(self.folder.control, verbs(self))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        await self.listener.accept()
        record = self.slot.record
        record.note(replace(record.actual, server=asdict(ProcessId.of(os.getpid()))))
        self.slot.start()
        self.note(f"llmctl {__version__} serves port {self.folder.port} on {self.launch.bind}")

    async def run(self) -> None:
        """Until SIGTERM, SIGINT or the stop verb; then drain and end the engine."""
        await self.stopping.wait()
        notify(STOPPING)
        await self.listener.drain(self.launch.limits.drain)
        await self.slot.close()
        await self.spare.close()
        self.note("the slot server ends")
        self.folder.control.unlink(missing_ok=True)

    def stop(self, owner: str) -> None:
        """End as SIGTERM would."""
        self.note(f"stop by {owner}")
        self.stopping.set()

    async def announce(self, callback: str | None) -> None:
        """Tell the pool of a worker, where there is one, when the model is ready."""
        if callback:
            to, bind = Callback.from_json(callback), self.launch.bind
            await announce(to, bind, self.folder.port, self.slot.traffic, self.note)

    # ── upgrade ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def reexec(self, python: str, code: str, owner: str) -> None:
        """Prepare the exec of the llmctl in `code` by `python`, and do it a moment after the caller has its answer."""
        image = handover.Image(python, code, tuple(server_argv(self.folder, None)))
        async with self._quiet("upgrade", owner):
            await image.check()
            await self._drained()
            await self.slot.resting.end()
            await self.spare.close()
        asyncio.get_running_loop().call_later(0.05, self._exec, image)

    async def hand_over(self, to: str, owner: str) -> None:
        """Give the listening socket to the slot server that waits at the socket `to`, and end."""
        async with self._quiet("move", owner):
            await self._drained()
            handover.send(self.listener.sock, Path(to))
        self.stop(owner)

    @contextlib.asynccontextmanager
    async def _quiet(self, verb: str, owner: str) -> AsyncIterator[None]:
        """Claim the slot for good; when the block fails everything goes on as before."""
        self.slot.operations.claim(verb, owner)
        try:
            yield
        except (LlmctlError, OSError):
            self.slot.operations.release()
            await self.listener.resume()
            raise

    async def _drained(self) -> None:
        if left := await self.listener.drain(self.launch.limits.drain):
            raise Refused(
                f"{left} answers still run after {self.launch.limits.drain:.0f} s; the old slot server goes on",
                hint="try again when the slot is less busy",
            )

    def _exec(self, image: handover.Image) -> None:
        sock = self.listener.sock.fileno()
        state: dict[str, Any] = {"socket": sock, "lock": self.lock, "engine": None}
        descriptors = [sock, self.lock]
        if self.slot.current:
            state["engine"] = self.slot.current.handover()
        self.note(f"re-executes as {image.python} with {image.code}")
        image.execute(state, descriptors)


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
    announcing = asyncio.ensure_future(server.announce(args.callback))
    await server.run()
    announcing.cancel()
    return 0


async def set_up(folder: SlotFolder, args: argparse.Namespace, resumed: dict[str, Any] | None) -> Server:
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
