"""Has `llmctl health` run again and again on this machine: a crontab line, a systemd timer or a launchd job."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmctl import units
from llmctl.errors import Refused, UsageError
from llmctl.health import crontab
from llmctl.health.target import Target, host_of
from llmctl.processes import code
from llmctl.units import timer
from llmctl.units.timer_text import Periodic

CRON = "cron"
SERVICES = (CRON, *timer.TIMERS)
EVERY = 300.0
LEAST = 30.0


@dataclass(frozen=True)
class Scheduled:
    """What has health run: by which service, in which files, with which text; `notes` are what to know of it."""

    service: str
    where: tuple[str, ...]
    text: str
    active: bool
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def periodic(words: Sequence[str], every: float, home: Path, config: Path | None) -> Periodic:
    """`llmctl WORDS` each `every` seconds, for the state folder and the configuration of who types it."""
    if every < LEAST:
        raise UsageError(f"every {every:g} s is too often: a run asks every slot for an answer", hint="--every 5m")
    if bare := [text for text in words if "://" in text]:
        raise Refused(
            f"an address would stand where others can read it ({host_of(bare[0])}/…)",
            hint='write it into a file of mode 600 that health.toml names (webhook_file = "…"), and --notify all',
        )
    environment = {"LLMCTL_HOME": str(home), **({"LLMCTL_CONFIG": str(config.absolute())} if config else {})}
    return Periodic(f"{_label(home)}-health", (*program(home), *words), environment, every)


def program(home: Path) -> tuple[str, ...]:
    """How this llmctl is started from anywhere: by the script of a deploy, its own, or as a module of this Python."""
    if Path(code()).resolve().is_relative_to(home.resolve()) and _runs(home / "bin" / "llmctl"):
        return (str(home / "bin" / "llmctl"),)
    typed = Path(shutil.which(sys.argv[0]) or sys.argv[0]).absolute()
    for script in (typed, Path(sys.executable).parent / "llmctl"):
        if script.name == "llmctl" and _runs(script):
            return (str(script),)
    return ("/usr/bin/env", f"PYTHONPATH={code()}", sys.executable, "-m", "llmctl")


def _runs(script: Path) -> bool:
    return script.is_file() and os.access(script, os.X_OK)


def install(
    service: str, home: Path, what: Periodic, targets: Sequence[Target] = ()
) -> tuple[Scheduled, bool]:  # fmt: skip
    """Have `service` run it, and no other; what is there now, and whether that is new. `targets` are who is told."""
    if service not in SERVICES:
        raise UsageError(f"{service[:140]!r} runs nothing again and again", hint=f"one of {', '.join(SERVICES)}")
    if service == CRON:
        text = crontab.read()
        wanted = crontab.replaced(text, what.label, crontab.line(what))
        changed = wanted != text
        if changed:
            crontab.write(wanted)
    else:
        changed = timer.get(service).install(home, what)
    removed = _uninstall(home, [other for other in SERVICES if other != service])
    (now,) = _shown(home, [service])
    notes = (*now.notes, *(f"{other} ran it before, and does not any more" for other in removed), *_unset(targets))
    return Scheduled(now.service, now.where, now.text, now.active, notes), changed


def uninstall(home: Path) -> list[str]:
    """Have nothing run it any more; the services that did."""
    return _uninstall(home, SERVICES)


def uninstall_deployed(home: Path) -> list[str]:
    """The same for a deploy's own llmctl, which is about to go; one that another llmctl installed stays."""
    script = str(home / "bin" / "llmctl")
    return uninstall(home) if any(script in one.text for one in show(home)) else []


def show(home: Path) -> list[Scheduled]:
    """What runs it now."""
    return _shown(home, SERVICES)


def _unset(targets: Sequence[Target]) -> list[str]:
    """What a job that starts without a shell does not know."""
    secrets = [secret for target in targets for secret in (target.url, target.token) if secret and secret.env]
    names = ", ".join(dict.fromkeys(secret.env for secret in secrets))
    return [f"it knows no variables of your shell ({names}): name files in health.toml (…_file)"] if names else []


def _label(home: Path) -> str:
    return units.label(home, Path("~/.llmctl").expanduser())


def _uninstall(home: Path, services: Sequence[str]) -> list[str]:
    done = []
    for service in services:
        if service != CRON:
            if timer.get(service).uninstall(home):
                done.append(service)
        elif text := _crontab():
            rest = crontab.replaced(text, f"{_label(home)}-health", None)
            if rest != text:
                crontab.write(rest)
                done.append(service)
    return done


def _shown(home: Path, services: Sequence[str]) -> list[Scheduled]:
    found = []
    for service in services:
        if service == CRON:
            rows = crontab.found(_crontab(), f"{_label(home)}-health")
            if rows:
                runs = crontab.daemon_runs()
                notes = () if runs else ("no cron daemon runs here: sudo systemctl enable --now cron",)
                found.append(Scheduled(service, ("crontab -l",), "".join(f"{row}\n" for row in rows), runs, notes))
            continue
        one = timer.get(service)
        files = [path for path in one.files(home) if path.is_file()]
        if files:
            active = one.active(home)
            notes = () if active else (f"its timer does not tick: llmctl health install --service {service}",)
            text = "\n".join(path.read_text(encoding="utf-8") for path in files)
            found.append(Scheduled(service, tuple(map(str, files)), text, active, notes))
    return found


def _crontab() -> str:
    """The crontab, where there may be one."""
    try:
        return crontab.read()
    except Refused:
        return ""
