"""How many bytes of images a slot server holds: for one request, and for all that no engine has accepted yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmctl.errors import RequestError

REQUEST_BYTES = 64 * 2**20  # must fit into one of runner.frames
ALL_BYTES = 256 * 2**20

Take = Callable[[str, int], None]
"""take(at, bytes): called before that many more are kept; RequestError when there is no room."""


class Room:
    """The bytes that are held. Used from the event loop's thread only."""

    def __init__(self, most: int = ALL_BYTES, each: int = REQUEST_BYTES) -> None:
        self.most, self.each, self.bytes = most, each, 0

    @contextmanager
    def share(self) -> Iterator[Take]:
        """What one request takes; given back at the end."""
        mine = 0

        def take(at: str, size: int) -> None:
            nonlocal mine
            if mine + size > self.each:
                raise RequestError(
                    f"{at}: the images of one request are larger than {self.each} bytes together",
                    param=at, code="image_too_large",
                )  # fmt: skip
            if self.bytes + size > self.most:
                raise RequestError(
                    f"images of more than {self.most >> 20} MiB together wait for the engine",
                    status=503, code="too_many_images", details={"retry_after": 1},
                )  # fmt: skip
            mine += size
            self.bytes += size

        try:
            yield take
        finally:
            self.bytes -= mine


def too_large(at: str, most: int) -> RequestError:
    """The refusal of a file that is longer than the policy allows."""
    return RequestError(f"{at}: the file is larger than {most} bytes", param=at, code="image_too_large")
