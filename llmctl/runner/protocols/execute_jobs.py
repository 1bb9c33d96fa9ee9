"""Jobs of a worker of rbee that wait to be read: few, not for long, each once."""

from __future__ import annotations

import time
from collections.abc import Callable

from llmctl.errors import RequestError
from llmctl.runner.protocols.asked import Asked
from llmctl.runner.protocols.execute_fields import error, invalid

MOST = 256
AGE = 300.0  # seconds that a job waits for its reader


class Jobs:
    """{id: job}, oldest first. A job starts when it is read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[str, tuple[float, Asked]] = {}

    def add(self, asked: Asked) -> str:
        """Keep a job; its id. RequestError: 400 when one of that name waits, 503 when too many do."""
        self._forget_old()
        id = str(asked.options.id)
        if id in self._waiting:
            raise invalid([error("job_id", "unique", "is the name of a job that waits already")])
        if len(self._waiting) >= MOST:
            oldest = next(iter(self._waiting.values()))[0]
            raise RequestError(
                f"{MOST} jobs wait to be read already",
                status=503, code="too_many_jobs", details={"retry_after": oldest + AGE - self._clock()},
            )  # fmt: skip
        self._waiting[id] = (self._clock(), asked)
        return id

    def take(self, id: str) -> Asked:
        """A job that waits, for good. RequestError 404."""
        self._forget_old()
        if id not in self._waiting:
            raise RequestError("there is no such job, or it was read already", status=404, code="not_found")
        return self._waiting.pop(id)[1]

    def _forget_old(self) -> None:
        end = self._clock() - AGE
        for id, (came, _) in list(self._waiting.items()):
            if came > end:
                break
            del self._waiting[id]
