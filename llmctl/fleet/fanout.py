"""The same work on many hosts at once, in a bounded pool; what becomes of one host does not touch the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from llmctl.config import Host
from llmctl.errors import LlmctlError, Unreachable

T = TypeVar("T")
MOST = 16


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of one host: a value or an error."""

    host: Host
    value: T | None = None
    error: LlmctlError | None = None


def over(hosts: Sequence[Host], work: Callable[[Host], T], most: int = MOST) -> list[Outcome[T]]:
    """One outcome per host, in their order; an error that llmctl knows is an outcome, any other is raised."""

    def one(host: Host) -> Outcome[T]:
        try:
            return Outcome(host, work(host))
        except LlmctlError as error:
            error.host = error.host or host.name
            return Outcome(host, error=error)

    with ThreadPoolExecutor(max(1, min(most, len(hosts)))) as pool:
        return list(pool.map(one, hosts))


def exit_code(outcomes: Sequence[Outcome[T]]) -> int:
    """0 all good · 3 some · 4 nothing reached · else the code of the first error."""
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if not errors:
        return 0
    if len(errors) < len(outcomes):
        return 3
    return Unreachable.exit_code if all(isinstance(e, Unreachable) for e in errors) else errors[0].exit_code
