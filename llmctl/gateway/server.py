"""The gateway's server: owns its port like a slot's, follows the registry, and watches the replicas."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from llmctl import __version__, events, keys
from llmctl.domain import GATEWAY, READY, STARTING
from llmctl.errors import Busy, StateError
from llmctl.files import stamp
from llmctl.gateway import hosts, own, probing, registry
from llmctl.gateway.callers import Callers
from llmctl.gateway.command import Command
from llmctl.gateway.counts import Counts
from llmctl.gateway.demand import Demand
from llmctl.gateway.front import Front
from llmctl.gateway.gate import Gate, ticking
from llmctl.gateway.replicas import Live, Replicas
from llmctl.gateway.spent import Meters
from llmctl.gateway.ways import Ways
from llmctl.keys import is_loopback
from llmctl.logs import Log
from llmctl.processes import ProcessId
from llmctl.runner.auth import Auth
from llmctl.runner.control_server import Verb
from llmctl.runner.listener import Accepting
from llmctl.runner.port_server import PortServer
from llmctl.slots.state import Actual, SlotFolder
from llmctl.slots.verbs import gateways

LOOK = 1.0
"""Seconds between two looks at the files and the replicas."""


class GatewayServer(PortServer):
    """The gateway on one port."""

    def __init__(self, folder: SlotFolder, *, lock: int, sock: socket.socket, keep: bool) -> None:
        super().__init__(folder, lock=lock, sock=sock, keep=keep)
        home, launch = folder.home, self.launch
        auth = Auth(launch.bind, keys.read(home), require_key=launch.require_key, what="the gateway")
        keyless = is_loopback(launch.bind) and not launch.require_key
        self.error = ""  # of the registry as it lies there now
        self.since = time.time()
        self._stamps: list[tuple[int, int] | None] = []
        self._claimed: str | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._probes: dict[str, float] = {}
        self._ways = Ways(home)
        self.replicas = Replicas(self._ways.live, asyncio.get_running_loop().time)
        self.demand = Demand(
            home, self.replicas, Command(home, self._ways.config), launch.on_demand, probing.watch,
            lambda: list(self.gate.registry.handles.values()), self.note,
        )  # fmt: skip
        self.gate = Gate(
            launch.limits, auth, keyless, Callers(home), self.replicas, {}, self.demand, Counts(), Meters(folder.path),
            self._log,
        )  # fmt: skip
        self.requests = Log(folder.path / "requests.log")
        self.gate.own = own.routes(self.gate, self.health)
        self.listener = Accepting(sock, lambda: Front(self.gate), self.gate.connections, self.gate.drain)

    # ── what is behind the port ─────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        self.follow()
        self.folder.write_actual(replace(Actual(READY, self.since), server=asdict(ProcessId.of(os.getpid()))))
        self._tasks = [asyncio.ensure_future(ticking(self.gate)), asyncio.ensure_future(self._looking())]
        gc.freeze()  # what is here by now stays: looking through all of it takes tens of ms, for which requests wait

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(OSError):
            self.gate.meters.close()
        await self.demand.close()
        for live in self.replicas.live.values():
            live.pool.close()
        self._ways.close()

    def claim(self, verb: str, owner: str) -> None:
        if self._claimed:
            raise Busy(f"port {self.folder.port}: {self._claimed} goes on", port=self.folder.port)
        self._claimed = verb

    def release(self) -> None:
        self._claimed = None

    async def part(self) -> None:
        await self.end()

    def carried(self) -> dict[str, Any]:
        return {}

    def follow(self) -> None:
        """Read the registry where it has changed; one that makes no sense leaves the one before, and is told."""
        stamps = [stamp(path(self.folder.home)) for path in (registry.path, hosts.path)]
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            now = registry.read(self.folder.home)
        except StateError as error:
            self.error = error.message
            self.note(f"the registry as before goes on: {error.message}")
            return
        self.error = ""
        self.gate.registry = now
        self.replicas.follow(now)
        for live in self.replicas.live.values():
            live.head = self._ways.head(live.replica)
        self.note(f"{len(now.handles)} handles over {len(self.replicas.live)} slots ({now.hash})")

    async def _looking(self) -> None:
        loop = asyncio.get_running_loop()
        probes: dict[str, asyncio.Task[Any]] = {}
        while True:
            try:
                await self._look(probes)
            except Exception as error:  # of one look: the next ones go on
                loop.call_exception_handler({"message": "a look of the gateway failed", "exception": error})
            await asyncio.sleep(LOOK)

    async def _look(self, probes: dict[str, asyncio.Task[Any]]) -> None:
        """Once at the files, and at the replicas whose time it is."""
        loop = asyncio.get_running_loop()
        self.follow()
        self.gate.look()
        self.demand.tick()
        with contextlib.suppress(OSError):  # a full disk; it is tried again
            await self.gate.meters.keep()
        for where, live in self.replicas.live.items():
            before = probes.get(where)
            last = self._probes.get(where, 0.0)
            due = live.standing.due(loop.time()) if live.standing.resting else loop.time() - last > _pause(live, loop)
            if due and (before is None or before.done()):
                self._probes[where] = loop.time()
                probes[where] = asyncio.ensure_future(probing.watch(live))

    @property
    def why(self) -> str:
        """What is wrong with the files as they lie there now."""
        return self.error or self.gate.callers.error or self.gate.meters.error

    # ── what is told ────────────────────────────────────────────────────────────────────────────────────────────────

    def health(self) -> dict[str, Any]:
        """Of /health: never waits."""
        up = sum(not live.standing.resting for live in self.replicas.live.values())
        state = READY if up or not self.replicas.live else STARTING
        verdict = "ok" if state == READY and not self.why else "degraded"
        return {"verdict": verdict, "state": state, "status": "healthy", "ready": state == READY, "replicas": up,
                "why": self.why or None}  # fmt: skip

    def verbs(self) -> Mapping[str, Verb]:
        async def status(args: Any, owner: str, on_event: Any) -> Any:
            return {
                **self._row(), "handles": list(self.gate.registry.handles), "registry": self.gate.registry.hash,
                "why": self.why or None, "replicas": self.replicas.rows(self.gate.registry),
                "loads": self.demand.loads.rows(),
            }  # fmt: skip

        async def restart(args: Any, owner: str, on_event: Any) -> Any:
            """Look at everything anew: the registry, the keys, and replicas that rest."""
            began, self._stamps = time.monotonic(), []
            self.follow()
            for live in self.replicas.live.values():
                live.standing = live.standing.answered()
            self.happened("restart", model=GATEWAY, outcome=events.OK, who=owner)
            return self._changed(time.monotonic() - began)

        async def refused(args: Any, owner: str, on_event: Any) -> Any:
            raise gateways(self.folder.port)

        refusals = dict.fromkeys(("change", "unload", "disable", "enable", "profile"), refused)
        return {**refusals, **self.life(), "status": status, "restart": restart}

    def _changed(self, seconds: float) -> dict[str, Any]:
        """In the shape of a change."""
        return {
            "port": self.folder.port, "model": GATEWAY, "previous": GATEWAY, "engine": GATEWAY, "order": "none",
            "seconds": round(seconds, 3), "load_seconds": 0.0, "cut": 0, "state": self.health()["state"],
        }  # fmt: skip

    def _row(self) -> dict[str, Any]:
        return {
            "port": self.folder.port, "model": GATEWAY, "engine": GATEWAY, "state": self.health()["state"],
            "runner_pid": os.getpid(), "pid": None, "since": self.since, "version": __version__,
            "operation": self._claimed,
            "active": sum(live.load.requests for live in self.replicas.live.values()), "queued": 0,
        }  # fmt: skip

    def _log(self, **said: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk costs no request
            self.requests.line("request", json.dumps(said))


def _pause(live: Live, loop: asyncio.AbstractEventLoop) -> float:
    """Seconds from one look at a replica to the next: few where somebody waits for it."""
    waits = max((loop.time() - since for since in live.waiting.values()), default=0.0)
    return probing.SOON if waits > probing.SOON else probing.EVERY
