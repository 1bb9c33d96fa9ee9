"""What the tests of the fleet share: a host and an operator, and the packages of hosts, fetched once for all runs."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmctl.environments import locks, wheelhouse
from llmctl.errors import DeployFailed
from llmctl.fleet.facts import Facts
from tests.environments.conftest import PYTHON, WHEELS, facts_here
from tests.fleet import deploying, reaching
from tests.testbed.sshd import SshHost, ssh_hosts


def fetched(facts: Facts, python: tuple[int, int, int], engines: list[str], tools: list[str]) -> list[Path]:
    """The wheels that such a host needs; the test is skipped where they were never fetched and no index answers."""
    wanted = [*locks.wanted(engines, facts), *map(locks.tool, tools)]
    try:
        return wheelhouse.collect(wanted, python, facts, WHEELS)
    except DeployFailed as error:
        pytest.skip(f"needs the package index once: {error}")


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder where they are kept: those of the base environment, and uv and pip."""
    fetched(facts_here(), PYTHON, [], ["uv", "pip"])
    return WHEELS


@pytest.fixture(scope="session")
def debian_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse for the test hosts (Debian 12, Python 3.11): base, llamacpp and uv."""
    facts = Facts("linux", "12", platform.machine(), "glibc 2.36", "", 2, 0, 0, "op", 1000, "/home/op")
    folder = tmp_path_factory.mktemp("debian-packages")
    wheelhouse.fill(folder, fetched(facts, (3, 11, 2), ["llamacpp"], ["uv"]))
    return folder


@pytest.fixture(scope="module")
def bare(packages: Path) -> Iterator[deploying.Operator]:
    """An operator with one host, which starts bare."""
    with tempfile.TemporaryDirectory(prefix="dep-") as folder, ssh_hosts(Path(folder) / "hosts", ["h1"]) as hosts:
        made = deploying.Operator(Path(folder) / "op", hosts, {"h1": deploying.new_ports()})
        made.set_up()
        yield made


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    """A host on loopback."""
    with ssh_hosts(tmp_path_factory.mktemp("ssh"), ["h1"]) as hosts:
        yield hosts[0]


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[reaching.Operator]:
    """An operator with a configuration, keys and an agent of their own."""
    with reaching.operator(tmp_path, monkeypatch) as someone:
        yield someone
