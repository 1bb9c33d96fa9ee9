"""What is installed against the lock that llmctl ships; pure."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==(\S+)(?: ; ([^\\\n]*))?", re.MULTILINE)
_PYTHON = re.compile(r"python_full_version (<|>=) '3\.(\d+)'")


def missing(lock: str, here: Mapping[str, str], minor: int = sys.version_info[1]) -> dict[str, str]:
    """Name → pin of what this Python should have and has not. What a marker makes depend on more than on Python is
    never missed."""
    return {name: pin for name, pin, marker in _pins(lock, minor) if name not in here and not marker}


def others(lock: str, here: Mapping[str, str], minor: int = sys.version_info[1]) -> dict[str, str]:
    """Name → pin of what is installed in another version; a local part (+cpu) does not count."""
    return {name: pin for name, pin, _ in _pins(lock, minor) if name in here and here[name].split("+")[0] != pin}


def _pins(lock: str, minor: int) -> list[tuple[str, str, str]]:
    """(name, version, the rest of its marker) of the lines that are for Python 3.`minor`."""
    found = []
    for name, version, marker in _PIN.findall(lock):
        told = _PYTHON.fullmatch(marker.strip())
        if told and (minor < int(told[2])) != (told[1] == "<"):
            continue
        found.append((name, version, "" if told else marker.strip()))
    return found
