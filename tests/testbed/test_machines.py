"""The test hosts are what they claim: real systemd, cut and crashed when told, and gone after a killed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import REPO
from tests.testbed import machines as testbeds
from tests.testbed.machines import Testbed, light_hosts, machines

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
LEAVE = """
import time
from tests.testbed.machines import light_hosts
with light_hosts(1) as bed:
    print(bed.name, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    with machines(2) as bed:
        yield bed


def test_they_run_systemd_and_reach_each_other(bed: Testbed) -> None:
    one, two = bed.machines
    assert one.sh("systemctl is-system-running") == "running"
    assert one.sh("hostname; id -un; sudo -n id -un", "op").split() == ["h1", "op", "root"]
    assert "SSH-2.0" in two.sh("bash -c 'head -1 </dev/tcp/h1/22'")
    assert one.sh("cat /etc/machine-id") != two.sh("cat /etc/machine-id")


def test_a_reboot_and_a_crash_are_new_boots_that_keep_the_disk(bed: Testbed) -> None:
    host = bed.machines[0]
    boots = [host.sh(BOOT_ID)]
    host.sh("echo kept >note", "op")
    host.reboot()
    boots.append(host.sh(BOOT_ID))
    host.crash()
    assert bed.run_in_control(["bash", "-c", f"</dev/tcp/{host.address}/22"], timeout=60).returncode
    host.boot()
    boots.append(host.sh(BOOT_ID))
    assert len(set(boots)) == 3
    assert host.sh("cat note", "op") == "kept"


def test_what_is_cut_heals(bed: Testbed) -> None:
    host = bed.machines[1]
    host.cut("reset")
    assert host.ran("true", "op").returncode == 255
    host.heal()
    host.cut()
    with pytest.raises(subprocess.TimeoutExpired):
        host.ran("true", "op", timeout=2)
    host.heal()
    host.sh("true", "op")


def test_a_small_disk_is_full_soon(bed: Testbed) -> None:
    host = bed.machines[1]
    host.disk(5)
    assert "No space left" in host.ran("head -c 9000000 /dev/zero >.llmctl/file", "op").stderr
    host.disk(None)
    assert host.sh("ls .llmctl", "op") == ""


def test_what_a_killed_run_left_is_swept() -> None:
    if not testbeds.base()[0]:
        pytest.skip(testbeds.base()[1])
    run = subprocess.Popen([sys.executable, "-c", LEAVE], cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert run.stdout
    with run.stdout as lines:
        name = lines.readline().strip()
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert any(line.startswith(name) for line in subprocess.check_output(["ip", "netns"], text=True).splitlines())
    with light_hosts(1) as bed:
        assert bed.machines[0].sh("id -un", "op") == "op"
        left = [*subprocess.check_output(["ip", "netns"], text=True).split(), *os.listdir(bed.group.parent)]
        assert not [line for line in left if line.startswith(name)]
