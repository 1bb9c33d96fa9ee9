"""Which slot has a job of a worker of rbee: the one that made it, and no other."""

from __future__ import annotations

import json
from urllib.parse import unquote

from llmctl.errors import RequestError

PATH = "/v1/jobs"
MOST = 4096
"""Jobs that are known, the latest; a slot keeps 256 for five minutes."""


class Jobs:
    """Of each key's jobs: the handle that was asked, and HOST:PORT of the slot."""

    def __init__(self) -> None:
        self._known: dict[tuple[str | None, str], tuple[str, str]] = {}

    def made(self, key: str | None, answer: bytes, handle: str, where: str) -> None:
        """A slot has answered a request for a job of `key`."""
        try:
            id = str(json.loads(answer)["job_id"])
        except (ValueError, KeyError, TypeError):
            return
        self._known.pop((key, id), None)
        self._known[key, id] = handle, where
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]

    def find(self, key: str | None, path: str) -> tuple[str, str]:
        """The handle and the slot of the job in a path; RequestError 404."""
        id = unquote(path.removeprefix(PATH + "/").partition("/")[0])
        if found := self._known.get((key, id)):
            return found
        message = "the gateway knows no such job of this key: it was not made here, or long ago, or before a restart"
        raise RequestError(message, status=404, code="not_found")
