"""What keeps slot servers running over crashes and reboots: systemd, launchd, or nothing.

A service manager is one module with the functions of `Units`; texts and command lines are made by pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

MODULES = {
    "none": "llmctl.units.detached",
    "systemd": "llmctl.units.systemd_user",
    "systemd-system": "llmctl.units.systemd_system",
    "launchd": "llmctl.units.launchd_agent",
    "launchd-system": "llmctl.units.launchd_daemon",
}


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
        """Enable and start the unit of a slot; returns when it runs, or raises LoadFailed with its last lines."""

    def stop(self, home: Path, port: int) -> None:
        """Stop and disable it."""

    def state(self, home: Path, port: int) -> UnitState: ...

    def remove(self, home: Path) -> None:
        """Stop all units of `home`, and remove their files."""


def get(service: str) -> Units:
    """The units of a service manager of config.SERVICES ("auto" is "none": only a deploy chooses)."""
    return cast(Units, import_module(MODULES["none" if service == "auto" else service]))
