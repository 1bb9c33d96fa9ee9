"""The same work on many hosts at once, in a bounded pool; what becomes of one host does not touch the others."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from llmctl.config import Host
from llmctl.errors import LlmctlError, Unreachable

T = TypeVar("T")
MOST = 32
"""Hosts at once. One that does not answer holds its place for seconds, and a thread costs little."""
LOOK = 0.25


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of one host: a value or an error."""

    host: Host
    value: T | None = None
    error: LlmctlError | None = None


def over(hosts: Sequence[Host], work: Callable[[Host], T], most: int = MOST) -> list[Outcome[T]]:
    """One outcome per host, in their order; an error that llmctl knows is an outcome, any other is raised.

    An interrupt is raised at once: the threads end with the process, and nobody waits for what they wait for.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Outcome[T] | BaseException]] = queue.SimpleQueue()
    for at in range(len(hosts)):
        waiting.put(at)

    def worker() -> None:
        while True:
            try:
                at = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((at, _outcome(hosts[at], work)))
            except BaseException as error:
                done.put((at, error))

    for _ in range(min(most, len(hosts))):
        threading.Thread(target=worker, daemon=True).start()
    outcomes: dict[int, Outcome[T]] = {}
    while len(outcomes) < len(hosts):
        try:
            at, outcome = done.get(timeout=LOOK)  # a Ctrl-C just before waiting for ever would wait as long
        except queue.Empty:
            continue
        if isinstance(outcome, BaseException):
            raise outcome
        outcomes[at] = outcome
    return [outcomes[at] for at in range(len(hosts))]


def _outcome(host: Host, work: Callable[[Host], T]) -> Outcome[T]:
    try:
        return Outcome(host, work(host))
    except LlmctlError as error:
        error.host = error.host or host.name
        return Outcome(host, error=error)


def exit_code(outcomes: Sequence[Outcome[T]]) -> int:
    """0 all good · 3 some · 4 nothing reached · else the code of the first error."""
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if not errors:
        return 0
    if len(errors) < len(outcomes):
        return 3
    return Unreachable.exit_code if all(isinstance(e, Unreachable) for e in errors) else errors[0].exit_code
