"""What a piece of long work sees of the job it runs in: where to tell how it goes on. It knows nothing of queues."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

Work = Callable[[Mapping[str, Any], "Context"], Mapping[str, Any]]
"""work(arguments, job) → the result, both JSON-able. It raises LlmctlError. When the job is cancelled, Cancelled is
raised in its main thread at any point: clean up with `finally`, do not catch it."""


class Cancelled(BaseException):
    """The operator ended the job. Not an Exception, so that no library swallows it."""


class Context(Protocol):
    """Takes the events of a job; `attach` shows them."""

    def note(self, message: str) -> None:
        """A line that stays in the job's log."""

    def progress(self, stage: str, done: int = 0, total: int = 0, parts: Mapping[str, tuple[int, int]] = {}) -> None:
        """How far `stage` is; bytes where `total` is 10**6 or more, `total` 0 when it is not known.

        `parts` are the files in work now: name → (done, total) bytes. Cheap: call it as often as you like.
        """


class Silent:
    """A Context for work without a job: keeps the notes, forgets the progress."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def progress(self, stage: str, done: int = 0, total: int = 0, parts: Mapping[str, tuple[int, int]] = {}) -> None:
        pass
