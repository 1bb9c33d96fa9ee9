"""Slots under the system's own systemd: hardened, as the deploying user, and by sudo only."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.testbed.machines import machines
from tests.units.conftest import HOME, Host, install

UNIT = "llmctl-op@8101.service"
EXPOSURE = 4.0


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A host with system units: alpha on 8101."""
    with machines(1) as bed:
        install(bed.machines[0], "systemd-system")
        host = Host(bed.machines[0])
        host.model("alpha")
        assert host.install_units("systemd-system") == "['llmctl-op@.service']"
        host.llmctl("load 8101 alpha")
        yield host


def test_the_unit_is_as_systemd_wants_it(host: Host) -> None:
    assert host.install_units("systemd-system") == "[]"
    ran = host.machine.ran(f"systemd-analyze verify {UNIT}")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_s11_system_units_are_hardened_and_not_root(host: Host) -> None:
    said = host.machine.sh(f"systemd-analyze security --no-pager {UNIT}")
    exposure = re.search(r"Overall exposure level for .*: ([\d.]+)", said)
    assert exposure and float(exposure[1]) <= EXPOSURE
    row = host.until(8101, "ready")
    assert host.machine.sh(f"ps -o user= -p {row['runner_pid']},{row['pid']}").split() == ["op", "op"]
    names = ("NoNewPrivileges", "Restart", "StartLimitBurst", "KillMode", "PrivateDevices", "MemoryDenyWriteExecute")
    assert host.show(UNIT, *names, user=False) == ["yes", "on-failure", "10", "mixed", "no", "no"]


def test_s11_the_exposure_of_user_units_is_known(host: Host) -> None:
    assert "llmctl@.service" in host.install_units("systemd")
    said = host.machine.sh("systemd-analyze --user security --no-pager llmctl@8101.service", "op")
    exposure = re.search(r"Overall exposure level for .*: ([\d.]+)", said)
    assert exposure and EXPOSURE < float(exposure[1]) < 7.0  # docs/units.md has the figure
    host.python("from llmctl import units\nunits.get('systemd').remove(home)")


def test_s09_a_unit_names_no_secret_and_its_files_are_private(host: Host) -> None:
    host.machine.sh(f"{HOME}/bin/llmctl keys show >/dev/null", "op")
    keys = re.findall(r'"([A-Za-z0-9_-]{16,})"', host.machine.path(f"{HOME}/keys.json").read_text())
    shown = host.machine.sh(
        f"systemctl cat {UNIT}; systemctl show {UNIT}; tr '\\0' ' ' </proc/*/cmdline 2>/dev/null; true"
    )
    assert keys and not any(key in shown for key in keys)
    row = host.until(8101, "ready")
    assert host.show(UNIT, "UMask", user=False) == ["0077"]
    made = host.machine.sh(f"stat -c %a {HOME}/slots/8101 {HOME}/slots/8101/engine.log {HOME}/slots/8101/control.sock")
    assert made.split() == ["700", "600", "600"] and row["pid"]


def test_f10_a_reboot_brings_it_back_before_any_login(host: Host) -> None:
    host.machine.reboot()
    row = host.until(8101, "ready")
    assert host.show(UNIT, "MainPID", user=False) == [str(row["runner_pid"])]
    assert host.machine.sh("ls /var/lib/systemd/linger 2>/dev/null; true") == "op"


def test_without_sudo_the_command_to_type_is_told_and_all_goes_on(host: Host) -> None:
    host.machine.sh("mv /etc/sudoers.d/op /root/op")
    try:
        failed = host.llmctl("load 8102 alpha", code=1)
        assert failed["errors"][0]["code"] == "refused"
        assert "sudo systemctl" in failed["errors"][0]["message"] and "type it there" in failed["errors"][0]["hint"]
        host.llmctl("ask 8101 hello")
        stopped = host.llmctl("unload 8101 --stop-server", code=1)
        assert "sudo systemctl disable" in stopped["errors"][0]["message"]
    finally:
        host.machine.sh("mv /root/op /etc/sudoers.d/op")
    assert host.llmctl("restart 8101", code=None)


def test_s05_slot_servers_of_root_are_refused(host: Host) -> None:
    said = host.python(
        "from llmctl import errors, units\ntry:\n    units.get('systemd-system').install(Path('/root/.llmctl'))\n"
        "except errors.Refused as error:\n    print(error.message, error.hint)",
        "root",
    )
    assert "do not run as root" in said and "hosts.toml" in said
    assert "llmctl-root@" not in host.machine.sh("ls /etc/systemd/system")


def test_remove_leaves_no_file(host: Host) -> None:
    host.python("from llmctl import units\nunits.get('systemd-system').remove(home)")
    assert host.machine.sh("find /etc/systemd/system -name 'llmctl*'") == "" and not host.answers(8101)
