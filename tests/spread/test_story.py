"""A model that two hosts compute together, over its life: swapped under load, killed, cut off, rolled back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import eventually
from tests.spread.conftest import ANSWER, PORT, SPREAD, Fleet, Load
from tests.testbed.sshd import SshHost

pytestmark = [pytest.mark.root, pytest.mark.models, pytest.mark.slow]
SLOT = f"h1:{PORT}"
BACK = 120.0
"""Seconds for an engine to come back after a crash; a few are usual."""


@pytest.fixture(scope="module")
def alone(fleet: Fleet) -> str:
    """What tiny-llama says on one host."""
    fleet.says("load", SLOT, "tiny-llama", "--engine", "torch")
    assert fleet.slot().spread == () and fleet.ranks() == []
    return fleet.ask()


def together(fleet: Fleet, engine: str) -> None:
    """The slot is computed by both hosts with this engine, whatever it was."""
    now = fleet.slot()
    if (now.state, now.engine, now.spread) != ("ready", engine, ("h1", "h2")):
        fleet.says("swap", SLOT, "tiny-llama", "--engine", engine, *SPREAD)
    assert fleet.slot().spread == ("h1", "h2")
    assert len(fleet.ranks()) == 1


@contextmanager
def answering(fleet: Fleet) -> Iterator[list[str]]:
    """Within the block a long answer is on its way; behind it are all its lines."""
    begun, lines = threading.Event(), []
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(fleet.stream, begun)
        assert begun.wait(60)
        yield lines
        lines += stream.result(120)


def error_of(lines: list[str]) -> dict[str, Any]:
    """The error that a stream ended with, its last event but one."""
    last, end = lines[-2:]
    assert end == "data: [DONE]", lines[-3:]
    return dict(json.loads(last.removeprefix("data: "))["error"])


def listening(fleet: Fleet, host: SshHost) -> list[str]:
    """The addresses at which something on this host can be reached."""
    said = subprocess.run([*fleet.apart.inside(host), "ss", "-tlnH"], capture_output=True, text=True, check=True)
    return [line.split()[3].rpartition(":")[0] for line in said.stdout.splitlines()]


def back(fleet: Fleet, alone: str) -> None:
    """The slot comes back by itself, and says what it always said."""
    eventually(lambda: fleet.slot().state == "ready", within=BACK, every=0.5)
    assert fleet.ask() == alone
    assert len(fleet.ranks()) == 1


def test_torch_on_two_hosts_says_what_one_host_says_and_the_swap_loses_nothing(fleet: Fleet, alone: str) -> None:
    with Load(fleet) as load:
        together(fleet, "torch")
        assert fleet.ask() == alone
    assert not load.failed
    for host in (fleet.h1, fleet.h2):
        assert set(listening(fleet, host)) <= {"127.0.0.1", host.address}
    (share,) = fleet.says("status")["shares"]
    assert (share["host"], share["slot"], share["model"]) == ("h2", SLOT, "tiny-llama") and share["bytes"] > 0


def test_a_profile_that_says_the_same_hosts_changes_nothing(fleet: Fleet, alone: str) -> None:
    together(fleet, "torch")
    assert [step["action"] for step in fleet.says("profile", "diff", "both")["steps"]] == ["keep"]
    (slot,) = fleet.says("profile", "save", "seen", "--host", "h1", "--dry-run")["text"].split("[[slots]]")[1:]
    assert 'spread = ["h1", "h2"]' in slot


def test_f09_a_network_that_is_cut_ends_the_answer_with_an_error_and_the_slot_comes_back(
    fleet: Fleet, alone: str
) -> None:
    together(fleet, "torch")
    with answering(fleet) as lines:
        fleet.apart.cut(fleet.h1)
    try:
        error = error_of(lines)
        assert error["code"] == "engine_died" and "h2" in error["message"]
        eventually(lambda: not fleet.ranks(), within=60, every=0.5)  # it notices by itself that nobody is there
    finally:
        fleet.apart.heal(fleet.h1)
    back(fleet, alone)


def test_a_ring_of_mlx_takes_over_from_torch_under_load(fleet: Fleet, alone: str) -> None:
    together(fleet, "torch")
    with Load(fleet) as load:
        together(fleet, "mlx")
        assert fleet.ask() == alone
    assert not load.failed
    assert len(fleet.ranks()) == 1


def test_f01_a_killed_share_ends_the_answer_with_an_error_that_names_its_host(fleet: Fleet, alone: str) -> None:
    together(fleet, "mlx")
    (rank,) = fleet.ranks()
    with answering(fleet) as lines:
        os.kill(rank, signal.SIGKILL)
    error = error_of(lines)
    assert error["code"] == "engine_died" and "h2" in error["message"]
    back(fleet, alone)


def test_f02_the_share_ends_with_the_engine_that_it_belongs_to(fleet: Fleet, alone: str) -> None:
    together(fleet, "mlx")
    (rank,) = fleet.ranks()
    pid = fleet.slot().pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: rank not in fleet.ranks(), within=6, every=0.2)
    back(fleet, alone)


def test_f15_a_spread_model_that_does_not_load_is_rolled_back(fleet: Fleet, alone: str) -> None:
    together(fleet, "mlx")
    before = fleet.ranks()
    error = fleet.fails("swap", SLOT, "torn", "--engine", "mlx", *SPREAD)
    assert error["code"] == "load_failed" and "issing" in error["message"]
    assert error["data"]["rolled_back_to"] == "tiny-llama"
    assert fleet.ask() == alone
    assert fleet.ranks() == before


def test_one_host_takes_over_again_and_the_other_is_free(fleet: Fleet, alone: str) -> None:
    together(fleet, "mlx")
    with Load(fleet) as load:
        fleet.says("swap", SLOT, "tiny-llama", "--engine", "mlx")
        assert fleet.ask() == alone and ANSWER in alone
    assert not load.failed
    eventually(lambda: not fleet.ranks(), every=0.2)
    assert fleet.says("status")["shares"] == []
