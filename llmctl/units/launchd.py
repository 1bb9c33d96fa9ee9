"""Slots as jobs of launchd: agents (from the user's login on) or daemons (from boot on, by sudo).

Written from launchctl's manual and checked in shape: never run on a Mac by this project's tests.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmctl.errors import LoadFailed, NotDeployed, Refused
from llmctl.units import FAILED, START_TIMEOUT, UnitState, label, program
from llmctl.units.launchd_plist import plist

_STATES = {"running": "active", "waiting": "inactive", "not running": "inactive"}


@dataclass(frozen=True)
class Launchd:
    """One property list per slot, in ~/Library/LaunchAgents or, with `system`, in /Library/LaunchDaemons."""

    system: bool

    # ── names and command lines ─────────────────────────────────────────────────────────────────────────────────────

    def label(self, home: Path, port: int) -> str:
        return f"{self.prefix(home)}.{port}"

    def path(self, home: Path, port: int) -> Path:
        return self.folder() / f"{self.label(home, port)}.plist"

    def domain(self) -> str:
        return "system" if self.system else f"gui/{os.getuid()}"

    def target(self, home: Path, port: int) -> str:
        return f"{self.domain()}/{self.label(home, port)}"

    def bootstrap(self, home: Path, port: int) -> list[str]:
        return ["launchctl", "bootstrap", self.domain(), str(self.path(home, port))]

    def bootout(self, home: Path, port: int) -> list[str]:
        return ["launchctl", "bootout", self.target(home, port)]

    def kickstart(self, home: Path, port: int) -> list[str]:
        return ["launchctl", "kickstart", self.target(home, port)]

    def show(self, home: Path, port: int) -> list[str]:
        return ["launchctl", "print", self.target(home, port)]

    # ── Units ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def install(self, home: Path) -> list[str]:
        if self.system and os.getuid() == 0:
            raise Refused(
                "slot servers do not run as root, and this is root's llmctl",
                hint='deploy as another user (user = "…" in hosts.toml)',
            )
        return [self.path(home, port).name for port in self._ports(home) if self._write(home, port)]

    def start(self, home: Path, port: int) -> None:
        if not program(home).exists():
            raise NotDeployed(f"there is no release in {home}", hint='llmctl deploy this host, or set service = "none"')
        self._write(home, port)
        _run(self._sudo(self.bootout(home, port)))  # an older text of it, or one that launchd has given up
        for argv in (self.bootstrap(home, port), self.kickstart(home, port)):
            ran = _run(self._sudo(argv))
            if ran.returncode:
                raise LoadFailed(
                    f"{shlex.join(argv)} failed: {(ran.stderr or ran.stdout).strip()}",
                    hint="type it there and look; an agent needs its user logged in on the Mac",
                    port=port,
                )

    def at_boot(self, home: Path, port: int, on: bool) -> None:
        self._write(home, port, on)

    def stop(self, home: Path, port: int) -> None:
        path = self.path(home, port)
        if path.exists():
            _run(self._sudo(self.bootout(home, port)))
            self.change(["rm", "-f", str(path)])

    def state(self, home: Path, port: int) -> UnitState:
        ran = _run(self.show(home, port))
        return parse_state(ran.stdout if ran.returncode == 0 else "", self.path(home, port).exists())

    def remove(self, home: Path) -> None:
        for port in self._ports(home):
            self.stop(home, port)

    # ── effects ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def prefix(self, home: Path) -> str:
        user = pwd.getpwuid(os.getuid())
        plain = f"llmctl.{user.pw_uid}" if self.system else "llmctl"
        return label(home, Path(user.pw_dir) / ".llmctl", plain)

    def folder(self) -> Path:
        own = Path(pwd.getpwuid(os.getuid()).pw_dir) / "Library" / "LaunchAgents"
        return Path("/Library/LaunchDaemons") if self.system else own

    def _ports(self, home: Path) -> list[int]:
        """The ports that have a job."""
        names = (path.stem.rpartition(".") for path in self.folder().glob(f"{self.prefix(home)}.*.plist"))
        return sorted(int(port) for prefix, _, port in names if prefix == self.prefix(home) and port.isdigit())

    def _write(self, home: Path, port: int, at_boot: bool = True) -> bool:
        """Have the property list as it should be; whether it was changed."""
        path, user = self.path(home, port), pwd.getpwuid(os.getuid()).pw_name if self.system else None
        wanted = plist(home, port, self.label(home, port), user=user, at_boot=at_boot)
        if path.is_file() and path.read_bytes() == wanted:
            return False
        if self.system:
            self.change(["install", "-m", "644", "/dev/stdin", str(path)], wanted)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wanted)
        return True

    def _sudo(self, argv: Sequence[str]) -> list[str]:
        return ["sudo", "-n", *argv] if self.system else list(argv)

    def ran(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Do it, whatever comes of it."""
        return _run(self._sudo(argv))

    def change(self, argv: Sequence[str], stdin: bytes = b"") -> None:
        """Do it; Refused with what there is to type when it may not be done."""
        ran = _run(self._sudo(argv), stdin)
        if ran.returncode:
            raise Refused(
                f"{shlex.join(argv)} failed: {(ran.stderr or ran.stdout).strip()}",
                hint=f"type it there yourself: sudo {shlex.join(argv)}" if self.system else None,
            )


AGENTS, DAEMONS = Launchd(system=False), Launchd(system=True)


def parse_state(printed: str, enabled: bool) -> UnitState:
    """What `launchctl print` says of a job; empty when launchd does not know it."""
    found = dict(re.findall(r"^\s*(state|runs|last exit code) = (.+)$", printed, re.M))
    state = _STATES.get(found.get("state", ""), "inactive")
    code = found.get("last exit code", "").partition(":")[0].strip()
    if state == "inactive" and code.lstrip("-").isdigit() and code != "0":
        state = FAILED
    runs = found.get("runs", "")
    return UnitState(enabled, state, max(0, int(runs) - 1) if runs.isdigit() else 0)


def _run(argv: Sequence[str], stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    try:
        ran = subprocess.run(argv, input=stdin, capture_output=True, timeout=START_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 127, "", str(error))
    return subprocess.CompletedProcess(argv, ran.returncode, ran.stdout.decode(), ran.stderr.decode())
