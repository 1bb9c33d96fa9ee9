"""The operator's own machine: Python and packages, configuration, state folder, history, and whether health runs."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import llmctl
from llmctl import catalog, config, history, keys, testing
from llmctl.config import Config
from llmctl.doctor import permissions
from llmctl.doctor.clock import FIX as CLOCK_FIX
from llmctl.doctor.pins import missing, others
from llmctl.doctor.rows import Row, fail, good, of_error, warn
from llmctl.errors import HistoryError, LlmctlError
from llmctl.files import standing
from llmctl.fleet.facts.choices import PYTHONS
from llmctl.health import schedule
from llmctl.health.schedule import Scheduled
from llmctl.history.store import History
from llmctl.render.text import duration, size

LEAST_DISK = 10**9


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
    yield from permissions.told("state", found, home)
    if not found:
        yield good("state", f"{home}, its owner's alone" if home.exists() else f"{home} is made when it is needed")


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
    home = standing(home)
    free = shutil.disk_usage(home).free
    if free >= LEAST_DISK:
        return good("disk", f"{size(free)} free")
    return fail("disk", f"{size(free)} free in {home}", "llmctl deploy --prune, or llmctl models gc")


def past(home: Path, now: float) -> Iterator[Row]:
    """The history of the fleet, and whether health asks, and when it did last."""
    path, last = home / history.NAME, None
    if path.exists():
        try:
            with History.open(path, write=False) as found:
                last = max((check.at for check in found.last().values()), default=None)
        except HistoryError as error:
            away = f"mv {shlex.quote(str(path))} {shlex.quote(str(path))}.bad && llmctl health"
            yield of_error("history", error, away)
            return
    yield good("history", f"{path.name}, {size(path.stat().st_size)}" if path.exists() else "none yet")
    yield watched(None if last is None else now - last, schedule.show(home))


LATE = 2 * 3600.0
"""Seconds without a health run after which nobody watches any more."""


def watched(age: float | None, by: Sequence[Scheduled]) -> Row:
    """`age`: seconds since health ran last, None when it never did; `by` is what runs it again and again. Pure."""
    if age is not None and age < -60:
        return warn("health", f"it ran {duration(-age)} in the future", CLOCK_FIX)
    idle = next((note for one in by if not one.active for note in one.notes), None)
    if idle:
        why, _, fix = idle.partition(": ")
        return warn("health", f"{by[0].service} should run llmctl health: {why}", fix or "llmctl health install")
    names = ", ".join(one.service for one in by)
    if age is not None and age <= LATE:
        return good("health", f"ran {duration(max(0.0, age))} ago" + (f", by {names}" if by else ""))
    ran = "never ran here" if age is None else f"ran last {duration(age)} ago"
    if by:
        told = f"{names} should run llmctl health, and it {ran}"
        return warn("health", told, "llmctl health install && llmctl health")
    return warn("health", f"nobody watches the fleet: llmctl health {ran}", "llmctl health install")
