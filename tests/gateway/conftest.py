"""What the tests of the gateway share: a real one, over slots that run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import SlotSpec
from llmctl.gateway import life, registry
from llmctl.gateway.registry import Handle, Registry, Replica
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, eventually, free_port
from tests.gateway.fleet import PORT, Fleet, end
from tests.testbed.machines import machines


@dataclass
class Fronted:
    """A slot, asked through a gateway: `port` is the gateway's, all else the slot's."""

    slot: RunningSlot
    gateway: RunningSlot

    @property
    def port(self) -> int:
        return self.gateway.port

    def __getattr__(self, name: str) -> Any:
        return getattr(self.slot, name)


def handle(name: str, *slots: RunningSlot, model: str = "alpha", names: tuple[str, ...] = (), **fields: Any) -> Handle:
    replicas = tuple(Replica("here", slot.port, model, "scripted", f"127.0.0.1:{slot.port}", names) for slot in slots)
    return Handle(name, replicas, **fields)


Start = Callable[..., RunningSlot]


@pytest.fixture
def gateway(home: Path) -> Iterator[Start]:
    """gateway(handle, …, launch=Launch(…)) → a running gateway with these handles, the first one the default."""
    running: list[RunningSlot] = []

    def start(*handles: Handle, launch: Launch | None = None) -> RunningSlot:
        registry.write(home, Registry({one.name: one for one in handles}, handles[0].name if handles else None))
        made = RunningSlot(home, free_port(), launch or Launch())
        life.up(home, made.port, made.launch)
        running.append(made)
        eventually(lambda: life.status(home, made.port)["handles"] == [one.name for one in handles])
        return made

    yield start
    for one in running:
        one.kill()


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Two hosts with all of the profile but what is on demand, and a running gateway over them."""
    with machines(2) as testbed, tempfile.TemporaryDirectory(prefix="llm-") as folder:
        made = Fleet(testbed, Path(folder))
        made.set_up()
        made.says("profile load fleet")
        made.says(f"gateway up --port {PORT}")
        try:
            yield made
        finally:
            end(made)


@pytest.fixture(params=["slot", "gateway"])
def served(request: pytest.FixtureRequest, slots: Callable[..., RunningSlot]) -> Callable[..., Any]:
    """served(spec, launch) → a running slot that was launched so; and one through a gateway that was."""

    def start(spec: SlotSpec, launch: Launch | None = None) -> Any:
        if request.param == "slot":
            return slots(spec, launch)
        slot, name = slots(spec), spec.engine.model
        return Fronted(slot, request.getfixturevalue("gateway")(handle(name, slot, model=name), launch=launch))

    return start
