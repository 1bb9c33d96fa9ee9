"""Start a slot server: under its host's service manager for an operator, in the foreground for `llmctl serve`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from llmctl import keys, units
from llmctl.domain import SlotSpec
from llmctl.errors import LlmctlError, LoadFailed, Unreachable
from llmctl.files import locked
from llmctl.processes import own_environment
from llmctl.slots import control
from llmctl.slots.callback import Callback
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

    `launch` None: as it was launched before. Of several callers at once one starts it. The keys that a slot beyond
    loopback needs are made with the first one.
    """
    folder = SlotFolder(home, port)
    folder.make()
    if launch and not keys.is_loopback(launch.bind):
        keys.show(home)
    with held_down(folder) as down:
        if down:
            _start(folder, launch)


def under(home: Path, port: int, service: str) -> None:
    """A slot server runs on `port` under this service manager afterwards, whatever it ran under before.

    One that runs under another gives its listening socket to the new one: meanwhile connections wait, and the engine
    starts anew. Refused, with nothing changed, when answers take too long to wait for.
    """
    folder = SlotFolder(home, port)
    with held_down(folder) as down:
        before = folder.read_desired().launch
        if before.service != service:
            _start(folder, replace(before, service=service))
            units.get(before.service).stop(home, port)
        elif down:
            _start(folder, None)


@contextlib.contextmanager
def held_down(folder: SlotFolder) -> Iterator[bool]:
    """True when no slot server runs; within the block none is started by anybody else."""
    with locked(folder.path / "launch.lock"):
        yield not is_up(folder)


def _start(folder: SlotFolder, launch: Launch | None) -> None:
    desired = folder.read_desired()
    before = desired.launch
    now = launch.after(before) if launch else before
    folder.errors.write_bytes(b"")
    folder.refusal.unlink(missing_ok=True)
    if now != before:
        folder.write_desired(replace(desired, launch=now))
    try:
        units.get(now.service).start(folder.home, folder.port)
        _wait_until_up(folder)
        if desired.spec is None:
            units.get(now.service).at_boot(folder.home, folder.port, False)
    except LlmctlError as error:
        if now != before:
            folder.write_desired(desired)
        raise _reason(folder, error) from None


def _wait_until_up(folder: SlotFolder) -> None:
    """Not every service manager knows when a slot server serves."""
    end = time.monotonic() + START_TIMEOUT
    while not is_up(folder):
        if time.monotonic() > end:
            raise LoadFailed(f"the slot server of port {folder.port} does not answer", port=folder.port)
        time.sleep(0.1)


def _reason(folder: SlotFolder, error: LlmctlError) -> LlmctlError:
    """What the slot server itself said of its failed start, where it got that far."""
    if not isinstance(error, LoadFailed):
        return error
    last = folder.errors.read_text(errors="replace").splitlines()[-10:]
    if any("No module named" in line for line in last):
        error.hint = "pip install 'llmctl-fleet[server]'"
    error.hint = error.hint or f"see {folder.errors}"
    error.details["log"] = last or error.details.get("log", [])
    return folder.read_refusal() or error


def serve(home: Path, port: int, spec: SlotSpec, launch: Launch, callback: Callback | None = None) -> int:
    """Run one slot in the foreground until Ctrl-C; nothing of it is kept. The exit code.

    `callback` is told when the model is ready.
    """
    folder = SlotFolder(home, port)
    folder.make()
    if is_up(folder):
        raise LlmctlError(f"a slot server runs on port {port} already", hint=f"llmctl swap {port} {spec.model}")
    argv = [sys.executable, *server_argv(folder, launch), "--foreground", json.dumps(spec.to_dict())]
    if callback:
        argv += ["--callback", callback.to_json()]
    sys.stdout.flush()
    os.execve(sys.executable, argv, own_environment())


def server_argv(folder: SlotFolder, launch: Launch | None) -> Sequence[str]:
    """The slot server's command line, without the interpreter."""
    argv = ["-m", "llmctl.runner.server", str(folder.port), "--home", str(folder.home)]
    return [*argv, "--launch", json.dumps(asdict(launch))] if launch else argv
