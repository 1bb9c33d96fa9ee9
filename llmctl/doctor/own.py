"""The operator's own machine: Python and packages, configuration, state folder, history, clock."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import llmctl
from llmctl import catalog, config, history, keys, testing
from llmctl.config import Config
from llmctl.doctor import permissions
from llmctl.doctor.pins import missing, others
from llmctl.doctor.rows import Row, fail, good, of_error, warn
from llmctl.errors import HistoryError, LlmctlError
from llmctl.fleet.facts.choices import PYTHONS
from llmctl.processes import asked
from llmctl.render.text import duration, size

LEAST_DISK = 10**9
CHECKS = ("python", "packages", "configuration", "ssh", "keys", "state", "disk", "history", "health", "clock")
"""The order in which they are shown."""


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Row:
    """Whether llmctl runs on this Python."""
    text = ".".join(map(str, version[:3]))
    if version[:2] in PYTHONS:
        return good("python", f"Python {text}")
    newest = ".".join(map(str, PYTHONS[0]))
    why = f"llmctl was never tried on Python {text}"
    return warn("python", why, f"python{newest} -m venv .venv && .venv/bin/pip install llmctl-fleet")


def packages(lock: str, here: Mapping[str, str]) -> Iterator[Row]:
    """The packages that llmctl stands on: `here` maps those that are installed to their versions."""
    absent, differing = missing(lock, here), others(lock, here)
    install = f"{shlex.quote(sys.executable)} -m pip install"
    if absent:
        words = shlex.join(f"{name}=={version}" for name, version in absent.items())
        yield fail("packages", f"not installed: {', '.join(absent)}", f"{install} {words}")
    if differing:
        told = ", ".join(f"{name} {here[name]} (tested with {wanted})" for name, wanted in differing.items())
        words = shlex.join(f"{name}=={wanted}" for name, wanted in differing.items())
        yield warn("packages", told, f"{install} {words}")
    if not absent and not differing:
        yield good("packages", f"llmctl {llmctl.__version__}, its packages as they were tested")


def installed() -> dict[str, str]:
    """Name (as a lock spells it) → version of what this Python finds."""
    found: dict[str, str] = {}
    for one in metadata.distributions():
        if name := one.metadata["Name"]:
            found.setdefault(name.lower().replace("_", "-").replace(".", "-"), one.version)
    return found


def configuration(find: Callable[[], Path | None]) -> tuple[list[Row], Config | None]:
    """Every file of the configuration, read; and the hosts, where hosts.toml can be."""
    try:
        folder = find()
    except LlmctlError as error:
        return [of_error("configuration", error, "llmctl init")], None
    try:
        hosts = config.load(folder)
    except LlmctlError as error:
        return [_mistake(error)], None
    if folder is None:
        return [good("configuration", "none: this machine alone, as the host `local`")], hosts
    rows = [_mistake(error) for error in _mistakes(folder, hosts)]
    count = len(hosts.hosts)
    return rows or [good("configuration", f"{count} host{'s' * (count != 1)} in {folder}")], hosts


_PLACE = re.compile(r"(/.+?\.toml):(?:(\d+):)?")


def _mistake(error: LlmctlError) -> Row:
    """A mistake in a file, which is mended in it: `PATH:LINE: …`."""
    place = _PLACE.match(error.message)
    if not place:
        return of_error("configuration", error, "llmctl hosts list")
    why = error.message + (f" ({error.hint})" if error.hint else "")
    return fail("configuration", why, f"${{EDITOR:-vi}} +{place[2] or 1} {shlex.quote(place[1])}")


def _mistakes(folder: Path, hosts: Config) -> Iterator[LlmctlError]:
    """What is wrong with the files beside hosts.toml."""
    from llmctl.health import settings

    models = catalog.Catalog({})
    try:
        models = catalog.load(folder)
    except LlmctlError as error:
        yield error
    readers: list[Callable[[], object]] = [
        lambda: testing.load(folder, hosts.hosts),
        lambda: settings.read(folder, hosts.hosts),
    ]
    if models.models:
        readers += [lambda name=name: config.profile(hosts, models, name) for name in config.profile_names(hosts)]  # type: ignore[misc]
    for read in readers:
        try:
            read()
        except LlmctlError as error:
            yield error


def state(home: Path) -> Iterator[Row]:
    """The state folder: there or to be made, ours, and nobody else's to read."""
    quoted = shlex.quote(str(home))
    if why := permissions.unusable(home):
        fix = f"sudo chown -R $(id -u) {quoted} && chmod 700 {quoted}"
        yield fail("state", f"{home}: {why}", f"{fix}; or export LLMCTL_HOME=FOLDER")
        return
    found = permissions.loose(home)
    yield from of_loose("state", found, home, "")
    if not found:
        yield good("state", f"{home}, its owner's alone" if home.exists() else f"{home} is made when it is needed")


