"""The status page on one address: bound by us, served by the edge of a slot, ended by a signal."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from llmctl.domain import Limits
from llmctl.runner.listener import Listener
from llmctl.runner.listener import bind as listen
from llmctl.web.app import Door, Web
from llmctl.web.verbs import Verbs, Watching

LIMITS = Limits(connections=256, body_bytes=2**20, bodies_bytes=16 * 2**20, write_buffer=4 * 2**20)
DRAIN = 1.0
"""Seconds that answers under way have when it ends."""


class Server:
    """Refused when the port is taken, or when others could reach it and there is no key."""

    def __init__(self, home: Path, door: Door, watch: Watching, verbs: Verbs) -> None:
        self.web = Web(home, door, watch, verbs)
        name = f"[{door.bind}]" if ":" in door.bind else door.bind or "0.0.0.0"
        self.url = f"http://{name}:{door.port}/"
        self._sock = listen(door.bind, door.port)

    def run(self) -> None:
        """Answer until SIGTERM or SIGINT."""
        with self._sock:
            asyncio.run(self._serve())

    async def _serve(self) -> None:
        listener, stopping = Listener(self._sock, self.web.app, LIMITS), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await listener.accept()
        await stopping.wait()
        self.web.close()
        await listener.drain(DRAIN)
