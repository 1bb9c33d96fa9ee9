"""The whole fleet in one story: three bare hosts, deployed, swapped under load, unplugged, deployed again, rebooted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO, eventually
from tests.fleet.operator import Operator, bring_models, green
from tests.testbed.machines import Machine, Testbed, machines

pytestmark = [pytest.mark.root, pytest.mark.models, pytest.mark.slow]


@pytest.fixture
def testbed() -> Iterator[Testbed]:
    """Three hosts to deploy to, and a fourth where the clients are."""
    with machines(4) as found:
        yield found


def test_three_bare_hosts_are_deployed_swapped_unplugged_and_rebooted(
    testbed: Testbed, tmp_path: Path, debian_packages: Path, tiny_models: dict[str, Path]
) -> None:
    h1, h2, h3, client = testbed.machines
    operator = Operator(testbed, tmp_path, (h1, h2, h3), debian_packages)
    for host in (h1, h2, h3):
        bring_models(host, tiny_models)
        operator.says("hosts", "trust", host.name)
    all_green = green(h1, h2, h3)

    operator.says(*operator.deploy())
    assert operator.slots() == all_green
    assert "A port" in operator.asks(h2, 8101)

    pids = operator.pids()
    assert not any(host["changed"] for host in operator.says(*operator.deploy())["hosts"])
    assert operator.pids() == pids

    under_load(operator, client, h2, operator.argv("swap", "h2:8101", "tiny-llama"))
    assert operator.slots()["h2:8101"] == "ready tiny-llama"
    operator.says("swap", "h2:8101", "tiny-qwen2")

    operator.install("9.9.9")
    deploy = operator.start(*operator.deploy())
    releases = h3.path("/home/op/.llmctl/releases")
    eventually(lambda: deploy.poll() is not None or any("9.9.9" in path.name for path in releases.iterdir()))
    h3.crash()
    out, err = deploy.communicate(timeout=300)
    assert deploy.returncode == 3, f"{out}\n{err[-3000:]}"
    assert operator.slots(code=3) == green(h1, h2)
    assert operator.hosts(code=3) == {"h1": "ok 9.9.9", "h2": "ok 9.9.9", "h3": "unknown None"}

    h3.boot()
    operator.says(*operator.deploy())
    assert operator.slots() == all_green
    assert operator.hosts() == dict.fromkeys(("h1", "h2", "h3"), "ok 9.9.9")

    h1.reboot()
    assert eventually(lambda: operator.ran("--json", "status").returncode == 0 and operator.slots() == all_green)
    assert "A port" in operator.asks(h1, 8101)


def under_load(operator: Operator, client: Machine, host: Machine, command: list[str]) -> None:
    """Run a command of the operator's while clients in a namespace of their own ask port 8101 of `host`."""
    load = ["scripts/load_clients.py", "8101", "--address", host.address, "--clients", "8"]
    load += ["--key", operator.key(host), "--", *operator.testbed.control, *command]
    env = {**os.environ, **operator.env, "PYTHONPATH": str(operator.code)}
    ran = subprocess.run(
        ["ip", "netns", "exec", client.netns, sys.executable, REPO / load[0], *load[1:]],
        capture_output=True, text=True, timeout=300, cwd=operator.folder, env=env,
    )  # fmt: skip
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr[-3000:]}"
    assert re.search(r"served [1-9]\d* · failed 0 ", ran.stdout), ran.stdout
