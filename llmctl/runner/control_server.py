"""The slot server's end of the control socket (slots.control): verbs in, events and one answer out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from llmctl.errors import LlmctlError, UsageError
from llmctl.slots.control import address

LONGEST_LINE = 4 * 2**20

OnEvent = Callable[[dict[str, Any]], None]
Verb = Callable[[dict[str, Any], str, OnEvent], Awaitable[Any]]
"""verb(args, owner, on_event) → the answer's data."""


async def serve_control(path: Path, verbs: dict[str, Verb]) -> asyncio.Server:
    """Listen on `path` (0600). A verb goes on when its caller goes away: a change is never left half done."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def write(line: dict[str, Any]) -> None:
            if not writer.is_closing():
                writer.write(json.dumps(line).encode() + b"\n")

        try:
            asked = json.loads(await reader.readline())
            write(await asyncio.shield(_answer(verbs, asked, write)))
            await writer.drain()
        except (ValueError, ConnectionError):
            pass  # the caller sent no request or went away
        finally:
            writer.close()

    path.unlink(missing_ok=True)
    mask = os.umask(0o177)
    try:
        with address(path) as where:
            return await asyncio.start_unix_server(handle, where, limit=LONGEST_LINE)
    finally:
        os.umask(mask)


async def _answer(verbs: dict[str, Verb], asked: dict[str, Any], on_event: OnEvent) -> dict[str, Any]:
    try:
        verb = verbs.get(str(asked.get("verb")))
        if verb is None:
            raise UsageError(f"the slot server has no verb {asked.get('verb')!r}", hint="its llmctl is older or newer")
        with contextlib.suppress(asyncio.CancelledError):
            return {"ok": True, "data": await verb(asked.get("args") or {}, str(asked.get("owner")), on_event)}
        raise LlmctlError("the slot server is stopping")
    except LlmctlError as error:
        return {"ok": False, "error": error.to_dict()}
    except Exception as error:
        traceback.print_exc()
        return {"ok": False, "error": LlmctlError(f"internal error: {error!r}").to_dict()}
