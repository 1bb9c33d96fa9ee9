"""One host with real systemd on its bad days: cut off, on a slow line, without room, without Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.fleet.operator import Operator, bring_models, green
from tests.testbed.machines import Machine, Testbed, machines

pytestmark = [pytest.mark.root, pytest.mark.models, pytest.mark.slow]


@pytest.fixture(scope="module")
def testbed() -> Iterator[Testbed]:
    with machines(2) as found:
        yield found


@pytest.fixture(scope="module")
def operator(
    testbed: Testbed, tmp_path_factory: pytest.TempPathFactory, debian_packages: Path, tiny_models: dict[str, Path]
) -> Operator:
    """Its h1 is deployed and green, its h2 is bare."""
    operator = Operator(testbed, tmp_path_factory.mktemp("operator"), testbed.machines, debian_packages)
    for host in testbed.machines:
        bring_models(host, tiny_models)
        operator.says("hosts", "trust", host.name)
    operator.says(*operator.deploy("h1"))
    return operator


@pytest.fixture
def h1(testbed: Testbed) -> Iterator[Machine]:
    yield testbed.machines[0]
    testbed.machines[0].heal()
    testbed.machines[0].rate(None)


@pytest.fixture
def h2(testbed: Testbed) -> Machine:
    return testbed.machines[1]


@pytest.mark.parametrize("how", ["drop", "reset", "unplug"])
def test_f09_a_host_that_is_cut_off_is_unknown_and_its_slots_stay_as_they_are(
    operator: Operator, h1: Machine, how: str
) -> None:
    before = h1.sh("pgrep -f '[l]lmctl.runner' | sort")
    h1.cut(how)
    data = operator.says("status", "--host", "h1", code=4)
    assert [(host["host"], host["state"]) for host in data["hosts"]] == [("h1", "unknown")]
    assert "down" not in str(data)
    assert operator.fails("swap", "h1:8101", "tiny-llama", code=4) == ["unreachable"]
    h1.heal()
    assert eventually(lambda: operator.ran("status", "--host", "h1").returncode == 0)
    assert operator.says("status", "--host", "h1")["slots"][0]["state"] == "ready"
    assert h1.sh("pgrep -f '[l]lmctl.runner' | sort") == before


def test_a_slow_line_is_slow_and_nothing_else(operator: Operator, h1: Machine) -> None:
    h1.rate("1mbit")
    assert operator.says("status", "--host", "h1")["slots"][0]["state"] == "ready"
    assert operator.says(*operator.deploy("h1"))["hosts"][0]["changed"] == []
    assert operator.says("logs", "h1:8101")["lines"]


def test_a_host_without_room_is_told_how_much_it_needs_and_stays_bare(operator: Operator, h2: Machine) -> None:
    h2.disk(5)
    (error,) = operator.envelope(*operator.deploy("h2"), code=1)["errors"]
    assert error["code"] == "no_space"
    assert "MB" in error["message"]
    assert not h2.sh("ls /home/op/.llmctl/releases /home/op/.llmctl/envs 2>/dev/null || true")
    h2.disk(None)


def test_a_host_without_python_is_told_what_to_install(operator: Operator, h2: Machine) -> None:
    h2.sh("mkdir /away && mv /usr/bin/python3* /away")
    try:
        (error,) = operator.envelope(*operator.deploy("h2"), code=1)["errors"]
    finally:
        h2.sh("mv /away/* /usr/bin && rmdir /away")
    assert error["code"] == "no_python"
    assert "python3-venv" in error["hint"]


def test_the_bare_host_is_deployed_after_all_as_units_of_the_system(
    operator: Operator, h1: Machine, h2: Machine
) -> None:
    (host,) = operator.says(*operator.deploy("h2", "--system"))["hosts"]
    assert host["status"] == "deployed"
    assert {k: v for k, v in operator.slots().items() if k.startswith("h2")} == green(h2)
    assert h2.sh("systemctl show -p User --value llmctl-op@8101") == "op"
    h2.reboot()
    assert eventually(lambda: operator.ran("status").returncode == 0 and operator.slots() == green(h1, h2))


def test_removing_it_leaves_models_and_keys_only(operator: Operator, h2: Machine) -> None:
    operator.says("deploy", "h2", "--remove")
    left = h2.sh("ls -A /home/op/.llmctl").split()
    assert "keys.json" in left
    assert not {"bin", "releases", "current", "envs", "wheelhouse"} & set(left)
    assert h2.sh("pgrep -f '[l]lmctl.runner' || true") == ""
    assert h2.sh("ls /srv/models").split() == ["tiny-llama.gguf", "tiny-qwen2.gguf"]
    assert operator.fails("models", "list", "--host", "h2") == ["not_deployed"]
