"""One LiteLLM proxy at work on a loopback port of its own: started, asked whether it is ready, let finish, ended."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from llmctl.engines.upstream_keeper import FINISH
from llmctl.errors import LoadFailed
from llmctl.processes import code
from llmctl.runner.engine_log import EngineLog, Pipe

READY = "/health/readiness"
STARTS_WITHIN = 300.0
EVERY = 0.25
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks GitHub for prices at every start
    "LITELLM_MODE": "PRODUCTION",  # else it reads .env files
    "LITELLM_LOG": "ERROR",
    "NO_COLOR": "1",
}
INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")


class Process:
    """A proxy that was started with one configuration. `done` is its exit status, once it has ended."""

    def __init__(self, port: int, keeper: asyncio.subprocess.Process, lifeline: int, said: Pipe) -> None:
        self.port, self.pid = port, keeper.pid
        self._lifeline, self._said = lifeline, said
        self.finishing = False
        self.done: asyncio.Task[int] = asyncio.ensure_future(keeper.wait())

    async def ready(self) -> None:
        """Wait until it answers; LoadFailed with its last words when it ended before, or took too long."""
        loop = asyncio.get_running_loop()
        end = loop.time() + STARTS_WITHIN
        while not await asyncio.to_thread(_answers, self.port):
            if self.done.done():
                self._said.drain()
                last = f": {self._said.tail[-1][:300]}" if self._said.tail else ""
                raise LoadFailed(f"LiteLLM ended with exit status {self.done.result()} before it was ready{last}")
            if loop.time() > end:
                raise LoadFailed(f"LiteLLM is not ready after {STARTS_WITHIN:.0f} s")
            await asyncio.sleep(EVERY)

    def finish(self) -> None:
        """Have it answer what it was asked, close each connection after that, and end."""
        if not self.finishing:
            self.finishing = True
            self._tell(FINISH)

    async def close(self) -> None:
        """It is gone afterwards, with all that it started."""
        self._tell(b"s")
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        await self.done
        self._said.drain()

    def _tell(self, what: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._lifeline, what)


async def start(program: Path, config: Path, secrets: Mapping[str, str], log: EngineLog) -> Process:
    """Start the proxy of an environment with the configuration in a file; it is not ready yet.

    `secrets` are variables that the configuration names. Nothing else of this process's environment is seen by it.
    """
    port, folder = _free_port(), config.parent
    listen = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    keep, lifeline = os.pipe()
    told, says = os.pipe()
    try:
        keeper = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "llmctl.engines.upstream_keeper", str(keep), "", str(program), *listen,
            stdin=asyncio.subprocess.DEVNULL, stdout=says, stderr=says, pass_fds=(keep,), start_new_session=True,
            cwd=folder, env=environment(folder, secrets),
        )  # fmt: skip
    except OSError as error:
        os.close(lifeline)
        os.close(told)
        raise LoadFailed(f"LiteLLM cannot be started: {error.strerror}") from error
    finally:
        os.close(keep)
        os.close(says)
    return Process(port, keeper, lifeline, Pipe(log, told, "litellm"))


def environment(folder: Path, secrets: Mapping[str, str]) -> dict[str, str]:
    """What it sees: its home is `folder`, so that nobody's own settings are read; llmctl's code is for its keeper."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**kept, **QUIET, **secrets, "HOME": str(folder), "PYTHONPATH": code()}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", READY)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
