"""Tell a worker's pool that the slot is ready, once it is; a pool that does not listen costs the slot nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from llmctl.errors import LlmctlError, Refused
from llmctl.runner.service import Service
from llmctl.slots import callback
from llmctl.slots.callback import Callback

POLL = 0.1  # seconds between looks at the slot
DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0)  # seconds between tries


async def announce(
    to: Callback, bind: str, port: int, service: Service, note: Callable[[str], None], delays: Sequence[float] = DELAYS
) -> None:
    """Wait for the model, then tell; again after each of `delays` while it fails."""
    while not service.health()["ready"]:
        await asyncio.sleep(POLL)
    for delay in (*delays, None):
        identity = service.identity()
        vram_bytes = identity.memory_bytes if identity else 0
        try:
            here = await asyncio.to_thread(callback.post, to, bind, port, vram_bytes)
        except LlmctlError as error:
            note(f"worker {to.id} is not announced: {error.message}")
            if isinstance(error, Refused) or delay is None:
                return
            await asyncio.sleep(delay)
        else:
            note(f"worker {to.id} is announced to {to} as {here}")
            return
