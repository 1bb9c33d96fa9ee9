"""A slot's next slot server: this very process in other code (re-exec), or another process that gets its socket.

What the next image of a process needs goes through an inherited pipe: descriptors by number, the rest by value. Another
process gets the listening socket alone: an engine dies with the process that started it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.errors import LlmctlError, Refused, Unreachable
from llmctl.slots import control
from llmctl.slots.state import Launch, SlotFolder

CHECK_TIMEOUT = 30.0
SEND_TIMEOUT = 5.0
HELD = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


@dataclass(frozen=True)
class Image:
    """The program that is to take a process over: the llmctl in the folder `code`, run by `python`."""

    python: str
    code: str
    argv: tuple[str, ...]

    def environment(self) -> dict[str, str]:
        """What this process was given, with the other code in the place of its own."""
        return {**os.environ, "PYTHONPATH": self.code}

    async def check(self) -> None:
        """Refused unless the new code starts and can read this slot's state."""
        try:
            process = await asyncio.create_subprocess_exec(
                self.python, *self.argv, "--check", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT, env=self.environment(),
            )  # fmt: skip
        except OSError as error:
            raise Refused(f"{self.python} cannot be started: {error.strerror}; the old code goes on") from None
        try:
            output, _ = await asyncio.wait_for(process.communicate(), CHECK_TIMEOUT)
        except (asyncio.TimeoutError, TimeoutError):
            process.kill()
            raise Refused(
                f"{self.python} did not finish its check in {CHECK_TIMEOUT:.0f} s; the old code goes on"
            ) from None
        if process.returncode:
            raise Refused(
                "the new code cannot take over; the old code goes on",
                hint="deploy a release that reads this state, or roll back",
                details={"log": output.decode(errors="replace").splitlines()[-20:]},
            )

    def execute(self, state: dict[str, Any], descriptors: Sequence[int]) -> None:
        """Become this program; does not return. Signals stay blocked until the new image handles them."""
        read, write = os.pipe()
        data = json.dumps(state).encode()
        if len(data) > 60_000:
            raise LlmctlError("the handover state does not fit into a pipe")
        os.write(write, data)
        os.close(write)
        for fd in (read, *descriptors):
            os.set_inheritable(fd, True)
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(self.python, [self.python, *self.argv, "--resume-fd", str(read)], self.environment())


def receive(fd: int) -> dict[str, Any]:
    """The state that `Image.execute` left."""
    with os.fdopen(fd, "rb") as pipe:
        state: dict[str, Any] = json.loads(pipe.read())
        return state


def unblock() -> None:
    """Let the signals through that were held during the exec."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def take(folder: SlotFolder, launch: Launch) -> socket.socket | None:
    """The listening socket of the slot server that runs under another service manager and ends now; None without one.

    Raises what that one says when it cannot give it away.
    """
    try:
        running = control.call(folder.control, "ping", timeout=SEND_TIMEOUT)
    except Unreachable:
        return None
    if running.get("service") == launch.service:
        return None
    meeting = folder.path / "take.sock"
    meeting.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waiting, control.address(meeting) as where:
        waiting.bind(where)
        waiting.listen(1)
        waiting.settimeout(SEND_TIMEOUT)
        try:
            control.call(folder.control, "hand_over", {"to": str(meeting)})
            with waiting.accept()[0] as giver:
                _, (fd, *_), _, _ = socket.recv_fds(giver, 1, 1)
        except OSError as error:
            raise Unreachable(f"the socket of port {folder.port} did not come: {error}", port=folder.port) from error
        finally:
            meeting.unlink(missing_ok=True)
    return socket.socket(fileno=fd)


def send(sock: socket.socket, to: Path) -> None:
    """Give a listening socket to who waits in `take`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link, control.address(to) as where:
        link.settimeout(SEND_TIMEOUT)
        link.connect(where)
        socket.send_fds(link, [b"."], [sock.fileno()])
