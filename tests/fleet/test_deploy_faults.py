"""Deploys that are killed, paused, crowded or short of room: what serves goes on, and a rerun converges."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.environments.conftest import make_wheel
from tests.fleet.deploying import (
    PATCH,
    SILENCE,
    Operator,
    assert_serving,
    audit,
    current,
    finish,
    other,
    slots,
    state,
    tree,
)
from tests.testbed.sshd import SshHost, needs_sshd

pytestmark = needs_sshd
root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount")


@pytest.fixture(scope="module")
def operator(bare: Operator) -> Operator:
    """Its host serves the slots of the profile."""
    assert bare.deploy().code == 0
    return bare


KILLED = f"""
import os, signal, threading
{PATCH}.silence = {SILENCE}
real = HostSide.step
def step(self, name, /, **request):
    if name == "{{step}}":
        threading.Timer({{after}}, os.kill, (os.getpid(), signal.{{how}})).start()
    return real(self, name, **request)
HostSide.step = step
"""
AFTER = {"environment": 0.5, "slots": 0.3}
STEPS = ("begin", "wheels", "environment", "release", "activate", "slots", "finish")


@pytest.mark.parametrize("step", STEPS)
def test_f05_killed_at_any_step_the_next_run_takes_over_and_names_who_was_lost(operator: Operator, step: str) -> None:
    host, code = operator.hosts[0], other(operator)
    if step in ("wheels", "environment"):
        for marker in (state(host) / "envs").glob("base-*/.llmctl-complete"):
            marker.unlink()
        next((state(host) / "wheelhouse").glob("rich-*")).unlink()
    killed = operator.deploy(code=code, before=KILLED.format(step=step, after=AFTER.get(step, 0.03), how="SIGKILL"))
    assert killed.code == -signal.SIGKILL, killed
    assert_serving(operator)
    again = operator.deploy("--lock-wait", "60", code=code)
    assert (again.code, again.host["status"]) == (0, "deployed") or step == "finish", again
    if step not in ("begin", "finish"):
        assert "took over from" in again.err and "fell silent" in again.err
        assert [entry["what"] for entry in audit(host)][-2:] == ["took over", "deploy"]
    assert current(host) == operator.release(code)
    assert {slot.state for slot in slots(host).values()} == {"ready"}
    assert not [name for name in tree(host) if "staging" in name or "deploy-undo" in name]


def test_c05_a_deploy_that_was_paused_writes_nothing_once_another_took_over(operator: Operator) -> None:
    host, mine = operator.hosts[0], other(operator)
    theirs = {"same": "engine", "next": "engine"}[mine]
    paused = operator.start(
        *operator.to("--message", "the slow one"),
        code=mine,
        before=KILLED.format(step="activate", after=0.0, how="SIGSTOP"),
    )
    eventually(lambda: Path(f"/proc/{paused.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    time.sleep(0.5)
    winner = operator.deploy("--lock-wait", "60", code=theirs)
    assert winner.code == 0 and "the slow one" in winner.err
    before = tree(host)
    os.kill(paused.pid, signal.SIGCONT)
    done = finish(paused)
    assert done.code != 0 and done.errors[0]["code"] in ("lost_lease", "unknown", "unreachable", "deploy_failed")
    assert tree(host) == before and current(host) == winner.host["release"]
    assert_serving(operator)


SLOW = f"""
import time
{PATCH}.silence = 24.0
real = HostSide.step
def step(self, name, /, **request):
    if name == "activate":
        time.sleep({{seconds}})
    return real(self, name, **request)
HostSide.step = step
"""


def test_of_two_operators_at_once_one_waits_and_the_other_is_told_who_it_is(operator: Operator) -> None:
    host = operator.hosts[0]
    assert operator.deploy("--lock-wait", "60").code == 0
    first = operator.start(*operator.to("--message", "the big one"), code="next", before=SLOW.format(seconds=6))
    try:
        eventually(lambda: "the big one" in (state(host) / "deploy.lock").read_text())
        loser = operator.deploy(code="engine")
        assert loser.code == 1 and loser.errors[0]["code"] == "busy"
        assert "the big one" in loser.errors[0]["message"] and "--lock-wait" in loser.errors[0]["hint"]
        waiter = operator.deploy("--lock-wait", "2m", code="engine")
        assert waiter.code == 0 and "waits for" in waiter.err and "the big one" in waiter.err
        assert finish(first).code == 0
    finally:
        first.kill()
        first.wait()
    assert current(host) == waiter.host["release"]


def test_f13_a_host_whose_clock_is_a_day_off_is_deployed_to(operator: Operator) -> None:
    """The clock of this process stands for it: what the two have in common is only that they differ."""
    day = "import time; real_time = time.time; time.time = lambda: real_time() + 86400"
    code = other(operator)
    assert operator.deploy(code=code, before=day).code == 0


def test_a_wheelhouse_for_another_machine_is_refused_before_anything_is_sent(
    operator: Operator, tmp_path: Path
) -> None:
    host = operator.hosts[0]
    for marker in (state(host) / "envs").glob("base-*/.llmctl-complete"):
        marker.unlink()
    make_wheel(tmp_path / "house", "pyyaml", "6.0.3", tag="cp311-cp311-manylinux_2_17_aarch64")
    before = tree(host)
    done = operator.deploy("--wheelhouse", tmp_path / "house")
    assert done.code == 1 and done.errors[0]["code"] == "refused" and "llmctl wheelhouse" in done.errors[0]["hint"]
    after = {name: text for name, text in tree(host).items() if "/incoming/" not in name}
    assert after == {name: text for name, text in before.items() if "/incoming/" not in name}
    assert operator.deploy().code == 0


@pytest.fixture
def small(operator: Operator) -> Iterator[SshHost]:
    """A bare host with a disk of 5 MB."""
    key = operator.hosts[0].client_key
    with tempfile.TemporaryDirectory(prefix="dep-") as folder:
        host = SshHost("small", Path(folder) / "small", key)
        host.home.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", host.home], check=True)
        try:
            yield host.start()
        finally:
            host.stop()
            subprocess.run(["umount", "-l", host.home], check=True)


def with_host(operator: Operator, host: SshHost, folder: Path) -> Operator:
    found = Operator(folder / "op", [host], {host.name: operator.ports["h1"]}, operator.codes)
    found.set_up()
    return found


@root
def test_f06_a_disk_of_5_mb_is_refused_with_numbers(operator: Operator, small: SshHost, tmp_path: Path) -> None:
    done = with_host(operator, small, tmp_path).deploy()
    assert done.code == 1 and done.errors[0]["code"] == "no_space", done
    assert done.data["needed"] > done.data["free"] and done.errors[0]["hint"]
    assert not (state(small) / "releases").exists() and current(small) is None


@root
def test_a_home_that_cannot_be_written_is_a_typed_error(operator: Operator, small: SshHost, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro,size=5m", small.home], check=True)
    done = with_host(operator, small, tmp_path).deploy()
    assert done.code == 1 and done.errors[0]["message"] and "internal" not in done.errors[0]["code"]
