"""Many hosts at once: outcomes in order, errors apart, a bound, and an interrupt that nobody waits for."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from llmctl.config import Host
from llmctl.errors import AuthRejected, LlmctlError, TransportCut, Unreachable
from llmctl.fleet import fanout

HOSTS = [Host(f"h{number}") for number in range(12)]


def test_outcomes_are_in_the_order_of_the_hosts_and_one_does_not_touch_another() -> None:
    def work(host: Host) -> str:
        time.sleep(0.02 * (12 - int(host.name[1:])))
        if host.name == "h3":
            raise Unreachable("off")
        return host.name

    outcomes = fanout.over(HOSTS, work)
    assert [outcome.host for outcome in outcomes] == HOSTS
    assert [outcome.value for outcome in outcomes if not outcome.error] == [h.name for h in HOSTS if h.name != "h3"]
    assert outcomes[3].error and outcomes[3].error.host == "h3"


def test_no_more_than_the_bound_at_once() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def work(host: Host) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1

    assert len(fanout.over(HOSTS, work, most=3)) == 12
    assert most == 3


def test_a_bug_is_raised_and_no_hosts_are_no_work() -> None:
    def work(host: Host) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fanout.over(HOSTS, work)
    assert fanout.over([], work) == []


def test_exit_codes() -> None:
    def code(*errors: LlmctlError | None) -> int:
        return fanout.exit_code([fanout.Outcome(HOSTS[0], error=error) for error in errors])

    assert code(None, None) == 0
    assert code(None, Unreachable("x")) == 3
    assert code(AuthRejected("x"), TransportCut("x")) == 4
    assert code(LlmctlError("x"), Unreachable("x")) == 1


def test_an_interrupt_ends_it_at_once() -> None:
    code = """
import os, time
from llmctl.config import Host
from llmctl.fleet import fanout
def work(host):
    os.write(1, b"working\\n")
    time.sleep(600)
try:
    fanout.over([Host("a"), Host("b")], work)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with child:
        try:
            assert child.stdout
            assert [child.stdout.readline() for _ in range(2)] == ["working\n"] * 2
            child.send_signal(signal.SIGINT)
            assert child.communicate(timeout=30)[0] == "interrupted\n"
        finally:
            child.kill()
        assert child.returncode == 0
