"""The life of what owns a port, a slot server or the gateway: start, drain, stop, re-exec, handing its socket over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from llmctl import __version__, events
from llmctl.errors import LlmctlError, Refused
from llmctl.processes import code
from llmctl.runner import handover
from llmctl.runner.control_server import Verb, serve_control
from llmctl.runner.engine_log import EngineLog
from llmctl.runner.listener import Accepting
from llmctl.runner.notify import STOPPING, notify
from llmctl.slots.launch import server_argv
from llmctl.slots.state import SlotFolder


class PortServer(ABC):
    """One port, from its lock and its listening socket on. A subclass has the verbs, and what stands behind the port.

    `listener` must be there before `start`.
    """

    listener: Accepting

    def __init__(self, folder: SlotFolder, *, lock: int, sock: socket.socket, keep: bool) -> None:
        self.folder, self.lock, self.sock = folder, lock, sock
        self.launch = folder.read_desired().launch
        self.log = EngineLog(folder.log, echo=not keep)
        self.stopping = asyncio.Event()
        self._control: asyncio.Server | None = None

    # ── what a subclass has ─────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def verbs(self) -> Mapping[str, Verb]:
        """Those of the control socket."""

    @abstractmethod
    def begin(self) -> None:
        """The port accepts: bring up what stands behind it."""

    @abstractmethod
    async def end(self) -> None:
        """The port is drained: end what stands behind it."""

    @abstractmethod
    def claim(self, verb: str, owner: str) -> None:
        """Nothing else may begin from now on; Busy when something goes on."""

    @abstractmethod
    def release(self) -> None:
        """It may again."""

    @abstractmethod
    async def part(self) -> None:
        """End what does not go over to the next program image."""

    @abstractmethod
    def carried(self) -> dict[str, Any]:
        """What goes over, beside the socket and the lock: {"engine": …}."""

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def note(self, message: str) -> None:
        with contextlib.suppress(OSError):  # a full disk ends nothing that goes on
            self.log.line("slot", message)

    def happened(self, kind: str, **said: Any) -> None:
        if not events.note(self.folder.home, kind, port=self.folder.port, **said):
            self.note(f"the event {kind} could not be written")

    async def start(self) -> None:
        """Answer on the control socket and the port, then bring up what stands behind it."""
        self._control = await serve_control(self.folder.control, dict(self.verbs()))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        await self.listener.accept()
        self.begin()
        self.note(f"llmctl {__version__} serves port {self.folder.port} on {self.launch.bind}")

    async def run(self) -> None:
        """Until SIGTERM, SIGINT or the stop verb; then drain and end."""
        await self.stopping.wait()
        notify(STOPPING)
        await self.listener.drain(self.launch.limits.drain)
        await self.end()
        self.note("the slot server ends")
        self.folder.control.unlink(missing_ok=True)

    def stop(self, owner: str) -> None:
        """End as SIGTERM would."""
        self.note(f"stop by {owner}")
        self.stopping.set()

    def life(self) -> dict[str, Verb]:
        """The verbs of every server of a port: asked who it is, and what ends or replaces it."""

        async def ping(args: Any, owner: str, on_event: Any) -> Any:
            return {
                "version": __version__, "pid": os.getpid(), "code": code(), "service": self.launch.service,
                "engine": None,
            }  # fmt: skip

        async def reexec(args: Any, owner: str, on_event: Any) -> Any:
            await self.reexec(args.get("python") or sys.executable, args.get("code") or code(), owner)
            return {"pid": os.getpid()}

        async def hand_over(args: Any, owner: str, on_event: Any) -> Any:
            await self.hand_over(args["to"], owner)
            return {"pid": os.getpid()}

        async def stop(args: Any, owner: str, on_event: Any) -> Any:
            self.stop(owner)
            return {"pid": os.getpid()}

        return {verb.__name__: verb for verb in (ping, reexec, hand_over, stop)}

    # ── upgrade ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def reexec(self, python: str, folder: str, owner: str) -> None:
        """Prepare the exec of the llmctl in `folder` by `python`, and do it just after the caller has its answer."""
        image = handover.Image(python, folder, tuple(server_argv(self.folder, None)))
        async with self._quiet("upgrade", owner):
            await image.check()
            await self._drained()
            await self.part()
        asyncio.get_running_loop().call_later(0.05, self._exec, image)

    async def hand_over(self, to: str, owner: str) -> None:
        """Give the listening socket to the slot server that waits at the socket `to`, and end."""
        async with self._quiet("move", owner):
            await self._drained()
            handover.send(self.listener.sock, Path(to))
        self.stop(owner)

    @contextlib.asynccontextmanager
    async def _quiet(self, verb: str, owner: str) -> AsyncIterator[None]:
        """Claim the port for good; when the block fails everything goes on as before."""
        self.claim(verb, owner)
        try:
            yield
        except (LlmctlError, OSError):
            self.release()
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
        state: dict[str, Any] = {"socket": sock, "lock": self.lock, "engine": None, **self.carried()}
        self.note(f"re-executes as {image.python} with {image.code}")
        image.execute(state, [sock, self.lock])
