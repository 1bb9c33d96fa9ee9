"""LiteLLM on the gateway's port: the port is ours and stays, and proxies come and go behind it, one a configuration.

A change brings up a new proxy beside the one that serves; new connections go to it once it answers, and the old one
ends when it has answered what it was asked.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from llmctl import __version__
from llmctl.domain import BACKOFF, GATEWAY, READY, STARTING
from llmctl.errors import Busy, LlmctlError, LoadFailed, Refused
from llmctl.files import private, write_text
from llmctl.gateway import litellm_plan, litellm_process
from llmctl.gateway.kinds import LITELLM
from llmctl.gateway.litellm_plan import Plan
from llmctl.gateway.litellm_process import STARTS_WITHIN, Process
from llmctl.gateway.litellm_relay import Relay
from llmctl.processes import ProcessId
from llmctl.runner.control_server import Verb
from llmctl.runner.edge import Drain
from llmctl.runner.listener import Accepting
from llmctl.runner.port_server import PortServer
from llmctl.slots.state import Actual

LOOK = 0.5
"""Seconds between two looks at the files and the proxy."""
FIRST, LONGEST = 1.0, 60.0
"""Seconds until a proxy that did not come up, or ended, is tried again: doubled each time."""


class LiteLlmServer(PortServer):
    """The gateway's port with a LiteLLM behind it."""

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.connections: set[Relay] = set()
        self.error = ""
        self.since = time.time()
        self.plan: Plan | None = None  # as the files have it
        self.current: Process | None = None
        self.runs: Plan | None = None  # what `current` was started with
        self._stamps: litellm_plan.Stamps = ()
        self._news = asyncio.Event()
        self._again = False
        self._claimed: str | None = None
        self._pause, self._not_before = FIRST, 0.0
        self._answered = 0.0  # when `current` began to, on the monotonic clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._processes: set[Process] = set()
        limits = self.launch.limits
        self.listener = Accepting(
            self.sock, lambda: Relay(self.proxy, self.connections, limits), self.connections, Drain()
        )

    # ── what is behind the port ─────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        self.folder.write_actual(replace(Actual(READY, self.since), server=asdict(ProcessId.of(os.getpid()))))
        self._begin(self._looking())

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(process.close() for process in self._processes))

    async def part(self) -> None:
        await self.end()

    def carried(self) -> dict[str, Any]:
        return {}

    def claim(self, verb: str, owner: str) -> None:
        if self._claimed:
            raise Busy(f"port {self.folder.port}: {self._claimed} goes on", port=self.folder.port)
        self._claimed = verb

    def release(self) -> None:
        self._claimed = None

    @property
    def serves(self) -> bool:
        """New connections may go to the proxy that there is."""
        return self.current is not None and not self.current.finishing and not self.current.done.done()

    async def proxy(self) -> Process | None:
        """The proxy for a new connection, waited for; None when none has come in time."""
        end = time.monotonic() + self.launch.limits.queue_timeout
        while not self.serves and (left := end - time.monotonic()) > 0:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), left)
            except (asyncio.TimeoutError, TimeoutError):
                break
        return self.current if self.serves else None

    async def _looking(self) -> None:
        while True:
            try:
                await self._look()
            except Exception as error:  # of one look: the next ones go on
                self._failed(f"a look at the files and the proxy failed: {error!r}")
            await asyncio.sleep(LOOK)

    async def _look(self) -> None:
        """Once at the files and at the proxy; one that ended, or that another plan wants, is replaced."""
        self._read()
        ended = self.current
        if ended and ended.done.done() and not ended.finishing:
            self.current = None
            if time.monotonic() - self._answered > LONGEST:
                self._pause = FIRST
            self._failed(f"LiteLLM ended with exit status {ended.done.result()}")
            await self._gone(ended)
        due = not self.serves or self._again or not self.plan or not self.plan.same(self.runs)
        if self.plan and due and not self._claimed and time.monotonic() >= self._not_before:
            await self._bring(self.plan)

    def _read(self) -> None:
        """Make the plan anew where a file has changed; one that cannot be made leaves the one before."""
        now = litellm_plan.stamps(self.folder)
        if now == self._stamps:
            return
        self._stamps = now
        try:
            self.plan, self.error = litellm_plan.planned(self.folder), ""
            self._pause, self._not_before = FIRST, 0.0
        except (LlmctlError, OSError) as error:
            if isinstance(error, OSError):
                self._stamps = ()  # what is in its way may go without a change of the files
            if self.error != str(error):
                self.note(f"what runs goes on as before: {error}")
            self.error = str(error)

    async def _bring(self, plan: Plan) -> None:
        """Have a proxy with this plan take the new connections; the old one goes on until then."""
        self._again = False
        config = self.folder.path / f"{LITELLM}.yaml"
        try:
            write_text(config, plan.text, private)
            self.note(f"LiteLLM {plan.version} starts with {len(plan.known.handles)} handles ({plan.known.hash})")
            process = await litellm_process.start(plan.program, config, plan.secrets, self.log)
            self._processes.add(process)
            try:
                await process.ready()
            except BaseException:
                await self._gone(process)
                raise
        except (LoadFailed, OSError) as error:
            self._failed(str(error))
            return
        old, self.current, self.runs, self.error = self.current, process, plan, ""
        self.since, self._answered = time.time(), time.monotonic()
        self._news.set()
        self.note(f"LiteLLM {plan.version} answers, process {process.pid}")
        if old:
            self._begin(self._retire(old))

    async def _retire(self, old: Process) -> None:
        old.finish()
        await asyncio.wait([old.done], timeout=self.launch.limits.request_time)
        await self._gone(old)

    async def _gone(self, process: Process) -> None:
        await process.close()
        self._processes.discard(process)

    def _failed(self, why: str) -> None:
        self.error = why
        self._not_before = time.monotonic() + self._pause
        self.note(f"{why}; again in {self._pause:.0f} s")
        self._pause = min(LONGEST, self._pause * 2)

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ── what is told ────────────────────────────────────────────────────────────────────────────────────────────────

    def verbs(self) -> Mapping[str, Verb]:
        async def status(args: Any, owner: str, on_event: Any) -> Any:
            return self._row()

        async def restart(args: Any, owner: str, on_event: Any) -> Any:
            """A new proxy in place of the one that serves."""
            began, before = time.monotonic(), self.current
            self._again, self._not_before, self._stamps, self.error = True, 0.0, (), ""
            while self.current is before or not self.serves:
                if time.monotonic() > began + STARTS_WITHIN or (self.error and not (self._again and self.plan)):
                    raise LoadFailed(self.error or "LiteLLM did not come up", port=self.folder.port)
                await asyncio.sleep(LOOK)
            return {
                "port": self.folder.port, "model": LITELLM, "previous": LITELLM, "engine": GATEWAY,
                "order": "new-first", "seconds": round(time.monotonic() - began, 3), "load_seconds": 0.0, "cut": 0,
                "state": READY,
            }  # fmt: skip

        async def refused(args: Any, owner: str, on_event: Any) -> Any:
            raise Refused(
                f"port {self.folder.port} is LiteLLM, which has no model of its own",
                hint="llmctl gateway down, or llmctl handles list", port=self.folder.port,
            )  # fmt: skip

        refusals = dict.fromkeys(("change", "unload", "disable", "enable", "profile"), refused)
        return {**refusals, **self.life(), "status": status, "restart": restart}

    def _row(self) -> dict[str, Any]:
        state = READY if self.serves else BACKOFF if self.error else STARTING
        known = self.plan.known if self.plan else None
        return {
            "port": self.folder.port, "model": LITELLM, "engine": GATEWAY, "state": state, "runner_pid": os.getpid(),
            "pid": self.current.pid if self.current else None, "since": self.since, "version": __version__,
            "operation": self._claimed, "active": len(self.connections), "queued": 0,
            "handles": list(known.handles) if known else [], "registry": known.hash if known else None,
            "why": self.error or None, "replicas": [], "loads": [], "release": self.runs.version if self.runs else None,
            "notes": list(self.plan.notes) if self.plan else [],
        }  # fmt: skip