def of_loose(check: str, found: list[tuple[str, int]], home: Path | str, before: str) -> Iterator[Row]:
    """The row of `permissions.loose`; `before` stands before the command (`ssh HOST `)."""
    if not found:
        return
    names = [name for name, _ in found if name != "."]
    told = [*(["the folder"] if len(names) < len(found) else []), *names]
    groups = [(mode, [name for name, wanted in found if wanted == mode]) for mode in (0o700, 0o600)]
    words = [f"chmod {mode:o} {shlex.join(_under(home, name) for name in group)}" for mode, group in groups if group]
    fix = " && ".join(words)
    few = ", ".join(told[:4]) + (f" and {len(told) - 4} more" if len(told) > 4 else "")
    yield warn(check, f"others may read {few} in {home}", f"{before}{shlex.quote(fix) if before else fix}")


def _under(home: Path | str, name: str) -> str:
    return str(Path(home) / name)


def own_keys(home: Path) -> Row:
    """The keys of the slots that run here."""
    try:
        found = keys.read(home)
    except (LlmctlError, OSError) as error:
        why = error.message if isinstance(error, LlmctlError) else f"keys.json cannot be read: {error.strerror}"
        return fail("keys", why, "llmctl keys rotate")
    return good("keys", "two keys" if found else "made when they are needed")


def disk(home: Path) -> Row:
    """Room for state, history and what is fetched for hosts."""
    while not home.exists():
        home = home.parent
    free = shutil.disk_usage(home).free
    if free >= LEAST_DISK:
        return good("disk", f"{size(free)} free")
    return fail("disk", f"{size(free)} free in {home}", "llmctl deploy --prune, or llmctl models gc")


def past(home: Path, now: float) -> Iterator[Row]:
    """The history of the fleet, and when health asked last."""
    from llmctl.history.store import History

    path = home / history.NAME
    if not path.exists():
        yield good("history", "none yet")
        yield warn("health", "nobody watches the fleet: llmctl health never ran here", "llmctl health install")
        return
    try:
        with History.open(path, write=False) as found:
            last = found.last()
    except HistoryError as error:
        yield of_error("history", error, f"mv {shlex.quote(str(path))} {shlex.quote(str(path))}.bad && llmctl health")
        return
    yield good("history", f"{path.name}, {size(path.stat().st_size)}")
    if not last:
        yield warn("health", "nobody watches the fleet: llmctl health never ran here", "llmctl health install")
        return
    age = now - max(check.at for check in last.values())
    if age < -60:
        yield warn("health", f"it ran {duration(-age)} in the future", "set the clock: sudo timedatectl set-ntp true")
    elif age > LATE:
        yield warn("health", f"llmctl health ran last {duration(age)} ago", "llmctl health install")
    else:
        yield good("health", f"ran {duration(max(0.0, age))} ago")


LATE = 2 * 3600.0
"""Seconds without a health run after which nobody watches any more."""


def clock(now: float, code: Path = Path(llmctl.__file__)) -> Row:
    """Whether the clock can be right, and is kept right."""
    made = code.stat().st_mtime
    if now < made - 86400:
        why = f"it is {duration(made - now)} before this llmctl was installed"
        return fail("clock", why, CLOCK_FIX)
    if synchronized() is False:
        return warn("clock", "nothing keeps it right (NTP is not synchronized)", CLOCK_FIX)
    return good("clock", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)))


CLOCK_FIX = "sudo timedatectl set-ntp true (macOS: sudo sntp -sS time.apple.com)"


def synchronized() -> bool | None:
    """What systemd says of NTP; None where it does not say, as in a container, whose clock is its host's."""
    done = asked(["timedatectl", "show", "-p", "NTPSynchronized", "-p", "CanNTP"], 5.0)
    said = dict(line.partition("=")[::2] for line in done.stdout.splitlines()) if done and not done.returncode else {}
    if said.get("CanNTP") != "yes":
        return None
    return {"yes": True, "no": False}.get(said.get("NTPSynchronized", ""))
