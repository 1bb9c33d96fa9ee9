"""Deploys that are cut, killed, paused, crowded or short of room: what serves goes on, and a rerun converges."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmctl import catalog, config
from llmctl.environments import wheelhouse
from llmctl.errors import LlmctlError
from llmctl.fleet import opening
from llmctl.fleet.deploy import Kit, deploy
from llmctl.fleet.deploy_choice import Order
from llmctl.fleet.deploy_side import HostSide, Shipment
from llmctl.fleet.plan import assign
from llmctl.fleet.transport import Transport
from tests.conftest import eventually
from tests.environments.conftest import make_wheel
from tests.fleet.deploying import Operator, Result, audit, current, finish, load_on, new_ports, slots, state, tree
from tests.testbed.cutting_proxy import CuttingProxy
from tests.testbed.sshd import SshHost, needs_sshd, ssh_hosts

pytestmark = needs_sshd
root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount")
SILENCE = 2.0


@pytest.fixture(scope="module")
def operator(packages: Path) -> Iterator[Operator]:
    with tempfile.TemporaryDirectory(prefix="dep-") as folder, ssh_hosts(Path(folder) / "hosts", ["h1"]) as hosts:
        made = Operator(Path(folder) / "op", hosts, {"h1": new_ports()})
        made.set_up()
        assert made.deploy().code == 0
        yield made


def other(operator: Operator) -> str:
    """The one of two releases that is not in use; the host has it no more."""
    code = "next" if operator.release("same") == current(operator.hosts[0]) else "same"
    shutil.rmtree(state(operator.hosts[0]) / "releases" / operator.release(code), ignore_errors=True)
    return code


def assert_serving(operator: Operator) -> None:
    with load_on(operator.ports["h1"][0]) as load:
        eventually(lambda: load.answered or load.failed)
    assert not load.failed


# ── F4: the connection ──────────────────────────────────────────────────────────────────────────────────────────────


class CutAt:
    """A transport whose connection is cut a moment after its `number`-th call has begun."""

    def __init__(self, real: Transport, cut: Callable[[], None], number: int) -> None:
        self.real, self.cut, self.number = real, cut, number
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def run(self, argv: Any, **options: Any) -> Any:
        return self._counted(
            json.loads(options["stdin"])["step"] if "llmctl.host" in argv else argv[-1], "run", argv, options
        )

    def put(self, source: Any, target: str, **options: Any) -> Any:
        return self._counted("put", "put", source, {"target": target, **options})

    def _counted(self, title: str, method: str, first: Any, options: Any) -> Any:
        if title != "renew":  # comes when it comes
            self.calls.append(title)
            if len(self.calls) == self.number:
                threading.Timer(0.03, self.cut).start()
        return getattr(self.real, method)(first, **options)


def kit_of(operator: Operator, code: str, **more: Any) -> Kit:
    """What `llmctl deploy` of that release would use, for a deploy in this very process."""
    found, known, made = config.load(operator.folder), catalog.load(operator.folder), operator.wheel(code)
    profiles = [config.profile(found, known, "demo")]
    return Kit(
        config=found, catalog=known, home=operator.folder / "home", owner="ann@desk", order=Order(offline=True),
        shipment=Shipment(operator.release(code), "0.1.0", made, wheelhouse.sha256(made)),
        assignment=assign(found, profiles, list(found.hosts.values()), chosen=True, named=True), **more,
    )  # fmt: skip


def test_f04_cut_at_every_step_something_serves_and_a_rerun_converges(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = operator.hosts[0]
    monkeypatch.setattr(HostSide, "silence", SILENCE)
    monkeypatch.setenv("LLMCTL_HOME", str(operator.folder / "home"))
    kits = {code: kit_of(operator, code, lock_wait=60.0) for code in ("same", "next")}
    real, seen, finished = opening.connect, set(), False
    with CuttingProxy(host.port) as proxy:
        operator.trust(host.known().replace(str(host.port), str(proxy.port)))
        through = replace(next(iter(kits["same"].config.hosts.values())), ssh_port=proxy.port)
        for number in itertools.count(1):
            kit = kits[other(operator)]
            made: list[CutAt] = []
            with monkeypatch.context() as patch:
                patch.setattr(opening, "connect", partial(connect_to_cut, made, real, proxy.cut, number))
                try:
                    deploy(through, kit, lambda event: None)
                    finished = len(made[0].calls) < number
                except LlmctlError as error:
                    assert error.exit_code == 4, f"cut at {made[0].calls}: {error.message}"
                    seen.add(made[0].calls[number - 1])
            assert_serving(operator)
            if finished:
                break
            again = deploy(through, kit, lambda event: None)
            assert again.status in ("deployed", "unchanged"), f"after a cut at {made[0].calls}"
            assert current(host) == kit.shipment.release
            assert {slot.state for slot in slots(host).values()} == {"ready"}
    assert seen >= {"look", "put", "begin", "release", "activate", "slots", "finish"}
    assert not [name for name in tree(host) if "staging" in name or "/incoming/" in name]


def connect_to_cut(made: list[CutAt], real: Any, cut: Callable[[], None], number: int, *given: Any) -> CutAt:
    made.append(CutAt(real(*given), cut, number))
    return made[-1]


def test_f04_cut_after_any_number_of_bytes_nothing_is_torn(operator: Operator) -> None:
    """A whole deploy is counted first, then the same is cut after shares of that."""
    host = operator.hosts[0]
    with CuttingProxy(host.port) as whole:
        done = through_proxy(operator, whole, other(operator))
        assert done.code == 0, done
    size = whole.passed["up"]
    for share in (0.1, 0.35, 0.6, 0.85):
        code, before = other(operator), current(host)
        with CuttingProxy(host.port, after_bytes=int(size * share), direction="up", reset=share > 0.5) as proxy:
            done = through_proxy(operator, proxy, code)
        assert done.code == 4 and done.errors[0]["hint"], done
        assert current(host) in (before, operator.release(code))
        assert_serving(operator)
        again = operator.deploy("--lock-wait", "60", code=code)
        assert again.code == 0 and current(host) == operator.release(code), again


def through_proxy(operator: Operator, proxy: CuttingProxy, code: str) -> Result:
    host = operator.hosts[0]
    operator.trust(host.known().replace(str(host.port), str(proxy.port)))
    operator.configure(h1=proxy.port)
    try:
        return operator.deploy(code=code, before=f"{PATCH}.silence = {SILENCE}")
    finally:
        operator.configure()


# ── F5: the operator's end ──────────────────────────────────────────────────────────────────────────────────────────

PATCH = "from llmctl.fleet.deploy_side import HostSide; HostSide"
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
    assert not [name for name in tree(host) if "staging" in name or "undo" in name]


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


# ── others, and rooms ───────────────────────────────────────────────────────────────────────────────────────────────

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
    host, code = operator.hosts[0], other(operator)
    first = operator.start(*operator.to("--message", "the big one"), code=code, before=SLOW.format(seconds=6))
    eventually(
        lambda: (state(host) / "deploy.lock").exists() and "the big one" in (state(host) / "deploy.lock").read_text()
    )
    loser = operator.deploy(code="engine")
    assert loser.code == 1 and loser.errors[0]["code"] == "busy"
    assert "the big one" in loser.errors[0]["message"] and "--lock-wait" in loser.errors[0]["hint"]
    waiter = operator.deploy("--lock-wait", "2m", code="engine")
    assert waiter.code == 0 and "waits for" in waiter.err and "the big one" in waiter.err
    assert finish(first).code == 0
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


# ── the canary, hooks, secrets ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def three(packages: Path, operator: Operator) -> Iterator[Operator]:
    """Three bare hosts, of which nobody listens at the first."""
    with (
        tempfile.TemporaryDirectory(prefix="dep-") as folder,
        ssh_hosts(Path(folder) / "h", ["a1", "a2", "a3"]) as hosts,
    ):
        made = Operator(Path(folder) / "op", hosts, {host.name: new_ports() for host in hosts}, operator.codes)
        made.set_up()
        yield made


def test_the_first_host_proves_it_for_the_others(three: Operator) -> None:
    three.hosts[0].stop()
    done = three("deploy", "a*", "--offline")
    assert done.code != 0 and [error["host"] for error in done.errors] == ["a1", "a2", "a3"]
    assert all("not touched, because a1 failed" in error["message"] for error in done.errors[1:])
    assert all(tree(host) == {} for host in three.hosts)
    three.hosts[0].start()
    done = three("deploy", "a*", "--offline", "--parallel", "2")
    assert done.code == 0 and [row["status"] for row in done.data["hosts"]] == ["deployed"] * 3
    three.hosts[1].stop()
    done = three("deploy", "a*", "--offline")
    three.hosts[1].start()
    assert done.code == 3 and [row["host"] for row in done.data["hosts"]] == ["a1", "a3"]
    assert [error["host"] for error in done.errors] == ["a2"]


HOOK = """\
#!/bin/sh
echo "{name} $LLMCTL_HOST $LLMCTL_HOSTS $LLMCTL_VERSION $LLMCTL_STATUS" >>'{log}'
echo said by {name}
exit {code}
"""


def hook(operator: Operator, name: str, code: int = 0) -> Path:
    path, log = operator.folder / "hooks" / name, operator.folder / "hooks.log"
    path.parent.mkdir(exist_ok=True)
    path.write_text(HOOK.format(name=name, log=log, code=code))
    path.chmod(0o755)
    return log


def test_hooks_run_around_a_deploy_and_a_failing_one_before_it_stops_it(operator: Operator) -> None:
    host = operator.hosts[0]
    assert operator.deploy().code == 0
    for name in ("pre-connect", "pre-deploy", "post-deploy"):
        log = hook(operator, name)
    try:
        assert operator.deploy().host["status"] == "unchanged"
        assert log.read_text().splitlines() == ["pre-connect  h1 0.1.0 ", "post-deploy h1  0.1.0 unchanged"]
        log.unlink()
        done = operator.deploy(code="next")
        assert done.code == 0 and "said by pre-deploy" in done.err
        assert [line.split()[0] for line in log.read_text().splitlines()] == [
            "pre-connect",
            "pre-deploy",
            "post-deploy",
        ]
        log.unlink()
        hook(operator, "pre-deploy", 3)
        before = tree(host)
        done = operator.deploy()
        assert (
            done.code == 1 and "pre-deploy" in done.errors[0]["message"] and done.data["log"] == ["said by pre-deploy"]
        )
        assert log.read_text().splitlines()[-1].split()[-1] == "failed"
        assert {n for n in tree(host) if tree(host)[n] != before.get(n)} <= {n for n in tree(host) if "/incoming/" in n}
        hook(operator, "pre-deploy")
        hook(operator, "post-deploy", 3)
        done = operator.deploy()
        assert done.code == 0 and done.host["status"] == "deployed" and "warning: the hook post-deploy" in done.err
        (operator.folder / "hooks" / "pre-connect").chmod(0o644)
        done = operator.deploy()
        assert done.code == 1 and "chmod +x" in done.errors[0]["hint"]
    finally:
        for path in (operator.folder / "hooks").iterdir():
            path.unlink()


def test_s09_a_planted_secret_is_in_no_argument_log_or_audit(operator: Operator) -> None:
    secret = "hf_canary0123456789"
    host, code = operator.hosts[0], other(operator)
    (state(host) / "hf_token").write_text(secret)
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes().decode(errors="replace"))
                except OSError:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        ran = operator.deploy("--debug", code=code, HF_TOKEN=secret)
        failed = operator.deploy("--debug", code="dead", HF_TOKEN=secret)
        listed = operator("releases", "h1", HF_TOKEN=secret)
    finally:
        done.set()
        thread.join()
    assert ran.code == 0 and failed.code == 1
    assert any("llmctl.host" in line for line in seen)
    assert not [line for line in seen if secret in line]
    assert secret not in repr((ran, failed, listed)) + host.log
    files = [path for path in host.home.rglob("*") if path.is_file() and path.name != "hf_token"]
    assert not [path for path in files if secret.encode() in path.read_bytes()]
