"""Tells the service manager how the slot server is (sd_notify); nothing where none asked for it."""

from __future__ import annotations

import os
import socket

READY, STOPPING = "READY=1", "STOPPING=1"


def notify(state: str) -> None:
    """Send `state` to the socket that systemd named in NOTIFY_SOCKET."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
