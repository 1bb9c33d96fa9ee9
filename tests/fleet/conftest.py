"""What the tests of the fleet share: the packages of a host like this machine, fetched once for all runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmctl.environments import locks, wheelhouse
from llmctl.errors import DeployFailed
from tests.environments.conftest import PYTHON, WHEELS, facts_here


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
