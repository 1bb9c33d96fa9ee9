"""What a deploy takes on a host, by its facts, and why: backend, engines, service manager, Python. Pure decisions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from llmctl.config import SERVICES, Host
from llmctl.domain import ENGINES
from llmctl.environments import WITHOUT
from llmctl.errors import NoPython, Refused, Unsupported, UsageError, nearest
from llmctl.fleet.facts import Facts, Python
from llmctl.models.choice import PREFERENCE, REASON, RUNS_ON

# The order in which Pythons are taken: the one that the tests run on first, then its neighbours; all have wheels.
PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 10), (3, 14))

# What the wheels need of a system: the least glibc and macOS, and the architectures.
WHEELS = {
    "llamacpp": ((2, 28), (13, 0), ("x86_64", "aarch64", "arm64")),
    "torch": ((2, 28), (14, 0), ("x86_64", "aarch64", "arm64")),
    "mlx": ((2, 35), (14, 0), ("x86_64", "aarch64", "arm64")),
    "openvino": ((2, 28), (13, 0), ("x86_64", "aarch64", "arm64")),
}
NO_MAC_X86 = ("torch", "mlx")


@dataclass(frozen=True)
class Chosen:
    """What was taken, why, and why not each other that could have been."""

    value: str
    why: str
    why_not: Mapping[str, str] = field(default_factory=dict)


def backend(host: Host, facts: Facts) -> Chosen:
    """cuda, metal or cpu. Unsupported when hosts.toml asks for one that the host does not have."""
    why_not = {name: why for name in ("metal", "cuda") if (why := _no_backend(name, facts))}
    able = [name for name in ("metal", "cuda", "cpu") if name not in why_not]
    if host.backend == "auto":
        reasons = {"metal": f"{facts.chip} has Metal", "cuda": _gpus(facts), "cpu": "no GPU that llmctl can use"}
        return Chosen(able[0], reasons[able[0]], why_not)
    if host.backend in why_not:
        raise Unsupported(
            f"{host.name} is to use {host.backend}, and {why_not[host.backend]}",
            hint=f'set backend = "auto" for {host.name} in hosts.toml: that would take {able[0]}',
            host=host.name,
        )
    return Chosen(host.backend, "asked for in hosts.toml", why_not)


def engines(host: Host, backend: str, facts: Facts) -> tuple[Chosen, ...]:
    """The engines to install, the preferred first; the first one's `why_not` names those left out. `engines = []` in
    hosts.toml is none; those WITHOUT an environment of their own are taken only where they stand there.

    UsageError for a name in hosts.toml that is no engine, Unsupported for one that cannot run there, and when none can.
    """
    known = [name for name in ENGINES if name not in WITHOUT or name in (host.engines or ())]
    for name in host.engines or ():
        if name not in ENGINES:
            close = nearest(name, ENGINES)
            hint = f"did you mean {close!r}?" if close else f"engines: {', '.join(known)}"
            raise UsageError(f"hosts.toml gives {host.name} an engine {name!r}", hint=hint, host=host.name)
    why_not = {name: why for name in known if (why := _no_engine(name, backend, facts))}
    wanted = [name for name in PREFERENCE[backend] if name in known] if host.engines is None else list(host.engines)
    taken = [name for name in wanted if name not in why_not]
    refused = [name for name in wanted if name in why_not]
    if (refused and host.engines is not None) or (wanted and not taken):
        raise Unsupported(
            f"{host.name} cannot run {', '.join(f'{name} ({why_not[name]})' for name in refused)}",
            hint=f"in hosts.toml, give {host.name} engines = {json.dumps([n for n in known if n not in why_not])}",
            host=host.name,
            details={"why_not": why_not},
        )
    why_not |= {
        name: "hosts.toml does not list it" if host.engines is not None else f"never the default on {backend}"
        for name in known
        if name not in taken and name not in why_not
    }
    asked = None if host.engines is None else "asked for in hosts.toml"
    reasons = [asked or REASON.get((backend, name), f"runs on {backend}") for name in taken]
    return tuple(
        Chosen(name, why, why_not if name == taken[0] else {}) for name, why in zip(taken, reasons, strict=True)
    )


def service(host: Host, facts: Facts, system: bool = False) -> Chosen:
    """What keeps its slots running, a name of config.SERVICES. With `system` the units are the system's own.

    Refused when what is asked for does not work there.
    """
    why_not = {name: why for name in SERVICES if (why := _no_service(name, facts))}
    kind = "launchd" if facts.os == "darwin" else "systemd"
    asked = host.service
    if system:
        if asked == "none":
            raise UsageError(
                f'--system, and {host.name} has service = "none"', hint="leave one of them out", host=host.name
            )
        asked = f"{kind if asked == 'auto' else asked.removesuffix('-system')}-system"
    if asked != "auto":
        if asked in why_not:
            raise Refused(
                f"{host.name} cannot use {asked}: {why_not[asked]}",
                hint=f'set service = "none" for {host.name} in hosts.toml: its slots then end with a reboot',
                host=host.name,
            )
        return Chosen(asked, "asked for with --system" if system else "asked for in hosts.toml", why_not)
    if kind in facts.services:
        return Chosen(kind, f"{kind} answers this user; --system has units that need no login", why_not)
    if facts.uid == 0 and f"{kind}-system" in facts.services:
        return Chosen(f"{kind}-system", f"{facts.user} is root, and {kind} has no manager for it", why_not)
    return Chosen("none", f"no {kind} that works there: slots do not come back after a reboot", why_not)


def python(facts: Facts) -> Python:
    """The interpreter that environments stand on. NoPython says what to type there to get one."""
    able = [found for found in facts.pythons if found.version[:2] in PYTHONS]
    if able:
        return min(able, key=lambda found: PYTHONS.index((found.version[0], found.version[1])))
    seen = ", ".join(f"{found.path} is {'.'.join(map(str, found.version))}" for found in facts.pythons)
    oldest, newest = (".".join(map(str, version(PYTHONS))) for version in (min, max))
    raise NoPython(
        f"there is no Python {oldest} to {newest} ({seen or 'none was found'})",
        hint=f"type there: {_python_hint(facts)}",
    )


def _no_backend(name: str, facts: Facts) -> str | None:
    if name == "metal":
        return None if facts.os == "darwin" and facts.arch == "arm64" else "it is no Mac with Apple silicon"
    if facts.os == "linux" and facts.accelerators:
        return None
    return next(iter(facts.notes), "it has no NVIDIA GPU") if facts.os == "linux" else "macOS has no CUDA"


def _gpus(facts: Facts) -> str:
    names = sorted({gpu.name for gpu in facts.accelerators})
    counted = [f"{sum(gpu.name == name for gpu in facts.accelerators)} × {name}" for name in names]
    return ", ".join(counted)


def _no_engine(name: str, backend: str, facts: Facts) -> str | None:
    """Why an engine cannot be installed there: its backend, its system, or its architecture."""
    if backend not in RUNS_ON[name]:
        return f"does not run on {backend}"
    if name not in WHEELS:
        return None
    glibc, mac, arches = WHEELS[name]
    if facts.arch not in arches or (facts.os == "darwin" and facts.arch == "x86_64" and name in NO_MAC_X86):
        return f"has no wheel for {facts.os} on {facts.arch}"
    if facts.os == "darwin":
        here = _version(facts.os_version)
        return None if here >= mac else f"needs macOS {mac[0]}, there is {facts.os_version}"
    kind, _, version = facts.libc.partition(" ")
    if kind == "musl":
        return "has no wheel for musl"
    return None if _version(version) >= glibc else f"needs glibc {glibc[0]}.{glibc[1]}, there is {version or 'none'}"


def _version(text: str) -> tuple[int, ...]:
    """The version that ends `text`."""
    return tuple(int(part) for part in text.rpartition(" ")[2].split(".") if part.isdigit())


def _no_service(name: str, facts: Facts) -> str | None:
    if name == "auto" or name in facts.services:
        return None
    kind = name.removesuffix("-system")
    if (kind == "launchd") != (facts.os == "darwin"):
        return f"{facts.os} has no {kind}"
    if name.endswith("-system") and kind in facts.services and not facts.sudo:
        return f"{facts.user} is not root, and sudo asks for a password"
    return next((note for note in facts.notes if kind in note), f"{kind} does not answer there")


def _python_hint(facts: Facts) -> str:
    tools = dict(facts.tools)
    if "uv" in tools:
        return f"{tools['uv']} python install 3.11"
    if facts.os == "darwin":
        return "brew install python@3.11, or install one of python.org"
    by_distro = {
        "debian": "apt install python3 python3-venv",
        "fedora": "dnf install python3.11",
        "rhel": "dnf install python3.11",
        "suse": "zypper install python311",
        "alpine": "apk add python3",
        "arch": "pacman -S python",
    }
    return next((by_distro[name] for name in facts.distro if name in by_distro), "install Python 3.11")
