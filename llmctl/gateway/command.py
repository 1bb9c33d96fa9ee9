"""Loads and unloads by llmctl's own command line, which knows the way to every host and its configuration."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmctl.errors import Busy
from llmctl.gateway.loading import OnEvent, failure
from llmctl.gateway.registry import Replica
from llmctl.processes import own_environment

LONGEST_LINE = 2**20


class Command:
    """`config()` is the folder of hosts.toml, where there is one."""

    def __init__(self, home: Path, config: Callable[[], Path | None]) -> None:
        self._home, self._config = home, config

    async def load(self, replica: Replica, on_event: OnEvent) -> None:
        """Have a slot load what its profile says; others go for it where they must. Busy where they cannot yet."""
        if replica.profile is None:
            raise failure(f"no profile says how {replica.model} is loaded on {replica.where}", "llmctl handles check")
        await self._run(replica, ["profile", "load", replica.profile, "--slot", replica.where], on_event)

    async def unload(self, replica: Replica, unused: float) -> None:
        """End the model of a slot that had no request for so many seconds; Busy where it had."""
        await self._run(replica, ["unload", replica.where, "--unused", f"{unused:.3f}s"], lambda event: None)

    def _environment(self) -> dict[str, str]:
        folder = self._config()
        found = {**os.environ, "LLMCTL_HOME": str(self._home)}
        return own_environment({**found, **({"LLMCTL_CONFIG": str(folder)} if folder else {})})

    async def _run(self, replica: Replica, words: list[str], on_event: OnEvent) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "llmctl", "--json", "--yes", *words, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=self._environment(),
                limit=LONGEST_LINE,
            )  # fmt: skip
        except OSError as error:
            raise failure(f"llmctl cannot be started: {error.strerror}", "llmctl doctor") from None
        assert process.stdout and process.stderr
        said = asyncio.ensure_future(process.stdout.read())
        try:
            async for line in process.stderr:
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        on_event(event)
            answer = json.loads(await said)
            await process.wait()
        except ValueError:
            raise failure(f"llmctl {' '.join(words)} gave no answer") from None
        finally:
            said.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
        if answer.get("errors"):
            raise _error(replica, answer["errors"][0])


def _error(replica: Replica, said: dict[str, Any]) -> Exception:
    """Busy names the slot whose room is waited for, where it is another one."""
    message, port = str(said.get("message")), said.get("port")
    if said.get("code") == Busy.code:
        where = f"{replica.host}:{port}" if port and port != replica.port else None
        return Busy(message, details={"where": where})
    return failure(message, said.get("hint"))
