"""What a protocol adds to a slot: its routes, its WebSockets, and how it shows an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmctl.errors import LlmctlError
from llmctl.runner.exchange import error_object
from llmctl.runner.link import Link
from llmctl.runner.protocols.asked import Routes

SocketHandler = Callable[[Link], Awaitable[None]]
"""handler(link) of one open WebSocket, whose key and origin are checked already."""


@dataclass(frozen=True)
class Protocol:
    """One protocol of a slot. `error` makes the JSON body of an answer that is an error; its status is the error's."""

    routes: Routes
    error: Callable[[LlmctlError], Mapping[str, Any]] = error_object
    sockets: Mapping[str, SocketHandler] = field(default_factory=dict)
