"""What this machine has left, and whether its llmctl is the one that was deployed to it."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import Any

from llmctl import backends
from llmctl.errors import LlmctlError
from llmctl.files import standing
from llmctl.processes import boot_id


def machine(home: Path, backend: str, models: Path | None = None) -> dict[str, Any]:
    """The fields of HostSeen on the machine itself; `models` is where its models lie, in the state folder if not said.

    Of the two disks the one with less room counts; memory is the machine's own, whatever its backend. What cannot be
    measured is 0.
    """
    name = backends.detect() if backend == "auto" else backend
    disk = min(map(_disk, {home, models or home / "models"}), key=lambda found: found[0])
    try:
        memory = backends.get("cpu").memory()  # a GPU is meant to be full; a full machine ends processes
    except LlmctlError:
        memory = backends.Memory(0, 0)
    return {
        "disk_free": disk[0],
        "disk_total": disk[1],
        "memory_free": memory.free,
        "memory_total": memory.total,
        "backend": name,
        "manifest": manifest(home),
        "drift": tuple(drift(home)),
        "boot_id": boot_id(),
    }


def manifest(home: Path) -> float | None:
    """When this host was last brought to what it runs (epoch seconds): by a deploy or a rollback that went well."""
    from llmctl.host import audit, releases

    current = releases.current(home)
    if current is None:
        return None
    for entry in reversed(audit.read(home, 200)):
        if entry.get("what") in ("deploy", "rollback") and entry.get("outcome") == "ok":
            try:
                return datetime.datetime.fromisoformat(str(entry.get("at"))).timestamp()
            except ValueError:
                continue
    release = releases.read(home, current)
    return release.made if release else None


def drift(home: Path) -> list[str]:
    """What is not as the release in use had it: files of its code, its configuration, its environments; a deploy that
    never ended. Hashes llmctl's own code (2 MB) and looks at everything else; empty where nothing was deployed."""
    from llmctl.environments.build import is_complete
    from llmctl.host import activation, releases

    current = releases.current(home)
    if current is None:
        return []
    unfinished = ["an unfinished deploy"] if activation.unfinished(home) else []
    if damage := releases.damage(home, current):
        return [*unfinished, *(f"{current}/{name}" for name in damage)]
    try:
        wanted = activation.of_release(home, current)
        differing = activation.differing(home, wanted)
    except (LlmctlError, KeyError) as error:
        return [*unfinished, error.message if isinstance(error, LlmctlError) else "environments.json"]
    absent = [name for name, folder in wanted.environments.items() if not is_complete(home / "envs" / folder)]
    return [*unfinished, *differing, *(f"environment {name}" for name in absent)]


def _disk(folder: Path) -> tuple[int, int]:
    """Free and all bytes of the disk that a folder is on, or will be."""
    found = shutil.disk_usage(standing(folder))
    return found.free, found.total
