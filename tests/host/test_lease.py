"""The deploy lease: one owner at a time, over crashes, pauses, reboots and clocks that are wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llmctl.errors import Busy, LostLease, StateError
from llmctl.files import write_json
from llmctl.host import lease
from llmctl.host.lease import Claim
from llmctl.processes import ProcessId
from tests.conftest import REPO, eventually

ANN, BOB = Claim("a", "ann@desk", "new models"), Claim("b", "bob@cafe")


def expire(home: Path) -> None:
    """As if its owner had been silent for long."""
    write_json(home / "deploy.lock", asdict(replace(lease.read(home), until=time.monotonic() - 1)))


def test_the_loser_is_told_who_deploys_and_why(home: Path) -> None:
    lease.take(home, ANN)
    with pytest.raises(Busy) as caught:
        lease.take(home, BOB)
    assert "ann@desk" in caught.value.message and "new models" in caught.value.message
    assert "--lock-wait" in (caught.value.hint or "")
    assert caught.value.details["owner"] == "ann@desk" and 0 < caught.value.details["left"] <= lease.TTL


def test_who_waits_gets_it_when_it_is_given_back(home: Path) -> None:
    first, _ = lease.take(home, ANN)
    told: list[str] = []
    threading.Timer(0.3, lease.release, (home, first.number, first.token)).start()
    second, lost = lease.take(home, BOB, wait=30, on_wait=lambda now: told.append(now.owner))
    assert second.owner == "bob@cafe" and lost is None and told == ["ann@desk"]


def test_f05_a_lease_nobody_renews_is_taken_over_and_names_who_lost_it(home: Path) -> None:
    lease.take(home, replace(ANN, ttl=0.3))
    taken, lost = lease.take(home, BOB, wait=30)
    assert lost and (lost.owner, lost.message) == ("ann@desk", "new models")
    assert taken.owner == "bob@cafe"


def test_a_renewed_lease_is_kept(home: Path) -> None:
    first, _ = lease.take(home, ANN)
    before = lease.read(home).until
    time.sleep(0.05)
    lease.renew(home, first.number, first.token)
    assert lease.read(home).until > before


def test_c05_who_lost_the_lease_changes_nothing_any_more(home: Path) -> None:
    mine, _ = lease.take(home, ANN)
    expire(home)
    lease.take(home, BOB)
    now = lease.read(home)
    for act in (lease.renew, lease.release):
        with pytest.raises(LostLease) as caught:
            act(home, mine.number, mine.token)
        assert "bob@cafe" in caught.value.message
    with pytest.raises(LostLease), lease.held(home, mine.number, mine.token):
        raise AssertionError("it was let in")
    assert lease.read(home) == now


def test_c05_the_number_grows_over_release_and_new_owners(home: Path) -> None:
    numbers = []
    for claim in (ANN, BOB, ANN):
        taken, _ = lease.take(home, claim)
        numbers.append(taken.number)
        lease.release(home, taken.number, taken.token)
    assert numbers == sorted(set(numbers)) and lease.read(home).number == numbers[-1]


def test_an_expired_lease_that_nobody_took_still_counts(home: Path) -> None:
    mine, _ = lease.take(home, ANN)
    expire(home)
    with lease.held(home, mine.number, mine.token):
        pass
    assert lease.renew(home, mine.number, mine.token).left() > 0


def test_who_asks_twice_with_one_token_is_one_deploy(home: Path) -> None:
    """The answer of the first `begin` may have been lost on its way."""
    first, _ = lease.take(home, ANN)
    second, lost = lease.take(home, ANN)
    assert second.number > first.number and lost is None


@pytest.mark.parametrize("days", [-1, 1])
def test_f13_a_clock_that_jumps_a_day_neither_ends_nor_prolongs_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    mine, _ = lease.take(home, replace(ANN, ttl=30))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + days * 86400)
    with pytest.raises(Busy):
        lease.take(home, BOB)
    lease.renew(home, mine.number, mine.token)
    assert lease.read(home).left() <= 30
    expire(home)
    assert lease.take(home, BOB)[0].owner == "bob@cafe"


def test_f13_a_reboot_ends_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease.take(home, ANN)
    write_json(home / "deploy.lock", asdict(replace(lease.read(home), boot="another-boot")))
    assert lease.read(home).left() == 0
    taken, lost = lease.take(home, BOB)
    assert taken.owner == "bob@cafe" and lost and lost.owner == "ann@desk"


def test_an_end_of_another_boot_cannot_hold_it_for_days(home: Path) -> None:
    """A monotonic clock that began anew must not make a lease of it that lasts for ever."""
    lease.take(home, ANN)
    write_json(home / "deploy.lock", asdict(replace(lease.read(home), until=time.monotonic() + 1e6)))
    assert lease.read(home).left() <= lease.TTL


def test_a_torn_lease_is_never_overwritten(home: Path) -> None:
    (home / "deploy.lock").write_text("{")
    with pytest.raises(StateError) as caught:
        lease.take(home, ANN)
    assert "deploy.lock" in caught.value.message and caught.value.hint
    assert (home / "deploy.lock").read_text() == "{"


def test_of_many_who_ask_at_once_one_gets_it(home: Path) -> None:
    won, lost = [], []

    def ask(number: int) -> None:
        try:
            won.append(lease.take(home, Claim(f"t{number}", f"op{number}"))[0].owner)
        except Busy as error:
            lost.append(error.details["owner"])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and set(lost) == set(won) and len(lost) == 7


STEP = """
import subprocess, sys, time
from pathlib import Path
from llmctl.host import lease
home = Path(sys.argv[1])
import os; os.setpgid(0, 0)
mine, _ = lease.take(home, lease.Claim("a", "ann@desk", ttl=1.0))
child = subprocess.Popen(["sleep", "600"])
with lease.kept(home, mine.number, mine.token):
    print(child.pid, flush=True)
    time.sleep(600)
