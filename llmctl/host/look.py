"""What there is on a host, all that a deploy decides by, in one answer; reads only."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmctl.environments.build import is_complete
from llmctl.files import standing
from llmctl.host import activation, audit, lease, releases, slots
from llmctl.host.activation import Wanted
from llmctl.native import builds, machine, source


def look(home: Path, wanted: Wanted) -> dict[str, Any]:
    """Which of what is wanted is missing, and what is there besides."""
    pythons = activation.pythons(home, wanted).values()
    whole = not releases.damage(home, wanted.release)
    found = slots.seen(home)
    return {
        "home": str(home),
        "free": free(home),
        "python": list(sys.version_info[:3]),
        "current": releases.current(home),
        "whole": whole,
        "missing": [name for name, folder in wanted.environments.items() if not is_complete(home / "envs" / folder)],
        "differing": activation.differing(home, wanted),
        "unfinished": activation.unfinished(home),
        "slots": [
            {**asdict(slot), "due": slots.due(home, slot, wanted.release, pythons, wanted.service)} for slot in found
        ],
        "lease": holder(home),
        "native": native(home),
    }


def native(home: Path) -> dict[str, Any]:
    """Whether llama.cpp is to be built for this CPU (`native.builds`), and what of it is here already."""
    return {
        "due": builds.due(home),
        "programs": [name for name in ("cmake", "ninja") if machine.tool(name) is None],
        "archive": any(path.is_file() for path in source.places(home)),
    }


def overview(home: Path) -> dict[str, Any]:
    """The releases of a host, the current one, who deploys to it now, and the last lines of its audit log."""
    return {
        "current": releases.current(home),
        "releases": [asdict(release) for release in releases.listed(home)],
        "previous": releases.previous(home),
        "unfinished": activation.unfinished(home),
        "lease": holder(home),
        "audit": audit.read(home, 20),
    }


def holder(home: Path) -> dict[str, Any] | None:
    """Who deploys to this host now; None when nobody does."""
    now = lease.read(home)
    return now.shown() if now.left() else None


def free(home: Path) -> int:
    """Free bytes of the disk that the state folder is on, or will be."""
    return shutil.disk_usage(standing(home)).free
