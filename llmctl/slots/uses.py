"""Which files the slots of a host need: what they run, what they should run, and what they would go back to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmctl.domain import NGRAM, EngineSpec
from llmctl.errors import Busy, Refused
from llmctl.paths import slot_ports
from llmctl.slots import verbs
from llmctl.slots.state import SlotFolder


def used(home: Path) -> Mapping[int, tuple[Path, ...]]:
    """Port → paths of its models. Busy while a slot changes: it may be loading what its state does not name yet.

    The last-known-good model of a slot that was unloaded is not used: nothing goes back to it.
    """
    for slot in verbs.status(home):
        if slot.operation:
            raise Busy(f"port {slot.port} is changing its model", hint="llmctl status", port=slot.port)
    found = {}
    for port in slot_ports(home):
        folder = SlotFolder(home, port)
        desired = folder.read_desired().spec
        good = folder.read_actual().last_known_good if desired else None
        found[port] = tuple(path for spec in (desired, good) if spec for path in _files(spec.engine))
    return found


def _files(spec: EngineSpec) -> list[Path]:
    beside = [spec.draft] if spec.draft and spec.draft != NGRAM else []
    return [Path(path) for path in (spec.path, *beside, *spec.adapters.values()) if path]  # a server may have none


def refuse(what: str, folder: Path, ports: Mapping[int, tuple[Path, ...]]) -> None:
    """Refused when a slot uses something in `folder`; the hint ends that."""
    real = folder.resolve()
    for port, paths in ports.items():
        if any(path.is_relative_to(folder) or path.resolve().is_relative_to(real) for path in paths):
            raise Refused(f"port {port} uses {what}", hint=f"llmctl unload {port}", port=port)