"""


def start_step(home: Path) -> tuple[subprocess.Popen[str], int]:
    """A step of another operator's deploy that takes long, and a process that it started."""
    process = subprocess.Popen([sys.executable, "-c", STEP, home], stdout=subprocess.PIPE, text=True, cwd=REPO)
    assert process.stdout
    return process, int(process.stdout.readline())


def test_a_long_step_renews_its_lease_by_itself(home: Path) -> None:
    process, child = start_step(home)
    try:
        time.sleep(2.5)
        with pytest.raises(Busy):
            lease.take(home, BOB)
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_c05_who_takes_over_ends_what_the_lost_owner_left_running(home: Path, how: signal.Signals) -> None:
    """A step that is paused while it writes would go on writing: it is killed, with all that it started."""
    process, child = start_step(home)
    started = ProcessId.of(child)
    try:
        os.kill(process.pid, how)
        if how is signal.SIGKILL:
            process.wait()
        taken, lost = lease.take(home, BOB, wait=30)
        assert taken.owner == "bob@cafe" and lost and lost.owner == "ann@desk"
        if how is signal.SIGSTOP:
            assert process.wait(30) == -signal.SIGKILL
            eventually(lambda: not started.alive())
    finally:
        for pid in (process.pid, child):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def test_a_step_paused_with_the_flock_in_its_hands_is_ended_too(home: Path) -> None:
    code = STEP.replace("    print(", "    with lease.held(home, mine.number, mine.token): print(", 1).replace(
        "    time.sleep(600)", "")  # fmt: skip
    code = code.replace("print(child.pid, flush=True)", "print(child.pid, flush=True) or time.sleep(600)")
    process = subprocess.Popen([sys.executable, "-c", code, home], stdout=subprocess.PIPE, text=True, cwd=REPO)
    assert process.stdout
    child = int(process.stdout.readline())
    try:
        os.kill(process.pid, signal.SIGSTOP)
        expire(home)
        assert lease.take(home, BOB, wait=30)[0].owner == "bob@cafe"
    finally:
        for pid in (process.pid, child):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def test_what_it_says_is_json_that_people_can_read(home: Path) -> None:
    lease.take(home, ANN)
    said = json.loads((home / "deploy.lock").read_text())["data"]
    assert (said["owner"], said["message"], said["number"]) == ("ann@desk", "new models", 1)
