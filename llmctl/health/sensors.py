"""The temperature, throttling and power of this machine, from all that tells them without root or a library."""

from __future__ import annotations

from pathlib import Path

from llmctl import paths
from llmctl.health import apple, counters, nvidia, sysfs
from llmctl.health.seen import Sensor


def sensors(root: Path = Path("/"), home: Path | None = None) -> tuple[Sensor, ...]:
    """All sensors there are; a part that tells nothing has none, and a hung tool costs seconds, not the answer.

    What can be told only by two looks (throttle counters, energy) is held against the look before, which is kept in
    the state folder `home`. `root` is where /sys is.
    """
    kept = (home or paths.home()) / counters.FILE
    return (*sysfs.sensors(root), *counters.sensors(root, kept), *nvidia.sensors(), *apple.sensors())
