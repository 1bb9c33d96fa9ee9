"""The line of requests that wait for an engine: bounded, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from llmctl.domain import GenerateRequest, Task
from llmctl.errors import LlmctlError
from llmctl.runner.streams import RequestStream


@dataclass(eq=False)
class Ticket:
    """One waiting request; `turn` resolves to its stream once an engine took it."""

    request: GenerateRequest | Task
    turn: asyncio.Future[RequestStream]


class WaitingLine:
    """Tickets in order. Knows nothing of engines: `serve` is given what begins a request."""

    def __init__(self) -> None:
        self._line: deque[Ticket] = deque()

    def __len__(self) -> int:
        return len(self._line)

    async def join(self, request: GenerateRequest | Task, timeout: float) -> RequestStream:
        """Wait for a turn. TimeoutError past `timeout` seconds; a cancelled waiter gives its place (or stream) up."""
        ticket = Ticket(request, asyncio.get_running_loop().create_future())
        self._line.append(ticket)
        try:
            done, _ = await asyncio.wait([ticket.turn], timeout=timeout)
            if not done:
                raise TimeoutError
            return ticket.turn.result()
        except BaseException:
            if ticket in self._line:
                self._line.remove(ticket)
            if ticket.turn.done() and not ticket.turn.exception():
                ticket.turn.result().cancel()
            raise

    def serve(self, has_room: Callable[[], bool], begin: Callable[[GenerateRequest | Task], RequestStream]) -> None:
        """Give turns while there is room."""
        while self._line and has_room():
            ticket = self._line.popleft()
            ticket.turn.set_result(begin(ticket.request))

    def dismiss(self, error: LlmctlError) -> None:
        """Send everybody away with `error`."""
        while self._line:
            turn = self._line.popleft().turn
            turn.set_exception(error)
            turn.exception()
