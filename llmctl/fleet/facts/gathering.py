"""Facts of a host in one round trip: a script goes out, what comes back is parsed (pure) and trusted in nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from importlib.resources import files
from typing import NamedTuple

from llmctl.errors import LlmctlError, Unsupported
from llmctl.fleet.facts import Facts, Python
from llmctl.fleet.facts.accelerators import accelerators
from llmctl.fleet.transport import Transport

TIMEOUT = 30.0
MOST, WIDEST = 2**18, 300
SYSTEMS = {"Linux": "linux", "Darwin": "darwin"}
ENVIRONMENT_TOOLS = ("uv", "mamba", "micromamba", "conda")

_LINE = re.compile(r"@([a-z-]+) ?(.*)")
_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?")
# What is no CPython of its series prints more, or something else: PyPy, an alpha, a shim without a version.
_PYTHON = re.compile(r"(/.*?) Python (\d{1,3})\.(\d{1,3})\.(\d{1,3})\+?( ::.*)?")

Said = Mapping[str, list[str]]


class Clock(NamedTuple):
    """The operator's time (epoch seconds) before a host was asked for its own, and after."""

    before: float
    after: float

    def skew(self, there: float) -> float:
        """How far `there` is ahead of any moment it can have been read at; it comes in whole seconds."""
        if there + 1 < self.before:
            return there + 1 - self.before
        return max(0.0, there - self.after)


def script() -> bytes:
    """What is sent to `sh -s`."""
    return files("llmctl.fleet.facts").joinpath("facts.sh").read_bytes()


def gather(transport: Transport) -> Facts:
    """The facts of a host, now. Unsupported when llmctl has nothing for such a system; Unreachable and its kinds."""
    before = time.time()
    ran = transport.run(["sh", "-s"], stdin=script(), timeout=TIMEOUT)
    try:
        return parse(ran.out, Clock(before, time.time()))
    except LlmctlError as error:
        name = transport.host.name
        error.host, error.message = name, f"{name}: {error.message}"
        error.details.setdefault("log", (ran.err or ran.out)[-MOST:].strip().splitlines()[-10:])
        raise


def parse(text: str, clock: Clock) -> Facts:
    """Facts from what the script printed; what else is in it (a banner, noise of a shell's profile) is passed over."""
    said: dict[str, list[str]] = {}
    for line in text[:MOST].splitlines():
        if found := _LINE.match(clean(line)):
            said.setdefault(found[1], []).append(found[2].strip())
    system, _, arch = first(said, "system").partition(" ")
    if system and system not in SYSTEMS:
        raise Unsupported(f"it runs {system}", hint="llmctl runs on Linux and on macOS")
    if "end" not in said or not arch or not first(said, "home").startswith("/"):
        raise LlmctlError("it did not tell its facts", hint="does `ssh HOST sh -c true` print nothing and end at once?")
    sysctl = {name: value for name, _, value in (line.partition(": ") for line in said.get("sysctl", ()))}
    os_release = {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in said.get("os", ()))}
    mac = system == "Darwin"
    if mac and sysctl.get("hw.optional.arm64") == "1":  # Rosetta says x86_64
        arch = "arm64"
    memory = number(sysctl.get("hw.memsize")) if mac else 1024 * number(_words(first(said, "memory"), 1))
    gpus, notes = accelerators(said, memory)
    return Facts(
        os=SYSTEMS[system],
        os_version=_mac_version(said) if mac else os_release.get("PRETTY_NAME", "Linux"),
        arch=arch,
        libc="" if mac else _libc(said.get("libc", [])),
        chip=sysctl.get("machdep.cpu.brand_string", arch) if mac else _chip(said, arch),
        cores=number(sysctl.get("hw.ncpu")) if mac else number(first(said, "cores")),
        memory=memory,
        disk_free=1024 * number(_words(said.get("disk", [""])[-1], 3)),
        user=first(said, "user"),
        uid=number(first(said, "uid"), -1),
        home=first(said, "home"),
        pythons=tuple(_pythons(said.get("python", []))),
        accelerators=gpus,
        services=_services(said),
        tools=_tools(said.get("tool", [])),
        sudo="sudo" in said,
        index="index" in said,
        clock=float(number(first(said, "clock"))),
        boot=sysctl.get("kern.boottime", "") if mac else first(said, "boot"),
        distro=tuple(f"{os_release.get('ID', '')} {os_release.get('ID_LIKE', '')}".split()),
        systemd=first(said, "systemd").removeprefix("Version="),
        linger="linger" in said,
        skew=clock.skew(number(first(said, "clock"))) if "clock" in said else 0.0,
        release=first(said, "release").rpartition("/")[2],
        notes=notes + _service_notes(said),
    )


def clean(line: str) -> str:
    """A line without terminal escapes and control characters, and not wider than a fact can be."""
    return "".join(c for c in _ESCAPE.sub("", line[: 4 * WIDEST]) if c.isprintable() or c == "\t")[:WIDEST]


def first(said: Said, name: str) -> str:
    """The first value of a fact, "" when it is missing."""
    return next(iter(said.get(name, ())), "")


def number(text: str | None, default: int = 0) -> int:
    """A whole number, `default` when it is none or absurdly long."""
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text) else default


def _words(line: str, at: int) -> str:
    return (line.split() + [""] * (at + 1))[at]


def _mac_version(said: Said) -> str:
    found = dict(re.split(r":\s*", line, maxsplit=1) for line in said.get("sw", ()) if ":" in line)
    return f"{found.get('ProductName', 'macOS')} {found.get('ProductVersion', '')}".strip()


def _libc(lines: list[str]) -> str:
    """From `getconf GNU_LIBC_VERSION`, or `ldd --version` where there is none."""
    text = " ".join(lines[:2])
    if "musl" in text:
        found = re.search(r"Version (\d+\.\d+)", text)
        return f"musl {found[1]}" if found else "musl"
    found = re.search(r"(\d+\.\d+)$", lines[0]) if lines else None
    return f"glibc {found[1]}" if found else ""


def _chip(said: Said, arch: str) -> str:
    name = first(said, "cpu").partition(":")[2].strip()
    return name if name not in ("", "-") else first(said, "board") or arch


def _pythons(lines: list[str]) -> list[Python]:
    found = [match for line in lines if (match := _PYTHON.fullmatch(line)) and "freethreaded" not in match[1]]
    return [Python(match[1], (int(match[2]), int(match[3]), int(match[4]))) for match in found]


def _tools(lines: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = (line.partition(" ") for line in lines)
    return tuple((name, path) for name, _, path in pairs if name in ENVIRONMENT_TOOLS and path.startswith("/"))


def _services(said: Said) -> tuple[str, ...]:
    """Those that answer, and that this user may use."""
    found = {
        "systemd": "systemd-user" in said,
        "systemd-system": "systemd" in said and "sudo" in said,
        "launchd": "launchd" in said,
        "launchd-system": "launchd" in said and "sudo" in said,
    }
    return (*(name for name, works in found.items() if works), "none")


def _service_notes(said: Said) -> tuple[str, ...]:
    if "systemd" in said and "systemd-user" not in said:
        return ("systemd runs, and has no manager for this user (systemctl --user does not answer)",)
    if "launchd" in said and "gui" not in said["launchd"]:
        return ("nobody is logged in at the Mac: a launchd agent starts at the next login",)
    return ()
