"""The deploy lease of a host: one deploy at a time, with an owner, an expiry and a fencing number.

`deploy.lock` holds it. Its end is a reading of the monotonic clock of one boot: neither a wrong clock nor a changed one
moves it, and a reboot frees it. Every change of a deploy is made under a flock and only while the lease still carries
its number; the number only grows, so a deploy that comes back after its lease was taken over writes nothing.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmctl.domain import build
from llmctl.errors import Busy, LlmctlError, LostLease
from llmctl.files import locked, read_json, write_json
from llmctl.processes import ProcessId, boot_id

TTL = 24.0
GUARD_WAIT = 10.0
POLL = 0.25


@dataclass(frozen=True)
class Claim:
    """Who asks for the lease: `token` is the deploy's own, `ttl` seconds of silence after which it is lost."""

    token: str
    owner: str
    message: str = ""
    ttl: float = TTL


@dataclass(frozen=True)
class Lease:
    """What `deploy.lock` says. `token` "" is free; `until` is monotonic seconds of `boot`; `since` (epoch seconds) is
    only shown; `process` is the step that the owner runs on this host."""

    number: int = 0
    token: str = ""
    owner: str = ""
    message: str = ""
    ttl: float = TTL
    boot: str = ""
    until: float = 0.0
    since: float = 0.0
    process: Mapping[str, Any] | None = None

    def left(self) -> float:
        """Seconds until it is lost; 0 when it is free, lost, or of another boot."""
        if not self.token or self.boot != boot_id():
            return 0.0
        return max(0.0, min(self.until - time.monotonic(), self.ttl))

    def shown(self) -> dict[str, Any]:
        """What others may know of it."""
        return {"owner": self.owner, "message": self.message, "since": self.since, "left": round(self.left(), 1)}


def read(home: Path) -> Lease:
    """The lease as it stands, whoever has it."""
    return build(Lease, read_json(_file(home)) or {})


def take(
    home: Path, claim: Claim, *, wait: float = 0.0, on_wait: Callable[[Lease], None] | None = None
) -> tuple[Lease, Lease | None]:
    """The lease, now of `claim`, and the lost one that it replaces (None: it was free). Waits up to `wait` seconds.

    Busy names the owner. The step that a lost owner left running here is killed.
    """
    end, told = time.monotonic() + wait, False
    while True:
        before = read(home)
        if not before.left():
            end_step(before)
        with guard(home):
            before = read(home)
            if not before.left() or before.token == claim.token:
                lease = _extended(Lease(
                    number=before.number + 1, token=claim.token, owner=claim.owner, message=claim.message,
                    ttl=claim.ttl, since=time.time(), process=asdict(ProcessId.of(os.getpid())),
                ))  # fmt: skip
                write_json(_file(home), asdict(lease))
                lost = before if before.token and before.token != claim.token else None
                return lease, lost
        if time.monotonic() >= end:
            raise _busy(before)
        if on_wait and not told:
            on_wait(before)
            told = True
        time.sleep(POLL)


def end_step(lease: Lease) -> None:
    """Kill the step that the owner of `lease` left on this host, with all that it started."""
    if lease.process:
        process = build(ProcessId, lease.process)
        if process.pid != os.getpid():
            process.kill()


@contextlib.contextmanager
def held(home: Path, number: int, token: str) -> Iterator[Lease]:
    """Within the block nobody else changes this host; LostLease when the lease is another's by now."""
    with guard(home):
        lease = read(home)
        if (lease.number, lease.token) != (number, token):
            raise _lost(lease)
        yield lease


@contextlib.contextmanager
def kept(home: Path, number: int, token: str) -> Iterator[None]:
    """The lease is renewed while the block runs, and a deploy that takes it over ends this process first."""
    renew(home, number, token, asdict(ProcessId.of(os.getpid())))
    done = threading.Event()

    def keep() -> None:
        while not done.wait(read(home).ttl / 3):
            with contextlib.suppress(LlmctlError, OSError):
                renew(home, number, token)

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def renew(home: Path, number: int, token: str, process: Mapping[str, Any] | None = None) -> Lease:
    """Put its end off; `process` is the step that runs from now on."""
    with held(home, number, token) as lease:
        renewed = _extended(replace(lease, process=process or lease.process))
        write_json(_file(home), asdict(renewed))
        return renewed


def release(home: Path, number: int, token: str) -> None:
    """Free it; its number stays."""
    with held(home, number, token) as lease:
        write_json(_file(home), asdict(Lease(number=lease.number)))


@contextlib.contextmanager
def guard(home: Path) -> Iterator[None]:
    """The flock under which a deploy changes this host; Busy when a step holds it for unusually long."""
    end = time.monotonic() + GUARD_WAIT
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(home / "deploy.guard", wait=False, what="this host's deploy"))
                break
            except Busy:
                if time.monotonic() > end:
                    raise _busy(read(home)) from None
                time.sleep(POLL / 5)
        yield


def _extended(lease: Lease) -> Lease:
    return replace(lease, boot=boot_id(), until=time.monotonic() + lease.ttl)


def _busy(lease: Lease) -> Busy:
    why = f" ({lease.message})" if lease.message else ""
    return Busy(
        f"{lease.owner or 'another deploy'} deploys to this host{why}",
        hint=f"add --lock-wait 10m, or try again: its lease ends {lease.left():.0f} s after it falls silent",
        details=lease.shown(),
    )


def _lost(lease: Lease) -> LostLease:
    who = f"{lease.owner} has taken this host over" if lease.token else "this deploy's lease was lost and given back"
    return LostLease(who, hint="run the deploy again when that one is done", details=lease.shown())


def _file(home: Path) -> Path:
    return home / "deploy.lock"
