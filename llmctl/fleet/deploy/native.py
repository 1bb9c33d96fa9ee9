"""The native llama.cpp of a host: what a deploy brings for it, and its start as a job when the deploy is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmctl.config import Host
from llmctl.environments import locks, wheelhouse
from llmctl.errors import LlmctlError
from llmctl.fleet.call import call
from llmctl.fleet.deploy.choice import Choice, Order
from llmctl.fleet.facts import Facts
from llmctl.fleet.transport import Transport
from llmctl.native import source

ENGINE = "llamacpp"
Note = Callable[[str], None]


def due(host: Host, choice: Choice, there: Mapping[str, Any]) -> bool:
    """Whether this deploy is to start a build: the host may, has a compiler, and none was tried for its CPU."""
    runs = any(engine.value == ENGINE for engine in choice.engines) and choice.backend.value == "cpu"
    return bool(host.native and runs and there.get("native", {}).get("due"))


def brought(there: Mapping[str, Any], choice: Choice, facts: Facts, order: Order, cache: Path) -> list[Path]:
    """The source, and the programs that build it where the host lacks them: out of the folder that was brought along,
    else fetched into `cache`. LlmctlError says why there is none."""
    paths = [] if there["native"]["archive"] else [archive(order, cache)]
    tools = [locks.tool(name) for name in there["native"]["programs"]]
    if tools and order.wheelhouse:
        paths += wheelhouse.carried(tools, choice.python.version, facts, order.wheelhouse)
    elif tools:
        paths += wheelhouse.collect(tools, choice.python.version, facts, cache)
    return paths


def archive(order: Order, cache: Path) -> Path:
    """The source distribution; from nowhere but the folder that was brought along, where there is one."""
    if not order.wheelhouse:
        return source.SOURCE.fetch(cache)
    path = order.wheelhouse / source.SOURCE.archive
    if not path.is_file():
        raise LlmctlError(f"{order.wheelhouse} has no {source.SOURCE.archive}")
    source.SOURCE.check(path)
    return path


def start(transport: Transport, note: Note) -> None:
    """Have the host build in the background; what serves meanwhile is the wheel. A host that cannot is no failure."""
    try:
        job = call(transport, ["native", "build", "--detach"], timeout=120.0).value()["detached"]
        note(f"builds llama.cpp for its CPU in the background (job {job['id']}); the wheel serves until then")
    except LlmctlError as error:
        note(skipped(error))


def skipped(error: LlmctlError) -> str:
    return f"no native build of llama.cpp, the wheel serves: {error.message}"
