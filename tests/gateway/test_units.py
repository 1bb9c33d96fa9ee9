"""The gateway as a unit of a host's systemd: killed, rebooted, moved there under traffic, and in another release."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import eventually
from tests.gateway.fleet import PORT, Fleet
from tests.units.conftest import HOME, Host, add_release, use

pytestmark = [pytest.mark.root, pytest.mark.slow]
UNIT = f"llmctl@{PORT}.service"


@pytest.fixture(scope="module")
def host(fleet: Fleet) -> Iterator[Host]:
    """h1, with a gateway of its own over its own slots."""
    host = Host(fleet.machines[0])
    host.llmctl(f"gateway up --port {PORT}")
    yield host
    host.llmctl(f"gateway down --port {PORT}")


def served(host: Host) -> dict[str, Any]:
    """The row of the gateway once it serves."""
    return host.until(PORT, "ready")


def test_it_is_a_unit_that_comes_back_when_it_is_killed(host: Host) -> None:
    before = served(host)["runner_pid"]
    assert host.show(UNIT, "MainPID", "ActiveState") == [str(before), "active"]
    host.machine.sh(f"kill -9 {before}")
    eventually(lambda: host.slot(PORT)["runner_pid"] not in (None, before), every=0.2)
    assert served(host)["handles"] and host.machine.sh(f"curl -sf http://127.0.0.1:{PORT}/v1/models")


def test_another_release_takes_it_over_without_losing_a_request(fleet: Fleet, host: Host) -> None:
    before = served(host)["runner_pid"]
    add_release(host.machine, "two")
    with fleet.asked("alpha", "beta", beside=host.machine) as asked:
        use(host.machine, "two")
        asked.some_more()
        host.llmctl(f"restart {PORT} --reexec")
        assert host.ping(PORT)["code"] == f"{HOME}/releases/two/lib"
        asked.some_more()
    assert not asked.failed and served(host)["runner_pid"] == before
    assert host.show(UNIT, "MainPID", "ActiveState") == [str(before), "active"]


def test_it_moves_from_one_service_manager_to_another_without_losing_a_request(fleet: Fleet, host: Host) -> None:
    settings = host.machine.path(f"{HOME}/config/hosts.toml")
    text = settings.read_text()
    with fleet.asked("alpha", "beta", beside=host.machine) as asked:
        for service in ("none", "systemd"):
            settings.write_text(text.replace('service = "systemd"', f'service = "{service}"'))
            asked.some_more()
            before = served(host)["runner_pid"]
            host.llmctl(f"restart {PORT} --reexec")
            now = served(host)["runner_pid"]
            assert now != before and host.ping(PORT)["service"] == service
            asked.some_more()
    assert not asked.failed
    assert host.show(UNIT, "MainPID", "ActiveState") == [str(now), "active"]


def test_f10_a_reboot_brings_it_back_and_down_is_for_good(host: Host) -> None:
    host.machine.reboot()
    assert served(host)["handles"]
    host.llmctl(f"gateway down --port {PORT}")
    host.machine.reboot()
    assert host.until(8101, "ready") and not host.answers(PORT)
    host.llmctl(f"gateway up --port {PORT}")
    assert served(host)["handles"]
