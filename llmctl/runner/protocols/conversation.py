"""A protocol over a WebSocket: many turns, one answer at a time, errors that end a turn and not the conversation."""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmctl.domain import Usage
from llmctl.errors import LlmctlError, RequestError
from llmctl.runner import json_in
from llmctl.runner.exchange import status_of
from llmctl.runner.link import FAILED, RESTARTS, Link
from llmctl.runner.metrics import Meter, Metrics
from llmctl.runner.protocols.asked import Asked, Events, begin
from llmctl.runner.service import Service

GONE = 499  # counted for a turn whose client went away


class Speaker(ABC):
    """What one protocol makes of messages. `answer` turns chunks into its events, each of which is one message."""

    answer: type[Events]

    @abstractmethod
    async def hear(self, message: Mapping[str, Any]) -> Asked | None:
        """What a message asks the model; None when it was about something else, and is answered. RequestError."""

    @abstractmethod
    def shown(self, error: LlmctlError, *, answering: bool) -> Sequence[str]:
        """An error about a message, as messages; `answering`: while the answer to an earlier one runs."""


class Conversation:
    """One WebSocket's turns. Engines may change between them."""

    def __init__(self, service: Service, metrics: Metrics, link: Link, speaker: Speaker) -> None:
        self.service, self.metrics, self.link, self.speaker = service, metrics, link, speaker
        self._turn: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        """Until the client goes away (Gone), the engine fails in an answer, or the server ends and no answer runs."""
        hearing = asyncio.ensure_future(self.link.hear())
        leaving = False
        try:
            while not (leaving and self._turn is None):
                tasks = [hearing, self._turn] if self._turn else [hearing]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if self._turn and self._turn.done():
                    good, self._turn = self._turn.result(), None
                    await self.link.answered()
                    if not good:
                        await self.link.close(FAILED, "the engine failed")
                        return
                if hearing.done():
                    message = hearing.result()
                    hearing = asyncio.ensure_future(self.link.hear())
                    leaving = leaving or message is None
                    if message is not None:
                        await self._heard(message)
            await self.link.close(RESTARTS, "the server restarts")
        finally:
            left = [hearing, self._turn] if self._turn else [hearing]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _heard(self, message: str | bytes) -> None:
        try:
            asked = await self.speaker.hear(parsed(message))
            if asked and self._turn:
                raise RequestError("an answer is under way: one at a time", status=409, code="answer_under_way")
            if asked:
                self._turn = asyncio.ensure_future(self._answer(asked))
        except LlmctlError as error:
            await self._show(error)
        if not self._turn:
            await self.link.answered()

    async def _show(self, error: LlmctlError) -> None:
        for text in self.speaker.shown(error, answering=self._turn is not None):
            await self.link.say(text)

    async def _answer(self, asked: Asked) -> bool:
        """One turn; False when the engine failed after its answer had begun."""
        began, status, answer = time.monotonic(), GONE, None
        self.metrics.began()
        try:
            async with await begin(self.service, asked) as stream:
                answer = self.speaker.answer(asked, stream.model, stream.prompt_tokens)
                meter, usage = Meter(self.metrics, began, stream.prompt_tokens), Usage(stream.prompt_tokens)
                await self._say(answer.events(()))
                async for chunks in stream:
                    usage = meter.see(chunks) or usage
                    await self._say(answer.events(chunks))
                await self._say(answer.end(usage))
            status = 200
        except LlmctlError as error:
            status = status_of(error)
            if answer:
                await self._say(answer.failed(error))
            else:
                for text in self.speaker.shown(error, answering=False):
                    await self.link.say(text)
        finally:
            self.metrics.ended(self.link.path, status)
        return answer is None or status < 500

    async def _say(self, events: bytes) -> None:
        for text in texts(events):
            await self.link.say(text)


def parsed(message: str | bytes) -> dict[str, Any]:
    """The object in a message; RequestError when it is binary, or no JSON object."""
    if isinstance(message, bytes):
        raise RequestError("only text messages are taken", code="invalid_json")
    return json_in.parse(message.encode(), "the message")


def texts(events: bytes) -> Iterator[str]:
    """The data of server-sent events, each of one line."""
    for event in events.decode().split("\n\n"):
        if event:
            yield event.removeprefix("data: ")


def event(value: Mapping[str, Any]) -> bytes:
    """A server-sent event of one line."""
    return b"data: %b\n\n" % json.dumps(value).encode()
