"""Slots as units of systemd: of the user's own manager, with linger so that they start at boot, or of the system's."""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmctl.errors import LoadFailed, NotDeployed, Refused
from llmctl.files import write_text
from llmctl.units import START_TIMEOUT, UnitState, label, program
from llmctl.units.systemd_text import STOP_TIMEOUT, system_unit, user_unit

LINGER = Path("/var/lib/systemd/linger")
MANAGER_TIMEOUT = 15.0
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_-]*")


@dataclass(frozen=True)
class Systemd:
    """Units of the user's manager, or with `system` of the system's, changed there by `sudo -n`."""

    system: bool

    # ── names and texts ─────────────────────────────────────────────────────────────────────────────────────────────

    def name(self, home: Path) -> str:
        """Without the port: llmctl@, a name of the state folder's own, or for system units of the user's own."""
        user, plain = own_user().pw_name, "llmctl"
        if self.system:
            plain = f"llmctl-{user}" if _PLAIN_NAME.fullmatch(user) else f"llmctl-{own_user().pw_uid}"
        return label(home, Path(own_user().pw_dir) / ".llmctl", plain) + "@"

    def unit(self, home: Path, port: int) -> str:
        """The unit of one slot."""
        return f"{self.name(home)}{port}.service"

    def path(self, home: Path) -> Path:
        """Where the unit's file lies."""
        own = Path(own_user().pw_dir) / ".config" / "systemd" / "user"
        return (Path("/etc/systemd/system") if self.system else own) / f"{self.name(home)}.service"

    def text(self, home: Path) -> str:
        """What the unit's file should hold."""
        if not self.system:
            return user_unit(home)
        return system_unit(home, own_user().pw_name, Path(own_user().pw_dir))

    # ── Units ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def install(self, home: Path) -> list[str]:
        changed = [] if self.system else linger()
        if self.system and own_user().pw_uid == 0:
            raise Refused(
                "slot servers do not run as root, and this is root's llmctl",
                hint='deploy as another user (user = "…" in hosts.toml), or set service = "systemd"',
            )
        path, wanted = self.path(home), self.text(home)
        if not path.is_file() or path.read_text(encoding="utf-8") != wanted:
            if self.system:
                self.change("install", "-m", "644", "/dev/stdin", str(path), stdin=wanted)
            else:
                write_text(path, wanted)
            self.change("systemctl", "daemon-reload")
            changed.append(path.name)
        return changed

    def start(self, home: Path, port: int) -> None:
        unit = self.unit(home, port)
        if not program(home).exists() or not self.path(home).exists():
            raise NotDeployed(
                f"no unit can start port {port}: there is no release in {home} with its units",
                hint='llmctl deploy this host, or set service = "none"',
            )
        if self._property(unit, "ActiveState") == "failed":
            self.change("systemctl", "reset-failed", unit)
        started = self.systemctl("start", unit, change=True, timeout=START_TIMEOUT + 10)
        if started.returncode == 0:
            return self.at_boot(home, port, True)
        if (refused := _needs_password(started)) is not None:
            raise refused
        about = self.systemctl("status", "--no-pager", "--full", "--lines=10", unit).stdout
        self.systemctl("stop", unit, change=True, timeout=STOP_TIMEOUT)  # else it would be tried again and again
        raise LoadFailed(
            f"the unit {unit} did not start",
            hint=f"on that host: {shlex.join(self._argv('status', unit))}",
            port=port,
            details={"log": about.splitlines()[-20:]},
        )

    def at_boot(self, home: Path, port: int, on: bool) -> None:
        self.change("systemctl", "enable" if on else "disable", "--quiet", self.unit(home, port))

    def stop(self, home: Path, port: int) -> None:
        unit = self.unit(home, port)
        if self.path(home).exists():
            self.change("systemctl", "disable", "--quiet", "--now", unit, timeout=STOP_TIMEOUT + 10)
            self.systemctl("reset-failed", unit, change=True)

    def state(self, home: Path, port: int) -> UnitState:
        shown = self.systemctl("show", "-p", "ActiveState,UnitFileState,NRestarts", self.unit(home, port)).stdout
        found = dict(line.partition("=")[::2] for line in shown.splitlines())
        restarts = found.get("NRestarts", "")
        return UnitState(
            found.get("UnitFileState") == "enabled",
            found.get("ActiveState") or "unknown",
            int(restarts) if restarts.isdigit() else 0,
        )

    def remove(self, home: Path) -> None:
        if not self.path(home).exists():
            return
        for unit in self._units(home):
            self.change("systemctl", "disable", "--quiet", "--now", unit, timeout=STOP_TIMEOUT + 10)
        if self.system:
            self.change("rm", "-f", str(self.path(home)))
        else:
            self.path(home).unlink(missing_ok=True)
        self.change("systemctl", "daemon-reload")

    # ── systemctl ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _units(self, home: Path) -> list[str]:
        """The instances that are enabled, or known to the manager now."""
        pattern = f"{self.name(home)}*.service"
        found = {link.name for link in self.path(home).parent.glob(f"*.wants/{pattern}")}
        listed = self.systemctl("list-units", "--all", "--plain", "--no-legend", "--no-pager", pattern)
        found |= {line.split()[0] for line in listed.stdout.splitlines() if line.strip()}
        return sorted(unit for unit in found if unit.partition("@")[2].partition(".")[0].isdigit())

    def _property(self, unit: str, name: str) -> str:
        return self.systemctl("show", "-p", name, "--value", unit).stdout.strip()

    def _argv(self, *words: str) -> list[str]:
        return ["systemctl", *([] if self.system else ["--user"]), *words]

    def systemctl(self, *words: str, change: bool = False, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        return _run([*self._sudo(change), *self._argv(*words)], timeout)

    def _sudo(self, change: bool = True) -> list[str]:
        return ["sudo", "-n"] if self.system and change and own_user().pw_uid != 0 else []

    def change(self, program: str, *words: str, stdin: str = "", timeout: float = 30) -> None:
        """Do it; Refused with what there is to type when it may not be done."""
        argv = self._argv(*words) if program == "systemctl" else [program, *words]
        ran = _run([*self._sudo(), *argv], timeout, stdin)
        if ran.returncode == 0:
            return
        raise _needs_password(ran) or Refused(
            f"{shlex.join(argv)} failed: {(ran.stderr or ran.stdout).strip() or ran.returncode}",
            hint=_hint(ran.stderr, argv),
            details={"log": ran.stderr.splitlines()[-10:]},
        )


USER, SYSTEM = Systemd(system=False), Systemd(system=True)


def own_user() -> pwd.struct_passwd:
    return pwd.getpwuid(os.getuid())


def _hint(said: str, argv: Sequence[str]) -> str:
    if "Failed to connect to bus" in said or "No medium found" in said:
        return 'this user has no systemd of its own; set service = "systemd-system" or "none" in hosts.toml'
    return f"type it there and look: {shlex.join(argv)}"


def _needs_password(ran: subprocess.CompletedProcess[str]) -> Refused | None:
    argv = list(ran.args)
    if argv[0] != "sudo" or not re.search(r"^sudo: ", ran.stderr, re.M):
        return None
    typed = shlex.join(["sudo", *argv[2:]])
    return Refused(
        f"{getpass.getuser()} may not do this without a password: {typed}",
        hint='type it there yourself, allow it in sudoers (NOPASSWD), or set service = "systemd"',
        details={"log": ran.stderr.splitlines()[-10:]},
    )


def linger() -> list[str]:
    """Have the user's manager run from boot on, and now; what was changed."""
    name, changed = own_user().pw_name, []
    if not (LINGER / name).exists():
        tries = [["loginctl", "enable-linger"], ["sudo", "-n", "loginctl", "enable-linger", name]]
        if not any(_run(argv, 30).returncode == 0 and (LINGER / name).exists() for argv in tries):
            raise Refused(
                f"units of {name} would end with its last login, and {name} may not change that",
                hint=f'type there: sudo loginctl enable-linger {name}; or set service = "none"',
            )
        changed = ["linger"]
    end = time.monotonic() + MANAGER_TIMEOUT
    while (ran := _run(["systemctl", "--user", "is-system-running"], 30)).stdout.strip() in ("", "offline", "unknown"):
        if time.monotonic() > end:
            raise Refused(
                f"the systemd of {name} does not answer: {ran.stderr.strip()}", hint=_hint(ran.stderr, ran.args)
            )
        time.sleep(0.1)
    return changed


def _run(argv: Sequence[str], timeout: float, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program; one that is missing or does not end reads as one that failed."""
    environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
    environment.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    try:
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, env=environment)
    except OSError as error:
        return subprocess.CompletedProcess(argv, 127, "", f"{argv[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 124, "", f"{shlex.join(argv)} did not end within {timeout:.0f} s")
