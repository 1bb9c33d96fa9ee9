"""The environments of a deploy: those that a host lacks are made there, from the index or out of wheels sent to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from llmctl.environments import locks, wheelhouse
from llmctl.environments.managers import SHIPPED
from llmctl.fleet.deploy.choice import Choice, Order
from llmctl.fleet.deploy.side import LONG, HostSide
from llmctl.fleet.facts import Facts

# Bytes that an environment takes on the disk, rounded up from what was seen (CUDA's torch: from its wheels' sizes).
GB = 10**9
DISK = {"base": GB // 5, "llamacpp": GB // 4, "torch": 3 * GB // 2, "mlx": GB, "openvino": GB, "torch cuda": 8 * GB}


@dataclass(frozen=True)
class Parcel:
    """Wheels for a host: `tool` names the one of uv or pip that environments are made with (None: it has its own)."""

    wheels: tuple[Path, ...]
    tool: str | None

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.wheels)


def pack(choice: Choice, missing: Collection[str], facts: Facts, order: Order, cache: Path) -> Parcel:
    """The wheels that are to be on the host before its missing environments can be made; fetched where needed.

    Refused for wheels that are not for the host, or not there.
    """
    if not missing:
        return Parcel((), None)
    wanted = [] if choice.online else [each for each in choice.environments if each.name in missing]
    program, python = _program(choice), choice.python.version
    wanted += [locks.tool(program)] if program else []
    if order.wheelhouse:
        found = wheelhouse.carried(wanted, python, facts, order.wheelhouse)
        wheelhouse.check(found, python, facts)
    else:
        found = wheelhouse.collect(wanted, python, facts, cache)
    tool = next((path.name for path in found if program and path.name.startswith(f"{program}-")), None)
    return Parcel(tuple(found), tool)


def room(choice: Choice, missing: Collection[str], parcel: Parcel) -> int:
    """The bytes that it all takes on the host's disk, about."""
    sizes = [DISK.get(f"{name} {choice.backend.value}", DISK.get(name, DISK["torch"])) for name in missing]
    return sum(sizes) + parcel.size


def send(side: HostSide, parcel: Parcel, needed: int) -> int:
    """Send what the host has not of a parcel; the bytes that were sent. NoSpace when it all would not fit."""
    if not parcel.wheels:
        return 0
    sizes = {path.name: path.stat().st_size for path in parcel.wheels}
    files = {path.name: {"bytes": sizes[path.name], "sha256": wheelhouse.sha256(path)} for path in parcel.wheels}
    missing = side.step("wheels", files=files, needed=needed, timeout=LONG)["missing"]
    told = _Told(side, sum(sizes[name] for name in missing))
    for path in parcel.wheels:
        if path.name in missing:
            side.put(path, path.name, told.on_bytes)
            told.sent += sizes[path.name]
    if missing:
        side.step("wheels", files=files, timeout=LONG)
    return told.sent


def build(side: HostSide, choice: Choice, missing: Collection[str], parcel: Parcel) -> None:
    """Make the missing environments, one after another."""
    for each in choice.environments:
        if each.name in missing:
            side.note(f"makes the environment {each.name} with {choice.manager.value}")
            side.step(
                "environment", name=each.name, requirements=each.requirements, manager=choice.manager.value,
                online=choice.online, tool=choice.tool, wheel=parcel.tool, timeout=LONG,
            )  # fmt: skip


def _program(choice: Choice) -> str | None:
    """The package that has to come along: uv where the host has none, pip where an environment has no index."""
    if choice.manager.value == SHIPPED:
        return None if choice.tool else SHIPPED
    return "pip" if choice.manager.value == "venv" and not choice.online else None


class _Told:
    """Shows how far the sending is."""

    def __init__(self, side: HostSide, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.side, self.total, self.clock = side, total, clock
        self.sent, self.began = 0, clock()

    def on_bytes(self, done: int, size: int) -> None:
        elapsed, sent = self.clock() - self.began, self.sent + done
        eta = elapsed / sent * (self.total - sent) if sent and elapsed > 1 else None
        event = {"stage": "sends packages", "done": sent, "total": self.total, "elapsed": elapsed, "eta": eta}
        self.side.on_event({"event": "stage", **event})
