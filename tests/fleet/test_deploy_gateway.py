"""A deploy to a host that has the gateway: like any slot server it goes on in the new release, under traffic."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from llmctl.gateway import life
from llmctl.slots import control
from llmctl.slots.state import SlotFolder
from tests.conftest import free_port
from tests.fleet.deploying import Operator, load_on, state
from tests.testbed.sshd import SshHost, needs_sshd

pytestmark = needs_sshd


@dataclass
class Gateway:
    """The gateway of a host."""

    host: SshHost
    port: int

    def types(self, *words: str) -> Any:
        """What llmctl answers whom types that on the host."""
        program = [state(self.host) / "bin" / "llmctl", "--json", "gateway", *words, "--port", str(self.port)]
        env = {"HOME": str(self.host.home), "PATH": "/usr/bin:/bin"}
        ran = subprocess.run(program, env=env, cwd=self.host.home, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return json.loads(ran.stdout)["data"]

    def pid_and_code(self) -> tuple[int, str]:
        said = control.call(SlotFolder(state(self.host), self.port).control, "ping")
        return said["pid"], said["code"]


@pytest.fixture(scope="module")
def gateway(bare: Operator) -> Iterator[Gateway]:
    assert bare.deploy().code == 0
    found = Gateway(bare.hosts[0], free_port())
    found.types("up")
    yield found
    found.types("down")


def test_a_new_release_reaches_the_gateway_under_traffic(bare: Operator, gateway: Gateway) -> None:
    pid, code = gateway.pid_and_code()
    with load_on(gateway.port) as load:
        done = bare.deploy(code="next")
    assert done.code == 0, done
    assert load.answered and not load.failed
    assert {row["port"]: row["did"] for row in done.host["slots"]}[gateway.port] == ["reexec"]
    now = gateway.pid_and_code()
    assert now[0] == pid and now[1] != code and str(done.host["release"]) in now[1]
    assert life.status(state(gateway.host), gateway.port)["handles"]
    again = bare.deploy(code="next")
    assert (again.code, again.host["status"], gateway.pid_and_code()) == (0, "unchanged", now)
