"""What macOS tells of heat and power: pmset, and powermetrics where root asks. Never run: this project has no Mac."""

from __future__ import annotations

import os
import platform
import re

from llmctl.health.seen import Sensor
from llmctl.processes import asked

TIMEOUT = 4.0
POWERMETRICS = ("powermetrics", "-n", "1", "-i", "200", "--samplers", "thermal,cpu_power,gpu_power")
LEVELS = {"Moderate", "Heavy", "Trapping", "Sleeping"}
"""Of its thermal pressure those at which it slows down; Nominal and Light are not."""


def sensors() -> tuple[Sensor, ...]:
    """Whether the Mac slows itself down, and what it draws where that may be asked; none elsewhere."""
    if platform.system() != "Darwin":
        return ()
    done = asked(["pmset", "-g", "therm"], TIMEOUT)
    found = pmset(done.stdout) if done else ()
    if os.geteuid() == 0 and (more := asked(POWERMETRICS, TIMEOUT)):
        found = (*found, *powermetrics(more.stdout))
    return found


def pmset(text: str) -> tuple[Sensor, ...]:
    """`pmset -g therm`: a limit below 100 %, or a warning level; "No … has been recorded" is all well."""
    said = {name: int(value) for name, value in re.findall(r"(\w+)\s*=\s*(\d{1,6})", text)}
    speed, level = said.get("CPU_Speed_Limit", 100), said.get("Thermal_Warning_Level", 0)
    level = next((int(n) for n in re.findall(r"[Tt]hermal [Ww]arning [Ll]evel\D{0,20}(\d{1,3})", text)), level)
    why = f"its processor runs at {speed} % of its speed" if speed < 100 else None
    if not why and level:
        why = f"its thermal warning level is {level}"
    return (Sensor("Mac", throttled=why),) if why else ()


def powermetrics(text: str) -> tuple[Sensor, ...]:
    """The pressure level and the power of the whole chip (of an Intel Mac: of its package)."""
    level = re.search(r"Current pressure level:\s*(\w+)", text)
    power = re.search(r"Combined Power \(CPU \+ GPU(?: \+ ANE)?\):\s*(\d+(?:\.\d+)?)\s*mW", text)
    package = re.search(r"package power \(CPUs\+GT\+SA\):\s*(\d+(?:\.\d+)?)\s*W", text)
    die = re.search(r"CPU die temperature:\s*(\d+(?:\.\d+)?)\s*C", text)
    watts = float(power[1]) / 1000 if power else float(package[1]) if package else None
    why = f"its thermal pressure is {level[1].lower()}" if level and level[1] in LEVELS else None
    celsius = float(die[1]) if die else None
    return (Sensor("chip", celsius, None, why, watts),) if why or watts is not None or celsius is not None else ()
