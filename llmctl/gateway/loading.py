"""Models that are loaded when somebody asks for them: one load a slot, which all who ask for it join."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmctl.errors import RequestError
from llmctl.gateway.registry import Replica
from llmctl.processes import own_environment

AGAIN = 5.0
"""Seconds after a failure within which the same load is not tried again: its error is told instead."""
OnEvent = Callable[[Mapping[str, Any]], None]
Start = Callable[[Replica, OnEvent], Awaitable[None]]
"""Loads what a slot stands for, and returns when it serves; RequestError says why it does not."""


@dataclass
class Load:
    """One that goes on, or has ended. `done` of `total` is how far its `stage` is."""

    replica: Replica
    began: float
    task: asyncio.Task[None] = field(repr=False)
    stage: str = "start"
    done: float = 0.0
    total: float = 0.0
    eta: float | None = None

    def told(self, event: Mapping[str, Any]) -> None:
        """After an event of its progress."""
        if event.get("event") == "stage":
            self.stage = str(event.get("stage"))
            self.done, self.total = (_number(event.get(key)) or 0.0 for key in ("done", "total"))
            self.eta = _number(event.get("eta"))

    @property
    def progress(self) -> float | None:
        return round(self.done / self.total, 3) if self.total else None

    def words(self) -> str:
        """For people: loading qwen2.5-32b: weights 45 %, 12 s left."""
        share = f" {100 * self.done / self.total:.0f} %" if self.total else ""
        left = f", {self.eta:.0f} s left" if self.eta else ""
        return f"loading {self.replica.model}: {self.stage}{share}{left}"


class Loads:
    """The loads of one gateway."""

    def __init__(self, start: Start, clock: Callable[[], float] = time.monotonic) -> None:
        self._start, self._clock = start, clock
        self._loads: dict[str, Load] = {}
        self._failed: dict[str, tuple[float, RequestError]] = {}

    def wanted(self, replica: Replica) -> Load:
        """The load of this slot, begun if it does not go on; RequestError where it failed a moment ago."""
        now, where = self._clock(), replica.where
        load = self._loads.get(where)
        if load and not load.task.done():
            return load
        if (failed := self._failed.get(where)) and now - failed[0] < AGAIN:
            raise failed[1]
        task = asyncio.get_running_loop().create_task(self._run(replica))
        self._loads[where] = load = Load(replica, now, task)
        return load

    async def _run(self, replica: Replica) -> None:
        try:
            await self._start(replica, lambda event: self._loads[replica.where].told(event))
        except RequestError as error:
            self._failed[replica.where] = self._clock(), error
            raise
        self._failed.pop(replica.where, None)

    def rows(self) -> list[dict[str, Any]]:
        """Those that go on, for `gateway status`."""
        going = [load for load in self._loads.values() if not load.task.done()]
        return [
            {"where": load.replica.where, "model": load.replica.model, "stage": load.stage, "progress": load.progress}
            for load in going
        ]

    async def close(self) -> None:
        for load in self._loads.values():
            load.task.cancel()
            with contextlib.suppress(asyncio.CancelledError, RequestError):
                await load.task


class Command:
    """Loads by llmctl's own command, which knows the way to every host: `profile load … --slot`."""

    def __init__(self, home: Path, config: Path | None) -> None:
        self.environment = own_environment({
            **os.environ, "LLMCTL_HOME": str(home), **({"LLMCTL_CONFIG": str(config)} if config else {}),
        })  # fmt: skip

    async def load(self, replica: Replica, on_event: OnEvent) -> None:
        if replica.profile is None:
            raise _failed(f"no profile says how {replica.model} is loaded on {replica.where}")
        await self._run(["profile", "load", replica.profile, "--slot", replica.where], on_event)

    async def unload(self, replica: Replica) -> None:
        await self._run(["unload", replica.where], lambda event: None)

    async def _run(self, words: list[str], on_event: OnEvent) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "llmctl", "--json", "--yes", *words, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=self.environment,
        )  # fmt: skip
        assert process.stdout and process.stderr
        try:
            said = asyncio.ensure_future(process.stdout.read())
            async for line in process.stderr:
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        on_event(event)
            answer = json.loads(await said)
            await process.wait()
        except ValueError:
            raise _failed(f"llmctl {' '.join(words)} ended with {process.returncode}") from None
        finally:
            if process.returncode is None:
                process.kill()
        if answer.get("errors"):
            error = answer["errors"][0]
            raise _failed(str(error.get("message")), error.get("hint"))


def _failed(why: str, hint: str | None = None) -> RequestError:
    error = RequestError(why, status=503, code="load_failed", details={"retry_after": AGAIN})
    error.hint = hint
    return error


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
