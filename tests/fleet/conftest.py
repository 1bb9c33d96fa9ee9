"""What the tests of the fleet share: the packages of a host like this machine, fetched once for all runs."""

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
from tests.fleet.deploying import Operator, new_ports
from tests.testbed.sshd import ssh_hosts


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder where they are kept: those of the base environment, and uv and pip."""
    facts = facts_here()
    try:
        wanted = [*locks.wanted([], facts), locks.tool("uv"), locks.tool("pip")]
        wheelhouse.collect(wanted, PYTHON, facts, WHEELS)
    except DeployFailed as error:
        pytest.skip(f"needs the package index once: {error}")
    return WHEELS


@pytest.fixture(scope="session")
def debian_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse for the test hosts (Debian 12, Python 3.11): base, llamacpp and uv, fetched once for all runs."""
    facts = Facts("linux", "12", platform.machine(), "glibc 2.36", "", 2, 0, 0, "op", 1000, "/home/op")
    try:
        found = wheelhouse.collect([*locks.wanted(["llamacpp"], facts), locks.tool("uv")], (3, 11, 2), facts, WHEELS)
    except DeployFailed as error:
        pytest.skip(f"needs the package index once: {error}")
    folder = tmp_path_factory.mktemp("debian-packages")
    wheelhouse.fill(folder, found)
    return folder


@pytest.fixture(scope="module")
def bare(packages: Path) -> Iterator[Operator]:
    """An operator with one host, which starts bare."""
    with tempfile.TemporaryDirectory(prefix="dep-") as folder, ssh_hosts(Path(folder) / "hosts", ["h1"]) as hosts:
        made = Operator(Path(folder) / "op", hosts, {"h1": new_ports()})
        made.set_up()
        yield made
