"""Start a slot server: detached for an operator, in the foreground for `llmctl serve`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from llmctl.domain import SlotSpec
from llmctl.errors import LlmctlError, LoadFailed, Unreachable, from_dict
from llmctl.files import locked
from llmctl.processes import own_environment
from llmctl.slots import control
from llmctl.slots.state import Launch, SlotFolder

START_TIMEOUT = 30.0


def is_up(folder: SlotFolder) -> bool:
    """A slot server answers for this port."""
    try:
        control.call(folder.control, "ping", timeout=5.0)
    except Unreachable:
        return False
    return True


def ensure_server(home: Path, port: int, launch: Launch | None = None) -> None:
    """A slot server runs on `port` afterwards. Raises what keeps it from starting: foreign listener, state, key.

    `launch` None: as it was launched before. Of several callers at once one starts it.
    """
    folder = SlotFolder(home, port)
    folder.make()
    with held_down(folder) as down:
        if down:
            _spawn(folder, launch)


@contextlib.contextmanager
def held_down(folder: SlotFolder) -> Iterator[bool]:
    """True when no slot server runs; within the block none is started by anybody else."""
    with locked(folder.path / "launch.lock"):
        yield not is_up(folder)


def _spawn(folder: SlotFolder, launch: Launch | None) -> None:
    read, write = os.pipe()
    argv = [sys.executable, *server_argv(folder, launch), "--ready-fd", str(write)]
    with open(folder.path / "server.err", "wb") as errors:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, pass_fds=(write,), cwd=folder.home,
            start_new_session=True, env=own_environment(),
        )  # fmt: skip
    process.returncode = 0  # it outlives us: nobody here waits for it
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        came, _, _ = select.select([pipe], [], [], START_TIMEOUT)
        line = pipe.readline() if came else b""
    if not line:
        last = (folder.path / "server.err").read_text(errors="replace").splitlines()[-10:]
        missing = any("No module named" in line for line in last)
        raise LoadFailed(
            f"the slot server of port {folder.port} did not start",
            hint="pip install 'llmctl-fleet[server]'" if missing else f"see {folder.path / 'server.err'}",
            port=folder.port,
            details={"log": last},
        )
    answer = json.loads(line)
    if not answer["ok"]:
        raise from_dict(answer["error"])


def serve(home: Path, port: int, spec: SlotSpec, launch: Launch) -> int:
    """Run one slot in the foreground until Ctrl-C; nothing of it is kept. The exit code."""
    folder = SlotFolder(home, port)
    folder.make()
    if is_up(folder):
        raise LlmctlError(f"a slot server runs on port {port} already", hint=f"llmctl swap {port} {spec.model}")
    argv = [sys.executable, *server_argv(folder, launch), "--foreground", json.dumps(spec.to_dict())]
    sys.stdout.flush()
    os.execve(sys.executable, argv, own_environment())


def server_argv(folder: SlotFolder, launch: Launch | None) -> Sequence[str]:
    """The slot server's command line, without the interpreter."""
    argv = ["-m", "llmctl.runner.server", str(folder.port), "--home", str(folder.home)]
    return [*argv, "--launch", json.dumps(asdict(launch))] if launch else argv
