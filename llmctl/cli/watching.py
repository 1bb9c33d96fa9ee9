"""The watch over hosts of one command line: here in a thread, elsewhere by `llmctl host watch` over ssh."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from threading import Event
from typing import Any

from llmctl import __version__
from llmctl.cli.reach import Reach
from llmctl.config import Host
from llmctl.errors import LlmctlError, Unreachable
from llmctl.fleet import call
from llmctl.fleet.transport import Ran
from llmctl.watch.fleet import Watch
from llmctl.watch.host import looks

EVERY = 2.0


def watch(reach: Reach, hosts: Sequence[Host], every: float = EVERY) -> Watch:
    """The watch over `hosts`, not yet started. Close it before the Reach, whose connections it keeps and uses."""
    known = {host.name: host for host in hosts}

    def follow(name: str, over: Event) -> Iterator[Any]:
        host = known[name]
        if host.transport == "local":
            return looks(reach.session.home, name, every, over.wait)
        return _far(reach, host, every)

    return Watch(list(known), follow, every)


def _far(reach: Reach, host: Host, every: float) -> Iterator[Any]:
    """The looks of an ssh host; raises why they end."""
    said: list[str] = []
    argv = call.argv(host.name, ["host", "watch", f"--every={every:g}"], any_version=True)
    try:
        code = yield from _looks(host.name, reach.transport(host).stream(argv, on_err=said.append))
    except Unreachable:
        reach.drop(host)
        raise
    error = call.no_answer(host.name, Ran(code, "", "".join(said)))
    if log := error.details.get("log"):
        error.message += f": {log[-1]}"
    raise error


def _looks(host: str, stream: Generator[str, None, int]) -> Generator[Any, None, int]:
    """What of the lines are looks: a login shell may say something too, and an error comes as an envelope."""
    while True:
        try:
            line = next(stream)
        except StopIteration as end:
            return int(end.value)
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and "exit_code" in found:
            reply = call.read(line)
            raise call.skew(host, reply.version) if reply.version != __version__ else (*reply.errors, _ended(host))[0]
        yield found


def _ended(host: str) -> LlmctlError:
    return LlmctlError(f"llmctl on {host} stopped telling", hint=f"llmctl status --host {host}")
