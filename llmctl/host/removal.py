"""llmctl leaves a host, or what it no longer needs does; models, keys and what happened stay."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llmctl import units
from llmctl.environments.build import sweep
from llmctl.health import schedule
from llmctl.host import activation, releases, slots

GOES = (
    "current", "bin", "releases", "envs", "wheelhouse", "incoming", "tools", "config", "service",
    "deploy-undo.json", "deploy-undo.bak",
)  # fmt: skip
STAYS = ("models", "keys.json", "hf_token", "history.db", "audit.log", "events.jsonl", "slots", "jobs")


WAITING = 3600.0
LITTER = (
    ".deploy*.tmp", ".service.*.tmp", ".current.tmp", "bin/.*.tmp", "config/**/.*.tmp", "releases/.*.tmp",
    "releases/*/.*.tmp", "releases/*/bin/.*.tmp", "releases/*/config/**/.*.tmp",
)  # fmt: skip


def prune(home: Path) -> dict[str, Any]:
    """Remove releases beyond the five last, and environments that none of the others needs."""
    used = {slot.code for slot in slots.seen(home)}
    running = {Path(code).parent.name for code in used if code and Path(code).parent.parent == home / "releases"}
    gone = releases.prune(home, running)
    kept = {Path(python).parents[1].name for python in _pythons(home)}
    return {"releases": gone, "environments": sweep(home / "envs", kept)}


def clean(home: Path) -> int:
    """Remove the wheels that environments were made of, and half-sent files; the bytes that they took."""
    folders = (home / "wheelhouse", home / "incoming")
    before = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(home / "wheelhouse", ignore_errors=True)
    sweep_incoming(home)
    left = (home / "incoming").glob("*")
    return before - sum(path.stat().st_size for path in left)


def sweep_litter(home: Path) -> None:
    """Remove what a deploy that was killed while it wrote left half written; nobody else has the lease."""
    for pattern in LITTER:
        for path in home.glob(pattern):
            path.unlink(missing_ok=True)
    for path in (home / "releases").glob(f"{releases.STAGING}*"):
        shutil.rmtree(path, ignore_errors=True)


def sweep_incoming(home: Path) -> None:
    """Remove what was sent and is not needed: all but the young wheels of llmctl, out of which another deploy may run
    that waits for its turn."""
    young = time.time() - WAITING
    for path in sorted((home / "incoming").glob("*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.stem == releases.current(home) or path.stat().st_mtime < young:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (home / "incoming").rmdir()


def remove(home: Path, service: str) -> dict[str, Any]:
    """Stop and remove the units and everything of llmctl itself; what went and what stays."""
    service = activation.service(home) or service
    gone = [f"health's own run ({timer})" for timer in schedule.uninstall_deployed(home)]
    ended = slots.end_all(home)
    units.get(service).remove(home)
    for name in GOES:
        path = home / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            continue
        gone.append(name)
    return {"slots": ended, "removed": gone, "kept": [name for name in STAYS if (home / name).exists()]}


def accept(home: Path, token: str, wanted: Collection[str]) -> None:
    """Move what a deploy has sent into the wheelhouse; what a dead one had sent whole counts too."""
    wheelhouse = home / "wheelhouse"
    wheelhouse.mkdir(parents=True, exist_ok=True)
    for path in sorted((home / "incoming").glob("*/*")):
        if path.name in wanted and (path.parent.name == token or not (wheelhouse / path.name).exists()):
            path.replace(wheelhouse / path.name)
    for path in sorted((home / "incoming").glob("*")):
        if path.is_dir() and path.name != token:
            shutil.rmtree(path, ignore_errors=True)


def _pythons(home: Path) -> list[str]:
    """The Pythons of all releases that are there, and of the engines that run."""
    found: list[str] = [slot.engine_python for slot in slots.seen(home) if slot.engine_python]
    for release in releases.listed(home):
        try:
            text = (releases.folder(home, release.id) / "environments.json").read_text(encoding="utf-8")
            found += json.loads(text).values()
        except (OSError, ValueError):
            continue
    return [python for python in found if Path(python).is_relative_to(home / "envs")]
