"""The same work on many files by a few threads, while the caller's thread reports and may be interrupted."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
REPORT_EVERY = 0.2  # seconds


class Stopped(Exception):
    """Raised by work that saw `stop`: another file failed, or the caller gave up."""


def work_through(
    items: Sequence[T], work: Callable[[T], None], workers: int, report: Callable[[], None], stop: threading.Event
) -> None:
    """`work` on each item, in at most `workers` threads; the first error sets `stop` and is raised.

    The threads are daemons: an interrupted caller does not wait for one that is stuck in the network.
    """
    waiting, errors = deque(items), list[BaseException]()

    def labour() -> None:
        while not stop.is_set():
            try:
                item = waiting.popleft()
            except IndexError:
                return
            try:
                work(item)
            except BaseException as error:
                if not isinstance(error, Stopped):
                    errors.append(error)
                stop.set()

    threads = [threading.Thread(target=labour, daemon=True) for _ in range(min(workers, len(items)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(REPORT_EVERY)
                report()
    finally:
        stop.set()
    if errors:
        raise errors[0]
