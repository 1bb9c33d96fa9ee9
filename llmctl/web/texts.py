"""How the pages say what they show: times, sizes, states; and that nothing from outside can be more than text."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from llmctl.render.slots import behind, handles
from llmctl.render.text import duration, escaped, size
from llmctl.watch.view import HostView

FINE = ("ok", "ready", "success", "up")
BUSY = ("starting", "swapping", "stopping", "running", "degraded", "skew", "backoff", "partly up", "unknown")
BAD = ("down", "failed", "crash-loop", "lost", "error")


def tone(state: str) -> str:
    """The class of a state's colour: ok, busy, down or rest."""
    return "ok" if state in FINE else "busy" if state in BUSY else "down" if state in BAD else "rest"


def worst(host: HostView) -> str:
    """The class of a host and of all its slots together."""
    found = {tone(host.state), *(tone(slot["state"]) for slot in host.slots)}
    return next(one for one in ("down", "busy", "ok", "rest") if one in found)


def moment(at: float) -> str:
    """When, in this machine's time; the day only where it is not today's."""
    then, now = time.localtime(at), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)


def slot_path(host: str, port: int) -> str:
    """Where the page of a slot is."""
    return f"/slots/{quote(host, safe='')}/{port}"


def part_id(host: str) -> str:
    """The id of a host's part of a page: hosts' names may have what an id may not."""
    return f"host-{quote(host, safe='').replace('%', '_')}"


def as_text(value: Any) -> Any:
    """What becomes of every value in a page: control characters are made visible (Jinja escapes the rest)."""
    return escaped(value) if type(value) is str else value


FILTERS = {
    "tone": tone,
    "behind": behind,
    "handles": handles,
    "worst": worst,
    "moment": moment,
    "size": size,
    "duration": duration,
    "slot": slot_path,
    "part": part_id,
}
