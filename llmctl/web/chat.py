"""A conversation with a slot through this server: its pieces as events. What is said is in no log, file or history."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from llmctl.clients.talk import Message, Said
from llmctl.errors import LlmctlError, RequestError
from llmctl.web.live import HEARTBEAT, event, within
from llmctl.web.verbs import Talking

CHATS = 8
ROLES = ("system", "user", "assistant")
MESSAGES = 400
END = b""
BEHIND = 256
"""Pieces that wait for the browser; then the slot waits."""


def messages(body: bytes) -> list[Message]:
    """The conversation that a page sends; RequestError for what is none."""
    try:
        found = json.loads(body)["messages"]
        read = [{"role": one["role"], "content": one["content"]} for one in found]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise _wrong("the conversation cannot be read") from None
    if not 0 < len(read) <= MESSAGES:
        raise _wrong(f"a conversation has 1 to {MESSAGES} messages")
    if not all(one["role"] in ROLES and isinstance(one["content"], str) for one in read):
        raise _wrong("a message has a role and a text")
    return list(read)


async def pieces(talking: Talking, asked: Sequence[Message]) -> AsyncGenerator[bytes, None]:
    """The answer as it comes. Closing this ends it at the slot too."""
    loop, over = asyncio.get_running_loop(), threading.Event()
    coming: asyncio.Queue[bytes] = asyncio.Queue(BEHIND)

    def pass_on(piece: bytes) -> None:
        asyncio.run_coroutine_threadsafe(coming.put(piece), loop).result()

    def run() -> None:
        with contextlib.suppress(Exception):  # the loop closes: nobody reads any more
            try:
                _ask(talking, asked, pass_on, over)
            except LlmctlError as error:
                pass_on(event("failed", {"error": error.message, "hint": error.hint}))
            except Exception as error:  # cut by us, or a bug of ours: what was said is in no message
                pass_on(event("failed", {"error": type(error).__name__, "hint": None}))
            pass_on(END)

    threading.Thread(target=run, name="web chat", daemon=True).start()
    try:
        while True:
            piece = await within(coming.get(), HEARTBEAT)
            if piece == END:
                return
            yield piece or b": the model is at it\n\n"
    finally:
        over.set()
        await asyncio.to_thread(talking.cut)
        while not coming.empty():  # lets the thread go on to its end
            coming.get_nowait()


def _ask(talking: Talking, asked: Sequence[Message], pass_on: Any, over: threading.Event) -> None:
    talk = talking.client.ask(asked, {})
    try:
        while not over.is_set():
            piece = next(talk)
            pass_on(event("thought" if piece.reasoning else "text", piece.text))
    except StopIteration as end:
        said: Said = end.value
        usage = said.usage or {}
        told = {"model": said.model, "finish": said.finish, "seconds": said.seconds, "tokens": _tokens(usage)}
        pass_on(event("end", told))
    finally:
        talk.close()
        talking.client.close()


def _tokens(usage: Any) -> int | None:
    found = usage.get("completion_tokens")
    return found if isinstance(found, int) else None


def _wrong(message: str) -> RequestError:
    return RequestError(message, status=400)
