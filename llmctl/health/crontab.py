"""One line of a crontab that is llmctl's, among lines that are not: texts, and how they are read and written."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from llmctl.errors import Refused, UsageError
from llmctl.units.timer_text import Periodic

LONGEST = 990
"""Characters of a command that cron takes; Debian's cuts at 1,000."""
PATIENCE = 30.0
_FITTING = [*(m * 60 for m in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)), *(h * 3600 for h in (1, 2, 3, 4, 6, 8, 12, 24))]


def marker(label: str) -> str:
    """What a line ends with that is ours to change."""
    return f"# {label}: made by llmctl health install"


def line(what: Periodic) -> str:
    """The line of a crontab; UsageError for a time that cron cannot say, Refused for what it cannot hold."""
    variables = [f"{key}={shlex.quote(value)}" for key, value in what.environment.items()]
    command = " ".join([*variables, shlex.join(what.argv)])
    if bad := next((c for c in command if ord(c) < 32 or c == "\\"), None):
        raise Refused(f"a crontab cannot hold {bad!r}, and the command has it: {command!r}", hint="--service systemd")
    command = f"{command.replace('%', chr(92) + '%')} {marker(what.label)}"
    if len(command) > LONGEST:
        raise Refused(
            f"the command is longer than cron takes ({len(command)} of {LONGEST} characters)",
            hint="name whom to tell in health.toml, and type --notify all",
        )
    return f"{_times(what.every)} {command}"


def _times(every: float) -> str:
    """The five fields."""
    if every not in _FITTING:
        near = min(_FITTING, key=lambda fitting: abs(fitting - every))
        raise UsageError(
            f"cron cannot run something each {every:g} s: it knows minutes that divide an hour, and hours that divide "
            "a day",
            hint=f"--every {_said(near)}, or --service systemd",
        )
    minutes, hours = int(every // 60), int(every // 3600)
    if hours >= 24:
        return "0 0 * * *"
    if hours:
        return f"0 {'*' if hours == 1 else f'*/{hours}'} * * *"
    return f"{'*' if minutes == 1 else f'*/{minutes}'} * * * *"


def _said(seconds: int) -> str:
    return f"{seconds // 3600}h" if seconds >= 3600 else f"{seconds // 60}m"


def found(text: str, label: str) -> list[str]:
    """Our lines in a crontab."""
    return [row for row in text.splitlines() if row.rstrip().endswith(marker(label))]


def replaced(text: str, label: str, row: str | None) -> str:
    """The crontab with our line as `row` (None: without one) and all others as they were."""
    rest, ours = [], False
    for old in text.splitlines():
        if not old.rstrip().endswith(marker(label)):
            rest.append(old)
        elif row is not None and not ours:
            rest.append(row)
            ours = True
    if row is not None and not ours:
        rest.append(row)
    return "".join(f"{one}\n" for one in rest)


def read() -> str:
    """The crontab of who asks, empty without one; Refused where there is no cron or it may not be used."""
    ran = _crontab("-l")
    if ran.returncode and "no crontab for" not in ran.stderr:
        raise Refused(f"crontab -l failed: {ran.stderr.strip() or ran.returncode}", hint="--service systemd")
    return ran.stdout if ran.returncode == 0 else ""


def write(text: str) -> None:
    """Have it; without any line the crontab is removed. Refused with cron's own words when it did not take it."""
    ran = _crontab("-", text) if text.strip() else _crontab("-r")
    if ran.returncode and not (not text.strip() and "no crontab for" in ran.stderr):
        raise Refused(f"crontab did not take it: {ran.stderr.strip() or ran.returncode}", hint="crontab -e")
    if read() != text and text.strip():
        raise Refused("the crontab is not what was written: somebody else changed it", hint="type it again")


def daemon_runs() -> bool:
    """A cron daemon is among the processes; True where that cannot be seen."""
    names = list(_process_names())
    return not names or any(name in ("cron", "crond", "fcron", "bcron-sched") for name in names)


def _process_names() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            yield path.read_text().strip()
        except OSError:
            continue


def _crontab(word: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["crontab", word], input=stdin if stdin is not None else "", capture_output=True, text=True,
            timeout=PATIENCE, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except FileNotFoundError:
        raise Refused(
            "there is no crontab command here", hint="sudo apt-get install cron, or --service systemd"
        ) from None
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        raise Refused(f"crontab cannot be used: {error}", hint="--service systemd") from None
