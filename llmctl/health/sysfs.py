"""Temperatures as Linux tells them: the chips of /sys/class/hwmon, the zones of /sys/class/thermal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from llmctl.health.seen import Sensor

LIMITS = {"coretemp": "crit", "k10temp": "crit", "zenpower": "crit", "amdgpu": "crit", "nvme": "max", "cpu_thermal": ""}
"""The chips whose heat slows a model down, with the value that is their limit: of coretemp `max` asks for the fans
only, and k10temp's `max` is a constant that means nothing."""
COOLS_BY_SLOWING = re.compile(r"Processor|(thermal-)?cpufreq.*")
SAME_AS = {"x86_pkg_temp": "coretemp", "cpu-thermal": "cpu_thermal"}
"""Zones that repeat what a chip of hwmon tells."""
COLDEST, HOTTEST = 0.0, 150.0


def sensors(root: Path) -> tuple[Sensor, ...]:
    """One of each chip, the hottest of its values; those zones that no chip tells of; what is cooled by slowing."""
    chips = tuple(_chips(root / "sys/class/hwmon"))
    told = {sensor.name.split()[0] for sensor in chips}
    zones = [zone for zone in _zones(root / "sys/class/thermal") if SAME_AS.get(zone.name) not in told]
    return (*chips, *zones, *_cooled(root / "sys/class/thermal"))


def _chips(folder: Path) -> Iterator[Sensor]:
    for device in _numbered(folder, "hwmon"):
        chip = text(device / "name")
        if chip not in LIMITS:
            continue
        found = [_value(device, path.name.removesuffix("_input"), chip) for path in sorted(device.glob("temp*_input"))]
        seen = [sensor for sensor in found if sensor]
        watts = _watts(device)
        if seen:
            hottest = max(seen, key=_heat)
            yield Sensor(hottest.name, hottest.celsius, hottest.limit, watts=watts)
        elif watts is not None:
            yield Sensor(chip, watts=watts)


def _value(device: Path, name: str, chip: str) -> Sensor | None:
    """The value `name` ("temp1") of a chip."""
    celsius = _degrees(device / f"{name}_input")
    if celsius is None:
        return None
    limit = _degrees(device / f"{name}_{LIMITS[chip]}") if LIMITS[chip] else None
    return Sensor(f"{chip} {text(device / f'{name}_label')}".strip(), celsius, limit)


def _heat(sensor: Sensor) -> tuple[float, float]:
    """How near it is to its limit; then how hot."""
    celsius = sensor.celsius or 0.0
    return celsius - (sensor.limit or HOTTEST), celsius


def _watts(device: Path) -> float | None:
    """What an AMD GPU draws."""
    found = (number(device / f"power1_{kind}") for kind in ("average", "input"))
    return next((value / 1e6 for value in found if value is not None and value > 0), None)


def _zones(folder: Path) -> Iterator[Sensor]:
    for zone in _numbered(folder, "thermal_zone"):
        celsius, name = _degrees(zone / "temp"), text(zone / "type")
        if celsius is not None and name:
            yield Sensor(name, celsius, _trip(zone))


def _trip(zone: Path) -> float | None:
    """Where the system slows it down: its highest passive point (the lower ones only begin to watch), else where the
    machine is switched off."""
    points: dict[str, list[float]] = {}
    for path in zone.glob("trip_point_*_type"):
        degrees = _degrees(path.with_name(path.name.replace("_type", "_temp")))
        if degrees is not None:
            points.setdefault(text(path), []).append(degrees)
    return next((max(points[kind]) for kind in ("passive", "critical") if kind in points), None)


def _cooled(folder: Path) -> Iterator[Sensor]:
    """Processors that the system runs slower than it could, because something is too hot."""
    for device in _numbered(folder, "cooling_device"):
        name, now, most = text(device / "type"), number(device / "cur_state"), number(device / "max_state")
        if COOLS_BY_SLOWING.fullmatch(name) and now is not None and now > 0:
            yield Sensor(f"{name} {device.name[14:]}", throttled=f"slowed down to cool it, step {now} of {most}")


def _degrees(path: Path) -> float | None:
    """°C; None for what no part of a running machine has (drivers say 0 or -274 for "not known")."""
    value = number(path)
    return value / 1000 if value is not None and COLDEST < value / 1000 < HOTTEST else None


def number(path: Path) -> int | None:
    """A whole number in a file of the kernel; None when it is none, or cannot be read now."""
    found = re.fullmatch(r"-?\d{1,19}", text(path))
    return int(found[0]) if found else None


def text(path: Path) -> str:
    """The text of such a file, "" when it cannot be read (a sleeping device answers with an error)."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _numbered(folder: Path, name: str) -> list[Path]:
    """NAME0, NAME1, … in their order."""
    found = [path for path in folder.glob(f"{name}*") if path.name[len(name) :].isdigit()]
    return sorted(found, key=lambda path: int(path.name[len(name) :]))
