"""Whether a clock can be right, and is kept right."""

from __future__ import annotations

import time
from pathlib import Path

import llmctl
from llmctl.doctor.rows import Row, fail, good, warn
from llmctl.processes import asked
from llmctl.render.text import duration

FIX = "sudo timedatectl set-ntp true (macOS: sudo sntp -sS time.apple.com)"


def clock(now: float, code: Path = Path(llmctl.__file__)) -> Row:
    """Whether the clock can be right, and is kept right."""
    made = code.stat().st_mtime
    if now < made - 86400:
        why = f"it is {duration(made - now)} before this llmctl was installed"
        return fail("clock", why, FIX)
    if synchronized() is False:
        return warn("clock", "nothing keeps it right (NTP is not synchronized)", FIX)
    return good("clock", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)))


def synchronized() -> bool | None:
    """What systemd says of NTP; None where it does not say, as in a container, whose clock is its host's."""
    done = asked(["timedatectl", "show", "-p", "NTPSynchronized", "-p", "CanNTP"], 5.0)
    said = dict(line.partition("=")[::2] for line in done.stdout.splitlines()) if done and not done.returncode else {}
    if said.get("CanNTP") != "yes":
        return None
    return {"yes": True, "no": False}.get(said.get("NTPSynchronized", ""))
