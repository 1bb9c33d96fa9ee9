"""What nvidia-smi tells of heat and throttling; its parser is pure. Never run beside a GPU by this project."""

from __future__ import annotations

import re
import shutil

from llmctl.health.seen import Sensor
from llmctl.processes import asked

TIMEOUT = 4.0
"""Seconds for an answer: without the persistence daemon the driver wakes the GPUs first; a dead one never answers."""
COMMON = "index,temperature.gpu,power.draw"
QUERIES = (f"{COMMON},clocks_event_reasons.active,temperature.gpu.tlimit", f"{COMMON},clocks_throttle_reasons.active")
"""The names since the driver 535, and those before."""
REASONS = {
    0x08: "the hardware slows it down",
    0x20: "too hot (the driver slows it down)",
    0x40: "too hot (the hardware slows it down)",
    0x80: "the power supply brakes it",
}
"""Of nvmlClocksEventReasons; that it idles, draws all it may (0x4), or was set so by a person, is nothing to mend."""
GENERAL = 0x08  # goes with 0x40 and 0x80, and says less
LOST = re.compile(r"Unable to determine the device handle for (?:GPU|gpu)\s*([0-9A-Fa-f:.]+): (.+)")


def sensors() -> tuple[Sensor, ...]:
    """One of each GPU; none without nvidia-smi, and one that says so when it hangs."""
    program = shutil.which("nvidia-smi")
    if not program:
        return ()
    for query in QUERIES:
        done = asked([program, f"--query-gpu={query}", "--format=csv,noheader,nounits"], TIMEOUT)
        if done is None:
            return (Sensor("nvidia-smi", dead=f"the driver did not answer within {TIMEOUT:.0f} s"),)
        said = f"{done.stdout}\n{done.stderr}"
        if "not a valid field" not in said:
            return parse(said)
    return ()


def parse(text: str) -> tuple[Sensor, ...]:
    """The answer to one of QUERIES. What a GPU does not know ("[N/A]", "[Not Supported]") is None, a GPU that fell off
    its bus ("ERR!", "GPU is lost") is dead; other lines are passed over."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if lost := LOST.search(line):
            found.append(Sensor(f"GPU {lost[1].rstrip(':')}", dead=f"it does not answer: {lost[2].strip()}"))
        elif len(fields) in (4, 5) and fields[0].isdigit():
            found.append(_gpu(*fields))
    return tuple(found)


def _gpu(index: str, celsius: str, watts: str, reasons: str, margin: str = "") -> Sensor:
    """`margin` is how many degrees are left to the limit (newer GPUs tell that, and no limit)."""
    hot, left = _number(celsius), _number(margin)
    dead = next((f"it answers {field}" for field in (celsius, watts, reasons) if _broken(field)), None)
    return Sensor(
        f"GPU {index}",
        hot,
        hot + left if hot is not None and left is not None else None,
        _throttled(reasons),
        _number(watts),
        dead,
    )


def _throttled(reasons: str) -> str | None:
    if not re.fullmatch(r"0x[0-9A-Fa-f]{1,16}", reasons):
        return None
    mask = int(reasons, 16)
    told = [why for bit, why in REASONS.items() if mask & bit and (bit != GENERAL or not mask & 0xC0)]
    return ", ".join(told) or None


def _broken(field: str) -> bool:
    return field in ("ERR!", "[Unknown Error]", "[GPU is lost]", "[GPU requires reset]")


def _number(field: str) -> float | None:
    found = re.fullmatch(r"-?\d{1,6}(\.\d+)?", field)
    return float(field) if found else None
