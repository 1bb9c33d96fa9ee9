"""What only two looks tell: how long processors were throttled in between, and what they drew (Intel's RAPL)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmctl import files
from llmctl.domain import build
from llmctl.errors import LlmctlError
from llmctl.health.seen import Sensor
from llmctl.health.sysfs import number, text
from llmctl.processes import boot_id

FILE = "sensors.json"
SHARE = 0.02
"""Throttled for less than this part of the time between two looks is not worth a word."""
FEWEST_SECONDS = 0.05
MOST_WATTS = 500.0
"""What no package draws: after a longer time than this fills a counter, nobody knows how often it went round."""


@dataclass(frozen=True)
class Look:
    """The counters at one moment: `at` seconds since boot. `throttled` maps a package to its milliseconds, `energy` a
    RAPL domain to joules, `ranges` to those at which its counter starts again."""

    boot: str
    at: float
    throttled: Mapping[str, int] = field(default_factory=dict)
    energy: Mapping[str, float] = field(default_factory=dict)
    ranges: Mapping[str, float] = field(default_factory=dict)


def sensors(root: Path, kept: Path, clock: Callable[[], float] = time.monotonic) -> tuple[Sensor, ...]:
    """What changed since the look in `kept`, which this one replaces; nothing at the first look after a boot."""
    now = look(root, clock())
    if not now.throttled and not now.energy:
        return ()
    before = _read(kept)
    if before is None or before.boot != now.boot or now.at > before.at + FEWEST_SECONDS or now.at < before.at:
        with contextlib.suppress(OSError):  # a full or read-only disk: the next look has no look before
            files.write_json(kept, asdict(now))
    return compared(before, now) if before else ()


def look(root: Path, at: float) -> Look:
    """The counters now."""
    domains = dict(_domains(root))
    energy = {name: joules for name, folder in domains.items() if (joules := _joules(folder)) is not None}
    ranges = {name: (number(domains[name] / "max_energy_range_uj") or 0) / 1e6 for name in energy}
    return Look(boot_id(), at, _throttled(root), energy, ranges)


def compared(before: Look, now: Look) -> tuple[Sensor, ...]:
    """What two looks of one boot tell."""
    seconds = now.at - before.at
    if before.boot != now.boot or seconds < FEWEST_SECONDS:
        return ()
    found = []
    for name in sorted({*now.throttled, *now.energy}):
        lost = (now.throttled.get(name, 0) - before.throttled.get(name, now.throttled.get(name, 0))) / 1000
        spent = _spent(before, now, name)
        why = f"too hot for {lost:.1f} of the last {seconds:.0f} s" if lost > SHARE * seconds else None
        if why or spent is not None:
            found.append(Sensor(name, throttled=why, watts=None if spent is None else round(spent / seconds, 1)))
    return tuple(found)


def energy(root: Path = Path("/")) -> float | None:
    """The joules that the processors have used since some moment; None where nobody may read that.

    The difference of two readings is what was used in between; see `spent`, since counters go round.
    """
    found = look(root, 0.0).energy
    return sum(found.values()) if found else None


def spent(before: float, after: float, root: Path = Path("/")) -> float:
    """The joules between two answers of `energy` that are minutes apart at most."""
    if after >= before:
        return after - before
    return after - before + max(look(root, 0.0).ranges.values(), default=0.0)


def _spent(before: Look, now: Look, name: str) -> float | None:
    if name not in now.energy or name not in before.energy:
        return None
    most, used = now.ranges.get(name, 0.0), now.energy[name] - before.energy[name]
    if used < 0:
        used += most
    return used if used >= 0 and (not most or now.at - before.at < most / MOST_WATTS) else None


def _throttled(root: Path) -> dict[str, int]:
    """Milliseconds that each package was throttled in, its cores counted as one: the longest of them."""
    found: dict[str, int] = {}
    for folder in (root / "sys/devices/system/cpu").glob("cpu[0-9]*"):
        package = f"package-{text(folder / 'topology/physical_package_id') or 0}"
        counts = [
            number(folder / "thermal_throttle" / f"{part}_throttle_total_time_ms") for part in ("core", "package")
        ]
        if known := [count for count in counts if count is not None]:
            found[package] = max(found.get(package, 0), *known)
    return found


def _domains(root: Path) -> Iterator[tuple[str, Path]]:
    """The domains that hold all others: the packages, not their cores; `intel-rapl` is AMD's too. The same package is
    there twice where the BIOS tells of it besides (`intel-rapl-mmio`)."""
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]*")):
        name = text(folder / "name")
        if name.startswith("package"):
            yield name, folder


def _joules(folder: Path) -> float | None:
    found = number(folder / "energy_uj")
    return None if found is None else found / 1e6


def _read(kept: Path) -> Look | None:
    with contextlib.suppress(LlmctlError, OSError, TypeError, ValueError):
        data: Any = files.read_json(kept)
        if isinstance(data, dict):
            return build(Look, data)
    return None
