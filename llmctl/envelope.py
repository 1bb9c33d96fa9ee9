"""What a verb answers, and the one JSON envelope it travels in; imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmctl import __version__
from llmctl.errors import LlmctlError

INTERRUPTED = 130
_STATUS = {0: "success", 3: "partial"}


@dataclass(frozen=True)
class Answer:
    """The result of one verb. `data` is JSON-able; `render` makes text of it.

    `stream` is an answer that comes bit by bit: it yields text and returns the data of the envelope.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0
    errors: tuple[LlmctlError, ...] = ()
    stream: Generator[str, None, Mapping[str, Any]] | None = None


def drained(answer: Answer) -> Answer:
    """An answer whose stream has run to its end: its text left out, what it returned as the data."""
    stream = answer.stream
    while stream:
        try:
            next(stream)
        except StopIteration as end:
            return Answer({**answer.data, **(end.value or {})}, answer.exit_code, answer.errors)
    return answer


def failure(error: BaseException) -> Answer:
    """The answer that an exception is."""
    if isinstance(error, LlmctlError):
        return Answer(exit_code=error.exit_code, errors=(error,))
    if isinstance(error, KeyboardInterrupt):
        return Answer(exit_code=INTERRUPTED, errors=(_named("interrupted", "interrupted"),))
    if isinstance(error, OSError):
        return Answer(exit_code=1, errors=(_named("os", str(error)),))
    hint = "this is a bug in llmctl: run it again with --debug and report what it shows"
    return Answer(exit_code=1, errors=(_named("internal", f"{type(error).__name__}: {error}", hint),))


def to_json(command: str, answer: Answer) -> str:
    """The envelope of an answer without a stream, on one line. A lone error's details are its data."""
    details = answer.errors[0].details if len(answer.errors) == 1 else {}
    envelope = {
        "llmctl": __version__,
        "command": command,
        "status": _STATUS.get(answer.exit_code, "error"),
        "exit_code": answer.exit_code,
        "data": answer.data or details,
        "errors": [
            {"code": e.code, "message": e.message, "host": e.host, "port": e.port, "hint": e.hint}
            for e in answer.errors
        ],
    }
    return json.dumps(envelope)


def _named(code: str, message: str, hint: str | None = None) -> LlmctlError:
    error = LlmctlError(message, hint=hint)
    error.code = code
    return error
