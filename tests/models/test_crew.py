"""Work by several threads ends with all of it done, or with the first error."""

from __future__ import annotations

import threading
import time

import pytest

from llmctl.models.crew import Stopped, work_through


def test_every_item_is_worked_on_once_and_at_once() -> None:
    seen: list[int] = []
    together = threading.Barrier(3, timeout=10)  # passes only when three threads are at it

    def work(item: int) -> None:
        together.wait()
        seen.append(item)

    reports: list[int] = []
    work_through(range(9), work, 3, lambda: reports.append(1), threading.Event())
    assert sorted(seen) == list(range(9)) and reports


@pytest.mark.parametrize("kind", [ValueError, IndexError, KeyboardInterrupt])
def test_the_first_error_ends_the_others_and_is_raised(kind: type[BaseException]) -> None:
    stop, seen = threading.Event(), []

    def work(item: int) -> None:
        if item == 0:
            raise kind("broken")
        seen.append(item)
        if not stop.wait(10):
            raise AssertionError("was not told to stop")
        raise Stopped

    with pytest.raises(kind, match="broken"):
        work_through(range(50), work, 2, lambda: None, stop)
    assert len(seen) <= 1


def test_an_interrupted_caller_does_not_wait_for_a_thread_that_hangs() -> None:
    over = threading.Event()

    def report() -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work_through([1], lambda item: over.wait(30) and None, 1, report, threading.Event())
    assert time.monotonic() - began < 10
    over.set()
