"""What differs between the protocols that pass through: how an error looks, and how a stream that broke ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmctl.errors import LlmctlError, RequestError
from llmctl.runner.exchange import error_object

CODE = "engine_died"


@dataclass(frozen=True)
class Shape:
    """One protocol. `error` is an error as a whole answer; `broken(last, why)` ends a stream whose last bytes were
    `last`."""

    error: Callable[[LlmctlError], Mapping[str, Any]]
    broken: Callable[[bytes, str], bytes]


def _openai(last: bytes, why: str) -> bytes:
    event = json.dumps(error_object(RequestError(why, status=500, code=CODE)))
    return f"{_gap(last)}data: {event}\n\ndata: [DONE]\n\n".encode()


def _gap(last: bytes) -> str:
    """What ends an event that was cut."""
    return "" if last.endswith(b"\n\n") else "\n" if last.endswith(b"\n") else "\n\n"


OPENAI = Shape(error_object, _openai)
