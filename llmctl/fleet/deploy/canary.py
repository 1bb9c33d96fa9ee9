"""Many hosts, one after the other and then at once: the first proves a deploy, and only then the others get it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from llmctl.config import Host
from llmctl.errors import DeployFailed
from llmctl.fleet import fanout
from llmctl.fleet.fanout import Outcome

T = TypeVar("T")
PARALLEL = 4


def first_then_others(hosts: Sequence[Host], work: Callable[[Host], T], parallel: int = PARALLEL) -> list[Outcome[T]]:
    """An outcome per host; when the first fails the others are not touched, and theirs says so."""
    canary = fanout.over(hosts[:1], work)
    if not canary or canary[0].error is None:
        return [*canary, *fanout.over(hosts[1:], work, parallel)]
    first = hosts[0].name
    return [*canary, *(Outcome(host, error=_untouched(host, first)) for host in hosts[1:])]


def _untouched(host: Host, first: str) -> DeployFailed:
    error = DeployFailed(
        f"not touched, because {first} failed", hint=f"mend {first}, or deploy without it: llmctl deploy {host.name}"
    )
    error.host = host.name
    return error
