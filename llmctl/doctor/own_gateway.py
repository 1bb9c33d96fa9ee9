"""The gateway of the operator's machine: that it runs, is no open door, and knows what the profiles say."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from llmctl import paths
from llmctl.doctor.rows import Row, fail, good, of_error, warn
from llmctl.domain import GATEWAY
from llmctl.errors import LlmctlError
from llmctl.gateway import callers, registry
from llmctl.gateway.derive import Problem
from llmctl.keys import is_loopback
from llmctl.render.text import counted
from llmctl.slots import status
from llmctl.slots.state import Desired, SlotFolder

CHECK, SYNC = "gateway", "llmctl handles sync"
NEEDS = "httptools"


def found(home: Path) -> dict[int, Desired]:
    """The ports of this machine that should be a gateway."""
    desired = {port: SlotFolder(home, port).read_desired() for port in paths.slot_ports(home)}
    return {port: one for port, one in desired.items() if one.spec and one.spec.engine.engine == GATEWAY}


def gateway(home: Path, gateways: Mapping[int, Desired], stale: Callable[[], Iterable[Problem]]) -> Iterator[Row]:
    """Its rows, one where all is well. `stale` tells what the gateway does not know as the profiles and slots have
    it."""
    rows = [*_needs(gateways), *_up(home, gateways), *_doors(home, gateways), *_knows(home, stale)]
    handles = len(registry.read(home).handles) if not rows else 0
    yield from rows or [good(CHECK, f"on {', '.join(map(str, gateways))}, {counted(handles, 'handle')}")]


def _needs(gateways: Mapping[int, Desired]) -> Iterator[Row]:
    if any(map(_ours, gateways.values())) and importlib.util.find_spec(NEEDS) is None:
        install = f"{shlex.quote(sys.executable)} -m pip install 'llmctl-fleet[server]'"
        yield fail(CHECK, f"{NEEDS} is not installed: the gateway does not start any more", install)


def _ours(desired: Desired) -> bool:
    """Not a LiteLLM, which has packages and keys of its own."""
    return desired.spec is not None and desired.spec.model == GATEWAY


def _up(home: Path, gateways: Iterable[int]) -> Iterator[Row]:
    for row in status.status(home, list(gateways)):
        if not row.runner_pid:
            yield fail(CHECK, f"{row.port} should be the gateway, and is {row.state}", f"llmctl restart {row.port}")


def _doors(home: Path, gateways: Mapping[int, Desired]) -> Iterator[Row]:
    """Beyond loopback everybody needs a key: without keys of their own, clients have that of all slots."""
    try:
        own = [one for one in callers.read(home).values() if one.revoked is None]
    except LlmctlError as error:
        yield of_error(CHECK, error, "llmctl gateway keys list")
        return
    for port, desired in gateways.items():
        bind = desired.launch.bind
        if _ours(desired) and not is_loopback(bind) and not own:
            why = f"{port} listens on {bind}, and no client has a key of its own: all use the one of the slots"
            yield warn(CHECK, why, "llmctl gateway keys add NAME")


def _knows(home: Path, stale: Callable[[], Iterable[Problem]]) -> Iterator[Row]:
    try:
        registry.read(home)
    except LlmctlError as error:
        yield fail(CHECK, error.message, SYNC)  # whatever is in it: it is made anew
        return
    try:
        problems = list(stale())
    except LlmctlError as error:
        yield of_error(CHECK, error, SYNC)
        return
    if problems:
        told = "; ".join(problem.what for problem in problems[:3])
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        yield warn(CHECK, f"it goes by what was before: {told}{more}", SYNC)
