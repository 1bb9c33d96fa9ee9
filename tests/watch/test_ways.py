"""The watch over a real host by ssh and over this machine: what it tells, what a cut does, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmctl.cli import watching
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.watch.fleet import Watch
from llmctl.watch.view import NOT_DEPLOYED, OK, UNKNOWN, HostView
from tests.conftest import RunningSlot, eventually
from tests.test_imports import HEAVIER, HEAVY, modules
from tests.testbed.cutting_proxy import CuttingProxy
from tests.testbed.sshd import SshHost, needs_sshd, running, ssh_hosts

pytestmark = needs_sshd
EVERY = 0.2


@pytest.fixture(scope="module")
def machine() -> Iterator[SshHost]:
    with tempfile.TemporaryDirectory(prefix="watch-") as folder, ssh_hosts(Path(folder), ["gpu1"]) as (host,):
        host.install()
        yield host


@pytest.fixture
def proxy(machine: SshHost) -> Iterator[CuttingProxy]:
    with CuttingProxy(machine.port) as found:
        yield found


@pytest.fixture
def watch(machine: SshHost, proxy: CuttingProxy, home: Path, tmp_path: Path) -> Iterator[Watch]:
    """A watch over gpu1 (through the proxy) and over this machine, called here."""
    entry = machine.entry(ssh_port=str(proxy.port)) + "[hosts.here]\n"
    (tmp_path / "hosts.toml").write_text(entry)
    (home / "known_hosts").write_text(machine.known().replace(str(machine.port), str(proxy.port)))
    session = Session(config_dir=str(tmp_path))
    with Reach(session) as reach, watching.watch(reach, list(session.config.hosts.values()), EVERY) as found:
        yield found


def until(watch: Watch, host: str, true: Callable[[HostView], object]) -> HostView:
    """The host as soon as that is true of it."""
    end, found = time.monotonic() + 60, watch.snapshot()
    while not true(found.hosts[host]):
        assert time.monotonic() < end, found.hosts[host]
        found = watch.wait(found.number, 1.0)
    return found.hosts[host]


def watchers() -> list[int]:
    """The processes that run `host watch`."""
    return running(
        lambda words: b"watch" in words and b"--as-host=gpu1" in words and not words[0].endswith((b"sh", b"timeout"))
    )


def test_both_ways_tell_the_same(watch: Watch, scripted_slot: RunningSlot) -> None:
    here = until(watch, "here", lambda view: view.slots and view.slots[0]["state"] == "ready")
    assert (here.state, here.slots[0]["model"], here.slots[0]["host"]) == (OK, "alpha", "here")
    far = until(watch, "gpu1", lambda view: view.state == OK)
    assert far.slots == () and far.version == here.version
    for view in (here, far):
        assert view.memory and 0 < view.memory["free"] <= view.memory["total"]
        assert view.disk and 0 < view.disk["free"] <= view.disk["total"]
        assert view.age(view.clock - 5, view.at + 1) == pytest.approx(6)
    os.kill(scripted_slot.server_pid() or 0, signal.SIGKILL)
    gone = until(watch, "here", lambda view: view.slots[0]["state"] not in ("ready", "starting"))
    assert gone.slots[0]["state"] == "down" and "restart" in gone.slots[0]["why"]


def test_f9_a_cut_is_unknown_and_heals_and_no_orphan_stays(watch: Watch, proxy: CuttingProxy) -> None:
    until(watch, "gpu1", lambda view: view.state == OK)
    (first,) = eventually(watchers)
    proxy.cut()
    lost = until(watch, "gpu1", lambda view: view.state == UNKNOWN)
    assert lost.why and lost.hint
    until(watch, "gpu1", lambda view: view.state == OK)
    eventually(lambda: watchers() and first not in watchers())
    assert watch.snapshot().hosts["here"].state == OK


def test_a_host_without_llmctl_says_what_to_type(watch: Watch, machine: SshHost, proxy: CuttingProxy) -> None:
    folder = machine.home / ".llmctl" / "bin"
    until(watch, "gpu1", lambda view: view.state == OK)
    folder.rename(folder.with_name("away"))
    try:
        proxy.cut()
        found = until(watch, "gpu1", lambda view: view.state == NOT_DEPLOYED)
        assert found.hint == "llmctl deploy gpu1"
    finally:
        folder.with_name("away").rename(folder)
    watch.retry("gpu1")
    until(watch, "gpu1", lambda view: view.state == OK)


def test_it_ends_when_nobody_reads(home: Path) -> None:
    argv = [sys.executable, "-m", "llmctl", "--json", "--as-host=h", "host", "watch", "--every=9"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout and watching.stderr
        assert json.loads(watching.stdout.readline())["slots"] == []
        watching.stdout.close()
        assert watching.wait(5) == 0, "it waits for its next line to learn that nobody reads"
        assert watching.stderr.read() == b""


def test_hosts_start_it_light(home: Path) -> None:
    code = (
        "import threading, os, sys; from llmctl.__main__ import main; r, w = os.pipe(); os.dup2(w, 1); os.close(w);"
        "threading.Timer(0.3, os.close, [r]).start(); main(['--json', '--as-host=h', 'host', 'watch', '--every=0.1'])"
    )
    found = modules(code)
    assert "llmctl.watch.host" in found
    assert found.isdisjoint({*HEAVY, *HEAVIER, "asyncio", "llmctl.config", "llmctl.fleet", "llmctl.render", "sqlite3"})
