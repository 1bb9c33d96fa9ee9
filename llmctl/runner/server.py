"""The slot server: owns one port for as long as it lives, whatever model is behind it.

python -m llmctl.runner.server PORT --home HOME
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llmctl import __version__, backends, keys
from llmctl.domain import SlotSpec
from llmctl.errors import LlmctlError, Refused
from llmctl.files import take_lock
from llmctl.processes import ProcessId
from llmctl.runner import handover
from llmctl.runner.app import make_app
from llmctl.runner.auth import Auth
from llmctl.runner.bring_up import Effects
from llmctl.runner.control_server import serve_control
from llmctl.runner.engine_log import EngineLog
from llmctl.runner.engine_process import EngineProcess
from llmctl.runner.listener import Listener, bind
from llmctl.runner.metrics import Metrics
from llmctl.runner.server_verbs import verbs
from llmctl.runner.slot import Slot
from llmctl.slots.admission import Ledger
from llmctl.slots.launch import server_argv
from llmctl.slots.state import Launch, SlotFolder


class Server:
    """Everything of one port, wired: listener, slot, control socket, log, metrics."""

    def __init__(self, folder: SlotFolder, *, lock: int, sock: socket.socket, keep: bool) -> None:
        self.folder, self.lock = folder, lock
        self.launch = folder.read_desired().launch
        self.log = EngineLog(folder.log, echo=not keep)
        self.metrics = Metrics()
        self.ledger = Ledger(folder.home)
        self.backend = backends.get(self.launch.backend)
        effects = Effects(self.spawn, self.reserve, self.ledger.release, self.ledger.settle, self.note)
        self.slot = Slot(folder, effects, self.metrics, keep=keep)
        auth = Auth(self.launch.bind, keys.read(folder.home), require_key=self.launch.require_key)
        app = make_app(self.slot.traffic, auth, self.metrics)
        self.listener = Listener(sock, app, self.launch.limits, self.metrics.refused)
        self.stopping = asyncio.Event()
        self._control: asyncio.Server | None = None

    # ── effects of the slot ─────────────────────────────────────────────────────────────────────────────────────────

    async def spawn(self, spec: SlotSpec) -> EngineProcess:
        environment = self.backend.environment()
        return await EngineProcess.spawn(spec, self.log, environment, self.launch.limits.write_buffer)

    def reserve(self, spec: SlotSpec, resident: int, order: str) -> tuple[str, str]:
        memory = self.backend.memory()
        budget = self.launch.memory_budget or memory.total
        return self.ledger.reserve(
            self.folder.port, spec.needed_bytes, free=memory.free, budget=budget, resident=resident, order=order
        )

    def note(self, message: str) -> None:
        self.log.line("slot", message)

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
        await self.listener.drain(self.launch.limits.drain)
        await self.slot.close()
        self.note("the slot server ends")
        self.folder.control.unlink(missing_ok=True)

    def stop(self, owner: str) -> None:
        """End as SIGTERM would."""
        self.note(f"stop by {owner}")
        self.stopping.set()

    # ── upgrade ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def reexec(self, python: str, owner: str) -> None:
        """Prepare the exec of the code behind `python`, and do it a moment after the caller has its answer."""
        self.slot.operations.claim("upgrade", owner)
        argv = list(server_argv(self.folder, None))
        try:
            await handover.check(python, argv)
            if left := await self.listener.drain(self.launch.limits.drain):
                raise Refused(
                    f"{left} answers still run after {self.launch.limits.drain:.0f} s; the old code goes on",
                    hint="try again when the slot is less busy",
                )
        except LlmctlError:
            self.slot.operations.release()
            await self.listener.resume()
            raise
        asyncio.get_running_loop().call_later(0.05, self._exec, python, argv)

    def _exec(self, python: str, argv: list[str]) -> None:
        sock = self.listener.sock.fileno()
        state: dict[str, Any] = {"socket": sock, "lock": self.lock, "engine": None}
        descriptors = [sock, self.lock]
        if self.slot.current:
            state["engine"] = self.slot.current.handover()
        self.note(f"re-executes as {python}")
        handover.execute(python, argv, state, descriptors)


async def main_loop(args: argparse.Namespace) -> int:
    """Set up from scratch or from the image before, report readiness, serve."""
    folder = SlotFolder(Path(args.home), args.port)
    resumed = handover.receive(args.resume_fd) if args.resume_fd is not None else None
    try:
        server = await set_up(folder, args, resumed)
    except LlmctlError as error:
        report(args.ready_fd, {"ok": False, "error": error.to_dict()})
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code
    handover.unblock()
    report(args.ready_fd, {"ok": True, "pid": os.getpid()})
    await server.run()
    return 0


async def set_up(folder: SlotFolder, args: argparse.Namespace, resumed: dict[str, Any] | None) -> Server:
    """A started server. What keeps it from starting is raised before anything is changed."""
    folder.make()
    if resumed:
        lock, sock = resumed["lock"], socket.socket(fileno=resumed["socket"])
    else:
        lock = take_lock(folder.lock, wait=False, what=f"port {folder.port}")
        desired = folder.read_desired()
        launch = Launch.from_dict(json.loads(args.launch)) if args.launch else desired.launch
        Auth(launch.bind, keys.read(folder.home), require_key=launch.require_key)
        sock = bind(launch.bind, folder.port)
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


def report(fd: int | None, answer: dict[str, Any]) -> None:
    """Tell the launcher how the start went."""
    if fd is not None:
        os.write(fd, json.dumps(answer).encode() + b"\n")
        os.close(fd)


def main() -> int:
    parser = argparse.ArgumentParser(prog="llmctl.runner.server")
    parser.add_argument("port", type=int)
    parser.add_argument("--home", required=True)
    parser.add_argument("--launch", help="JSON of slots.state.Launch; default: as before")
    parser.add_argument("--foreground", help="JSON of a SlotSpec to run without keeping any state")
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
