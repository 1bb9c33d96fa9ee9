"""The slots of a host as a deploy meets them: which code each runs, and how it comes to run another without a loss."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl import logs
from llmctl.errors import Busy, DeployFailed, LlmctlError, LoadFailed, Refused, Unreachable, from_dict
from llmctl.host import releases
from llmctl.paths import slot_ports
from llmctl.processes import start_time
from llmctl.slots import control
from llmctl.slots.state import SlotFolder

ANSWER_TIMEOUT = 5.0
REEXEC_WAIT = 180.0
BACK_WAIT = 60.0
LAST_LINES = 15
OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Seen:
    """A slot: `service` is the manager that it is under, `code` where its server's llmctl lies (None: no server
    answers), `engine_code` and `engine_python` what its engine was started with (None: no engine, or a server that does
    not say)."""

    port: int
    model: str | None
    wanted: bool
    up: bool
    service: str = "none"
    code: str | None = None
    engine: bool = False
    engine_code: str | None = None
    engine_python: str | None = None


def seen(home: Path) -> list[Seen]:
    """All slots of this host."""
    ports = slot_ports(home)
    with ThreadPoolExecutor(max(1, len(ports))) as pool:
        return list(pool.map(lambda port: _seen(home, port), ports))


def _seen(home: Path, port: int) -> Seen:
    folder = SlotFolder(home, port)
    try:
        desired = folder.read_desired()
        model = desired.spec.model if desired.spec else None
        wanted = model is not None and (desired.disabled is None or desired.disabled.over())
        service = desired.launch.service
    except LlmctlError:
        model, wanted, service = None, False, "none"
    try:
        said = control.call(folder.control, "ping", timeout=ANSWER_TIMEOUT)
        pid = control.call(folder.control, "status", timeout=ANSWER_TIMEOUT)["pid"]
    except LlmctlError:
        return Seen(port, model, wanted, up=False, service=service)
    runs = said.get("engine") or {}
    service = said.get("service") or service
    return Seen(
        port, model, wanted, True, service, said.get("code"), pid is not None, runs.get("code"), runs.get("python")
    )


def due(home: Path, slot: Seen, release: str, pythons: Collection[str], service: str) -> list[str]:
    """What a slot needs to run `release` under `service`: "start", "move", "reexec", "engine", or nothing.

    `pythons` are those of its environments. An engine is started anew only when code of its own changed, or its
    environment did; a slot that moves to another service manager gets new code and a new engine with that.
    """
    if not slot.up and not slot.wanted:
        return []
    if slot.service != service:
        return ["move"]
    if not slot.up:
        return ["start"]
    steps = [] if slot.code == str(releases.folder(home, release) / "lib") else ["reexec"]
    if slot.engine and (slot.engine_python not in pythons or not _same_engine(home, slot, release)):
        steps.append("engine")
    return steps


def _same_engine(home: Path, slot: Seen, release: str) -> bool:
    if slot.engine_code is None:
        return False
    runs, wanted = releases.read(home, Path(slot.engine_code).parent.name), releases.read(home, release)
    return runs is not None and wanted is not None and runs.engine_code == wanted.engine_code


def renew(home: Path, slot: Seen, release: str, python: str, steps: Collection[str], on: OnEvent) -> None:
    """Take a slot through `steps`. DeployFailed with the last lines of its log; it goes on with what it had, or is
    started by the next try."""
    try:
        for step in steps:
            on({"event": "slot", "port": slot.port, "step": step})
            if step in ("start", "move"):
                start(home, slot.port, move=step == "move")
            elif step == "reexec":
                reexec(home, slot.port, release, python)
            else:
                control.call(SlotFolder(home, slot.port).control, "restart", {"lock_wait": REEXEC_WAIT}, on_event=on)
    except LlmctlError as error:
        log = error.details.get("log") or _last_lines(home, slot.port)
        raise DeployFailed(
            f"port {slot.port}: {error.message}", hint=error.hint, port=slot.port, details={"log": log}
        ) from None


def start(home: Path, port: int, *, move: bool) -> None:
    """Have the release in use start a slot that should run, or with `move` take it under its own service manager."""
    program = [str(home / "current" / "bin" / "llmctl"), "--json", "restart", str(port), *["--reexec"] * move]
    ran = subprocess.run(program, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", cwd=home)
    try:
        errors = json.loads(ran.stdout)["errors"]
    except (ValueError, KeyError, TypeError):
        raise LoadFailed(
            f"{program[0]} ended with {ran.returncode}", details={"log": ran.stderr.splitlines()}
        ) from None
    if errors:
        raise from_dict(errors[0])


def reexec(home: Path, port: int, release: str, python: str) -> None:
    """The slot server of `port` goes on as the code of `release`: same process, port and engine."""
    folder, lib = SlotFolder(home, port), str(releases.folder(home, release) / "lib")
    end = time.monotonic() + REEXEC_WAIT
    while True:
        try:
            pid = control.call(folder.control, "reexec", {"python": python, "code": lib})["pid"]
            break
        except (Busy, Refused) as error:
            # A change, or answers that still run: both end. Code that cannot start does not.
            if error.details.get("log") or time.monotonic() > end:
                raise
            time.sleep(0.5)
    started, end = start_time(pid), time.monotonic() + BACK_WAIT
    while started is not None and start_time(pid) == started and time.monotonic() < end:
        time.sleep(0.05)
        try:
            if control.call(folder.control, "ping", timeout=ANSWER_TIMEOUT).get("code") == lib:
                return
        except Unreachable:
            continue
    how = "ended" if start_time(pid) is None else "did not answer"
    raise LoadFailed(f"the slot server of {release} {how} after it had taken over", port=port)


def end_all(home: Path) -> list[int]:
    """End the slot servers that still run; their ports."""
    ended = []
    for port in slot_ports(home):
        try:
            control.call(SlotFolder(home, port).control, "stop", timeout=ANSWER_TIMEOUT)
            ended.append(port)
        except Unreachable:
            continue
    return ended


def _last_lines(home: Path, port: int) -> list[str]:
    folder = SlotFolder(home, port)
    found: list[str] = []
    for path in (folder.log, folder.path / "server.err"):
        try:
            found += [line.rstrip("\n") for line in logs.read(path, LAST_LINES, lambda: False)]
        except (OSError, LlmctlError):
            continue
    return found[-LAST_LINES:]
