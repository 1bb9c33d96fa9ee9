"""What a host tells an exporter: its slots as they are, their own metrics, memory and disk."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llmctl import keys
from llmctl.checks.slot_http import SlotHttp
from llmctl.errors import LlmctlError
from llmctl.slots.state import SlotFolder
from llmctl.watch import host as watching

AT_ONCE = 16


def told(home: Path, host: str, timeout: float) -> dict[str, Any]:
    """A look (watch.host) whose slots have `metrics`: their page, None when there was none within `timeout` seconds."""
    look = next(watching.looks(home, host, watching.BEAT, lambda pause: True))
    found = keys.read(home)
    key = found.client if found else None
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="metrics") as pool:
        pages = list(pool.map(lambda slot: _page(home, slot, key, timeout), look["slots"]))
    slots = [{**slot, "metrics": page} for slot, page in zip(look["slots"], pages, strict=True)]
    return {**{name: look[name] for name in ("at", "version", "memory", "disk", "load")}, "slots": slots}


def _page(home: Path, slot: Mapping[str, Any], key: str | None, timeout: float) -> str | None:
    if not slot["runner_pid"]:  # whoever else listens there must not see the key
        return None
    try:
        bind = SlotFolder(home, slot["port"]).read_desired().launch.bind
        return SlotHttp(bind, slot["port"], key, timeout).metrics()
    except LlmctlError:
        return None
