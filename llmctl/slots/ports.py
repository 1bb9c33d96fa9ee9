"""Which port of a host's managed range is free."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

from llmctl.config import Host
from llmctl.domain import EMPTY
from llmctl.errors import Refused
from llmctl.slots import verbs


def free_port(home: Path, host: Host, taken: Iterable[int] = ()) -> int:
    """The lowest port of the host's range that has no model and no foreign listener; Refused when there is none."""
    slots = {slot.port: slot for slot in verbs.status(home)}
    low, high = host.ports
    for port in range(low, high + 1):
        slot = slots.get(port)
        if port in taken or (slot and slot.state != EMPTY):
            continue
        if (slot and slot.runner_pid) or _bindable(host.bind, port):
            return port
    raise Refused(f"no free port in {low}-{high} on {host.name}", hint="llmctl status", host=host.name)


def _bindable(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
