"""A command of llmctl run again and again: by a systemd timer, of the user's manager or the system's, or by launchd."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llmctl.errors import Refused
from llmctl.files import write_text
from llmctl.units.launchd import AGENTS
from llmctl.units.systemd import SYSTEM, USER, Systemd, linger, own_user
from llmctl.units.timer_text import Periodic, plist, service, timer


@dataclass(frozen=True)
class SystemdTimer:
    """A timer and its service, called like the slots' units with -health in place of the port."""

    systemd: Systemd

    def names(self, home: Path) -> tuple[str, str]:
        """The service and the timer."""
        base = f"{self.systemd.name(home).rstrip('@')}-health"
        return f"{base}.service", f"{base}.timer"

    def texts(self, home: Path, what: Periodic) -> dict[Path, str]:
        """Both files as they should be."""
        folder, (starts, ticks) = self.systemd.path(home).parent, self.names(home)
        user = own_user().pw_name if self.systemd.system else None
        return {folder / starts: service(what, user), folder / ticks: timer(what)}

    def install(self, home: Path, what: Periodic) -> bool:
        """Have it run from now on and after each boot; whether anything was changed."""
        changed = [] if self.systemd.system else linger()
        for path, text in self.texts(home, what).items():
            if _text(path) != text:
                if self.systemd.system:
                    self.systemd.change("install", "-m", "644", "/dev/stdin", str(path), stdin=text)
                else:
                    write_text(path, text)
                changed.append(path.name)
        ticks = self.names(home)[1]
        if changed:
            self.systemd.change("systemctl", "daemon-reload")
        if changed or not self.active(home):
            self.systemd.change("systemctl", "enable", "--quiet", ticks)
            self.systemd.change("systemctl", "restart", ticks)
            changed.append(ticks)
        return bool(changed)

    def uninstall(self, home: Path) -> bool:
        """Take it away; what runs at this moment runs to its end. Whether there was any."""
        files = [path for path in self.files(home) if path.exists()]
        if not files:
            return False
        self.systemd.change("systemctl", "disable", "--quiet", "--now", self.names(home)[1])
        for path in files:
            if self.systemd.system:
                self.systemd.change("rm", "-f", str(path))
            else:
                path.unlink(missing_ok=True)
        self.systemd.change("systemctl", "daemon-reload")
        return True

    def files(self, home: Path) -> list[Path]:
        return [self.systemd.path(home).parent / name for name in self.names(home)]

    def active(self, home: Path) -> bool:
        """The timer ticks."""
        return self.systemd.systemctl("is-active", "--quiet", self.names(home)[1]).returncode == 0


@dataclass(frozen=True)
class LaunchdTimer:
    """An agent of launchd. Never run on a Mac by this project's tests."""

    def files(self, home: Path) -> list[Path]:
        return [AGENTS.folder() / f"{AGENTS.prefix(home)}.health.plist"]

    def install(self, home: Path, what: Periodic) -> bool:
        (path,) = self.files(home)
        wanted = plist(replace(what, label=path.stem), home / "health" / "launchd.log")
        if path.is_file() and path.read_bytes() == wanted and self.active(home):
            return False
        (home / "health").mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wanted)
        AGENTS.ran(["launchctl", "bootout", f"{AGENTS.domain()}/{path.stem}"])
        AGENTS.change(["launchctl", "bootstrap", AGENTS.domain(), str(path)])
        return True

    def uninstall(self, home: Path) -> bool:
        (path,) = self.files(home)
        if not path.exists():
            return False
        AGENTS.ran(["launchctl", "bootout", f"{AGENTS.domain()}/{path.stem}"])
        path.unlink(missing_ok=True)
        return True

    def active(self, home: Path) -> bool:
        (path,) = self.files(home)
        return AGENTS.ran(["launchctl", "print", f"{AGENTS.domain()}/{path.stem}"]).returncode == 0


TIMERS: dict[str, SystemdTimer | LaunchdTimer] = {
    "systemd": SystemdTimer(USER),
    "systemd-system": SystemdTimer(SYSTEM),
    "launchd": LaunchdTimer(),
}


def get(service: str) -> SystemdTimer | LaunchdTimer:
    """The timers of a service manager; Refused for one that has none."""
    if service not in TIMERS:
        raise Refused(f"{service} has no timers", hint=f"one of {', '.join(TIMERS)}, or cron")
    return TIMERS[service]


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
