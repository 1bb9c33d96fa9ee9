"""The texts of what runs a command of llmctl again and again: a systemd timer with its service, or a launchd job.

The launchd job is checked in shape only: never run on a Mac by this project's tests.
"""

from __future__ import annotations

import plistlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmctl.units.systemd_text import quoted, word


@dataclass(frozen=True)
class Periodic:
    """A command line, run each `every` seconds with `environment` added; `label` names what belongs to this home."""

    label: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    every: float


# What it starts (a slot server on a host without units) outlives it: KillMode=process. A finding is no failure of the
# unit: its exit codes are those of a command that worked. Nothing is hardened, since it may have to use sudo and ssh.
_SERVICE = """\
# Made by llmctl health install, which overwrites it.
[Unit]
Description=llmctl: the health of the fleet

[Service]
Type=oneshot
ExecStart={command}
{environment}{user}SuccessExitStatus=1 3 5
KillMode=process
TimeoutStartSec=1h
Nice=5
"""
_TIMER = """\
# Made by llmctl health install, which overwrites it.
[Unit]
Description=llmctl: the health of the fleet, every {every:g} s

[Timer]
OnActiveSec={first:g}
OnUnitActiveSec={every:g}
AccuracySec=1

[Install]
WantedBy=timers.target
"""
FIRST = 30.0
ANY_NAME = 'exec "$0" "$@"'  # systemd itself starts no program with a quote in its path


def service(what: Periodic, user: str | None = None) -> str:
    """The service that the timer starts; for the system's manager with the user it runs as."""
    environment = "".join(f"Environment={quoted(f'{key}={value}')}\n" for key, value in what.environment.items())
    command = " ".join(map(word, ("/bin/sh", "-c", ANY_NAME, *what.argv)))
    return _SERVICE.format(command=command, environment=environment, user=f"User={user}\n" if user else "")


def timer(what: Periodic) -> str:
    return _TIMER.format(every=what.every, first=min(FIRST, what.every))


def plist(what: Periodic, errors: Path) -> bytes:
    """The launchd job, whose output goes to the file `errors`."""
    job = {
        "Label": what.label,
        "ProgramArguments": list(what.argv),
        "EnvironmentVariables": {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **what.environment},
        "StandardOutPath": str(errors),
        "StandardErrorPath": str(errors),
        "StartInterval": int(what.every),
        "RunAtLoad": False,
        "ProcessType": "Background",
        "AbandonProcessGroup": True,  # as KillMode=process
        "Umask": 0o077,
    }
    return plistlib.dumps(job, sort_keys=False)
