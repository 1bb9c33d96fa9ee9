"""The gateway over hosts with an ssh, a systemd and a network of their own: clients do not see what becomes of them.

h1 is reached through ssh, h2 directly.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llmctl.gateway import hosts
from tests.conftest import eventually
from tests.gateway.fleet import Fleet

pytestmark = [pytest.mark.root, pytest.mark.slow]
LOGINS = "ss -tnH state established '( sport = :22 )' | wc -l"
SESSION = "ss -tnpH state established '( sport = :22 )' | grep -o 'pid=[0-9]*' | cut -d= -f2"


def test_slots_on_a_loopback_are_reached_through_one_ssh_connection(fleet: Fleet) -> None:
    with fleet.asked("single", "twins", clients=8) as asked:
        asked.some_more(100)
        assert fleet.machines[0].sh(LOGINS) == "1"
    assert not asked.failed and set(asked.models) == {"beta", "alpha"}
    eventually(lambda: fleet.well("h1:8101", "h2:8101", "h1:8102"))


def test_an_ssh_connection_that_ends_is_opened_again_and_costs_no_request(fleet: Fleet) -> None:
    h1 = fleet.machines[0]
    with fleet.asked("twins") as asked:
        asked.some_more()
        h1.sh(f"kill -9 $({SESSION})")
        asked.some_more()
        eventually(lambda: fleet.well("h1:8101", "h1:8102"))
        assert h1.sh(LOGINS) == "1"
    assert not asked.failed
    with fleet.asked("single") as asked:
        asked.some_more()
    assert not asked.failed


@pytest.mark.parametrize("away", ["h1", "h2"])
def test_f9_requests_leave_a_host_that_is_cut_off_and_come_back_to_it(fleet: Fleet, away: str) -> None:
    machine = next(one for one in fleet.machines if one.name == away)
    with fleet.asked("twins") as asked:
        asked.some_more()
        machine.cut()
        try:
            eventually(lambda: fleet.replicas()[f"{away}:8101"]["resting"])
            asked.some_more()
        finally:
            machine.heal()
        eventually(lambda: fleet.well("h1:8101", "h2:8101", "h1:8102"))
    assert not asked.failed


def test_the_keys_of_hosts_are_kept_to_the_gateway_and_follow_a_rotation(fleet: Fleet) -> None:
    file = hosts.path(fleet.home)
    before = hosts.read(fleet.home)["keys"]["h2"]
    assert file.stat().st_mode & 0o077 == 0 and file.parent.stat().st_mode & 0o077 == 0
    with fleet.asked("twins") as asked:
        asked.some_more()
        fleet.says("keys rotate --host h2")
        fleet.says("handles sync")
        key = hosts.read(fleet.home)["keys"]["h2"]
        assert key != before
        so_far = len(fleet.requests())
        eventually(lambda: '"replica": "h2:8101"' in fleet.requests()[so_far:])
    assert not asked.failed
    secret = [path for path in fleet.home.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert secret == [file]
    argv = b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    assert key not in str(fleet.status()) and key.encode() not in argv
