"""A new release reaches a running slot server by re-exec: same pid, port, lock and engine, new code.

What the next image needs goes through an inherited pipe: descriptors by number, the rest by value.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from llmctl.errors import LlmctlError, Refused

CHECK_TIMEOUT = 30.0
HELD = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


async def check(python: str, argv: Sequence[str]) -> None:
    """Refused unless the new code starts and can read this slot's state."""
    process = await asyncio.create_subprocess_exec(
        python, *argv, "--check", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), CHECK_TIMEOUT)
    except (asyncio.TimeoutError, TimeoutError):
        process.kill()
        raise Refused(f"{python} did not finish its check in {CHECK_TIMEOUT:.0f} s; the old code goes on") from None
    if process.returncode:
        raise Refused(
            "the new code cannot take over; the old code goes on",
            hint="deploy a release that reads this state, or roll back",
            details={"log": output.decode(errors="replace").splitlines()[-20:]},
        )


def execute(python: str, argv: Sequence[str], state: dict[str, Any], descriptors: Sequence[int]) -> None:
    """Replace this program image; does not return. Signals stay blocked until the new image handles them."""
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
    os.execv(python, [python, *argv, "--resume-fd", str(read)])


def receive(fd: int) -> dict[str, Any]:
    """The state that `execute` left."""
    with os.fdopen(fd, "rb") as pipe:
        state: dict[str, Any] = json.loads(pipe.read())
        return state


def unblock() -> None:
    """Let the signals through that were held during the exec."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
