"""What a host's Python takes, as told by its facts: the tags of its wheels, and the values of requirements' markers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from llmctl.errors import Unsupported, UsageError
from llmctl.fleet.facts import Accelerator, Facts

Python = tuple[int, ...]
OLDEST, NEWEST = (3, 10), (3, 14)
LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # names of glibc 2.17, 2.12 and 2.5
LOWEST_GLIBC = {"x86_64": 5, "aarch64": 17}
CARRIED = {
    "linux-x86_64": ("linux", "", "x86_64", "glibc 2.28"),
    "linux-aarch64": ("linux", "", "aarch64", "glibc 2.28"),
    "linux-x86_64-musl": ("linux", "", "x86_64", "musl 1.2"),
    "linux-aarch64-musl": ("linux", "", "aarch64", "musl 1.2"),
    "macos-arm64": ("darwin", "14.0", "arm64", ""),
}
"""Platforms by name, for hosts that cannot be asked: the oldest systems of each that wheels are commonly made for."""


def described(facts: Facts, python: Python) -> str:
    """In words: Python 3.11 on linux x86_64 (glibc 2.36)."""
    system = facts.libc or (f"macOS {facts.os_version}" if facts.os == "darwin" else "unknown libc")
    return f"Python {'.'.join(map(str, python[:2]))} on {facts.os} {facts.arch} ({system})"


def named(platform: str, cuda: str | None = None) -> Facts:
    """The facts of a platform of CARRIED, with a driver for `cuda` ("13.0") or without one."""
    os, version, arch, libc = CARRIED[platform]
    accelerators = (Accelerator("", 0, None, cuda),) if cuda else ()
    return Facts(os, version, arch, libc, "", 0, 0, 0, "", 0, "", accelerators=accelerators)


def version_of(text: str) -> Python:
    """A Python version as it is typed: "3.11", "3.11.2"."""
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", text):
        raise UsageError(f"{text[:40]!r} is not a version of Python", hint="--python 3.11")
    version = tuple(map(int, text.split(".")))
    check_python(version)
    return version


def check_python(python: Python) -> str:
    """ "3.11"; Unsupported for a Python that llmctl does not run on, or that packages are not made for yet."""
    version = ".".join(map(str, python[:2]))
    if not OLDEST <= python[:2] <= NEWEST:
        raise Unsupported(
            f"Python {version} is not one that llmctl runs on",
            hint=f"from {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}: install one of these on the host",
        )
    return version


def platforms(facts: Facts) -> list[str]:
    """The platform tags that the host takes, the best first; Unsupported when its C library is not known."""
    from packaging import tags

    if facts.os == "darwin":
        version = (*map(int, re.findall(r"\d+", facts.os_version)[:2]), 0)[:2]
        return list(tags.mac_platforms((version[0], version[1]), facts.arch))
    kind, _, version_text = facts.libc.partition(" ")
    numbers = [int(n) for n in re.findall(r"\d+", version_text)[:2]]
    if kind == "glibc" and len(numbers) == 2 and numbers[0] == 2:
        return list(_manylinux(numbers[1], facts.arch))
    if kind == "musl" and len(numbers) == 2 and numbers[0] == 1:
        return [f"musllinux_1_{minor}_{facts.arch}" for minor in range(numbers[1], -1, -1)]
    raise Unsupported(
        f"there are no packages for a Linux with {facts.libc or 'an unknown C library'}",
        hint="llmctl needs glibc 2.17 or newer, or musl 1.1 or newer",
    )


def _manylinux(newest: int, arch: str) -> Iterable[str]:
    yield f"linux_{arch}"
    for minor in range(newest, LOWEST_GLIBC.get(arch, 17) - 1, -1):
        yield f"manylinux_2_{minor}_{arch}"
        if minor in LEGACY:
            yield f"{LEGACY[minor]}_{arch}"


@lru_cache(8)
def ranks(facts: Facts, python: Python) -> dict[str, int]:
    """Every tag of a wheel that fits, with its rank: 0 is the best."""
    from packaging import tags

    version = check_python(python)
    code, known = f"cp{version.replace('.', '')}", platforms(facts)
    fitting = [
        *tags.cpython_tags(python[:2], abis=[code], platforms=known),
        *tags.compatible_tags(python[:2], interpreter=code, platforms=known),
    ]
    return {str(tag): rank for rank, tag in reversed(list(enumerate(fitting)))}


def markers(facts: Facts, python: Python) -> dict[str, str]:
    """What the markers of requirements are asked about."""
    linux = facts.os == "linux"
    return {
        "python_version": check_python(python),
        "python_full_version": ".".join(map(str, (*python, 0)[:3])),
        "os_name": "posix",
        "sys_platform": "linux" if linux else "darwin",
        "platform_system": "Linux" if linux else "Darwin",
        "platform_machine": facts.arch,
        "platform_release": "",
        "platform_version": "",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "implementation_version": ".".join(map(str, (*python, 0)[:3])),
    }
