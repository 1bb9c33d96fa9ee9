"""What keeps slot servers running over crashes and reboots: systemd, launchd, or nothing.

A service manager is one object with the methods of `Units`; texts and command lines are made by pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

OBJECTS = {
    "none": "llmctl.units.detached:DETACHED",
    "systemd": "llmctl.units.systemd:USER",
    "systemd-system": "llmctl.units.systemd:SYSTEM",
    "launchd": "llmctl.units.launchd:AGENTS",
    "launchd-system": "llmctl.units.launchd:DAEMONS",
}
START_TIMEOUT = 90.0
FAILED = "failed"  # of UnitState.active: the service manager has given up
COMING = ("activating", "active")


@dataclass(frozen=True)
class UnitState:
    """A slot's unit: whether it comes back at boot, and what it is now ("active", "inactive", "failed", …)."""

    enabled: bool
    active: str
    restarts: int = 0


class Units(Protocol):
    """The units of one host; `home` is the state folder. Every method may be called again without harm."""

    def install(self, home: Path) -> list[str]:
        """Have the unit files as they should be; the names of those that were changed."""

    def start(self, home: Path, port: int) -> None:
        """Enable and start the unit of a slot, also one that was given up; LoadFailed with its last lines.

        Returns when its slot server serves, or (launchd) when it was started.
        """

    def at_boot(self, home: Path, port: int, on: bool) -> None:
        """Whether it starts at boot; what runs now goes on as it does."""

    def stop(self, home: Path, port: int) -> None:
        """Stop and disable it; returns when its processes are gone."""

    def state(self, home: Path, port: int) -> UnitState: ...

    def remove(self, home: Path) -> None:
        """Stop all units of `home`, and remove their files."""


def get(service: str) -> Units:
    """The units of a service manager of config.SERVICES ("auto" is "none": only a deploy chooses)."""
    module, _, name = OBJECTS["none" if service == "auto" else service].partition(":")
    return cast(Units, getattr(import_module(module), name))


def program(home: Path) -> Path:
    """What a unit starts: the slot server of the release in use at that moment."""
    return home / "current" / "bin" / "slot-server"


def label(home: Path, own: Path, plain: str = "llmctl") -> str:
    """What the units of `home` are called: `plain` for ~/.llmctl (`own`), else a name of that state folder's own."""
    import hashlib

    return plain if home == own else f"llmctl-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}"
