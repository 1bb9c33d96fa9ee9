"""What a native build depends on: this CPU, and the programs that build."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
DESCRIBING = ("model name", "flags", "features", "cpu implementer", "cpu part")


@dataclass(frozen=True)
class Compiler:
    """A C and a C++ compiler by path, and how they call themselves."""

    c: str
    cpp: str
    version: str


def cpu() -> str:
    """What kind of CPU this is: the same word, the same instructions."""
    try:
        text = CPUINFO.read_text()
    except OSError:
        text = platform.processor()
    return kind(text, platform.machine())


def kind(cpuinfo: str, machine: str) -> str:
    """The word for the first processor of /proc/cpuinfo: its architecture, and a hash of its name and flags."""
    first = cpuinfo.strip().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    told = sorted((key.strip().lower(), " ".join(sorted(value.split()))) for key, _, value in pairs)
    told = [pair for pair in told if pair[0] in DESCRIBING]
    return f"{machine}-{hashlib.sha256(repr(told).encode()).hexdigest()[:12]}"


def compiler() -> Compiler | None:
    """The system's compilers, where there are both."""
    for c, cpp in (("cc", "c++"), ("gcc", "g++"), ("clang", "clang++")):
        found = shutil.which(c), shutil.which(cpp)
        if found[0] and found[1] and (version := said(found[1], "--version")):
            return Compiler(found[0], found[1], version)
    return None


def tool(name: str) -> str | None:
    """The path of a program that starts; None where there is none."""
    path = shutil.which(name)
    return path if path and said(path, "--version") else None


def said(program: str, argument: str) -> str:
    """The first line that a program says; nothing when it does not start."""
    try:
        done = subprocess.run([program, argument], capture_output=True, text=True, timeout=20, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return ""
    return re.sub(r"\s+", " ", done.stdout.partition("\n")[0]).strip() if done.returncode == 0 else ""
