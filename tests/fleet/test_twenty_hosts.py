"""Twenty light hosts in one table, some of which cannot be reached."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO
from tests.testbed.machines import Testbed, light_hosts

pytestmark = [pytest.mark.root, pytest.mark.slow]
COUNT = 20


@pytest.fixture
def testbed() -> Iterator[Testbed]:
    with light_hosts(COUNT) as found:
        for host in found.machines:
            host.bring_llmctl()
        yield found


def test_f09_status_tells_of_all_hosts_that_answer_and_names_those_that_do_not(
    testbed: Testbed, tmp_path: Path
) -> None:
    (tmp_path / "hosts.toml").write_text(testbed.hosts_toml())
    (tmp_path / "home").mkdir()
    shutil.copy(testbed.known_hosts, tmp_path / "home" / "known_hosts")
    env = {"LLMCTL_CONFIG": str(tmp_path), "LLMCTL_HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPO)}

    def states(code: int) -> dict[str, Any]:
        ran = testbed.run_in_control([sys.executable, "-m", "llmctl", "--json", "status"], env=env)
        assert ran.returncode == code, ran.stdout
        return {host["host"]: host["state"] for host in json.loads(ran.stdout)["data"]["hosts"]}

    everybody = {host.name: "ok" for host in testbed.machines}
    assert states(0) == everybody
    silent, refusing, bare = testbed.machines[3], testbed.machines[8], testbed.machines[15]
    silent.cut("drop")
    refusing.cut("reset")
    bare.sh("rm -r /home/op/.llmctl")
    assert states(3) == everybody | {silent.name: "unknown", refusing.name: "unknown", bare.name: "not deployed"}
