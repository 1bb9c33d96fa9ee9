"""The property list of a slot's launchd job. Checked in shape only: never run on a Mac by this project's tests."""

from __future__ import annotations

import plistlib
from pathlib import Path

from llmctl.units import program
from llmctl.units.systemd_text import STOP_TIMEOUT


def plist(home: Path, port: int, label: str, *, user: str | None = None, at_boot: bool = True) -> bytes:
    """The job of one slot; with `user` it is a daemon that runs as that user, else an agent of who logs in."""
    errors = str(home / "slots" / str(port) / "server.err")
    job = {
        "Label": label,
        "ProgramArguments": [str(program(home)), str(port), "--home", str(home)],
        "WorkingDirectory": str(home),
        "EnvironmentVariables": {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        "StandardOutPath": errors,
        "StandardErrorPath": errors,
        "RunAtLoad": at_boot,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": int(STOP_TIMEOUT),
        "ProcessType": "Interactive",  # else macOS may slow it down as background work
        "AbandonProcessGroup": False,
        "SoftResourceLimits": {"NumberOfFiles": 8192},
        "Umask": 0o077,
    }
    return plistlib.dumps({**job, "UserName": user} if user else job, sort_keys=False)
