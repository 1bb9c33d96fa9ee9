"""The queue: ids, lanes, the same work once, and that no death of any process loses a job or runs two at once."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl.errors import Refused, StateError, UnknownName
from llmctl.jobs import attach, queue
from llmctl.jobs.state import DONE, FAILED, LOST, QUEUED, RUNNING, Job
from llmctl.processes import ProcessId
from tests.conftest import eventually
from tests.jobs.conftest import JobHost, children, gone, kill

HERE = ProcessId.of(os.getpid())


def job(id: int, state: str = QUEUED, lane: str = "network", process: ProcessId | None = HERE) -> Job:
    return Job(id, "sleep", "", {}, lane, "me@here", 0.0, "token", 1.0, state, process)


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([], None),
        ([job(3), job(2)], 2),
        ([job(1, RUNNING), job(2)], None),
        ([job(2, RUNNING), job(1)], None),  # started again after its process died: it still waits
        ([job(1, RUNNING, "compute"), job(2)], 2),
        ([job(1, DONE), job(2, LOST), job(3)], 3),
        ([job(1, process=None), job(2)], 2),
        ([job(1, process=replace(HERE, start="0")), job(2)], 2),
    ],
)
def test_whose_turn_it_is(jobs: list[Job], expected: int | None) -> None:
    assert queue.turn(jobs, "network") == expected


def test_a_job_runs_detached_and_leaves_its_result(host: JobHost) -> None:
    submitted = host.submit("sleep", seconds=0.3)
    assert (submitted.id, submitted.state) == (1, QUEUED)
    running = host.running(submitted)
    assert running.state == RUNNING and running.process and running.process.alive()
    assert os.getsid(running.process.pid) == running.process.pid != os.getsid(0)
    assert os.readlink(f"/proc/{running.process.pid}/fd/0") == os.devnull
    ended = host.ended(submitted)
    assert (ended.state, ended.result, ended.error) == (DONE, {"slept": 0.3}, None)
    assert ended.started and ended.ended and ended.created <= ended.started <= ended.ended
    assert attach.outcome(ended) == {"slept": 0.3}
    eventually(lambda: running.process and gone(running.process.pid))


def test_ten_submits_at_once_get_ten_ids_and_run_one_a_lane(host: JobHost, tmp_path: Path) -> None:
    callers = []
    for n in range(10):
        lane = ["--compute"] if n % 2 else []
        arguments = json.dumps({"seconds": 0.2, "record": str(tmp_path / ("compute" if lane else "network")), "n": n})
        callers.append(host.caller("sleep", arguments, "--detach", "--json", *lane))
    ids = [json.loads(caller.communicate(timeout=60)[0])["data"]["detached"]["id"] for caller in callers]
    assert sorted(ids) == list(range(1, 11))
    for id in ids:
        assert host.ended(host.jobs.read(id)).state == DONE
    for lane in ("compute", "network"):
        times = sorted(tuple(map(float, line.split())) for line in (tmp_path / lane).read_text().splitlines())
        assert len(times) == 5
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))
        started = [(found.started, found.id) for found in map(host.jobs.read, ids) if found.lane == lane]
        assert [id for _, id in sorted(started)] == sorted(id for _, id in started)


def test_c03_the_same_work_twice_is_one_job(host: JobHost) -> None:
    first, joined = queue.submit(host.home, "sleep", {"seconds": 30, "paths": ("a", "b")}, "one", "network")
    assert not joined
    again, joined = queue.submit(host.home, "sleep", {"paths": ["a", "b"], "seconds": 30}, "two", "network")
    assert (again.id, joined) == (first.id, True)
    other, joined = queue.submit(host.home, "sleep", {"seconds": 31}, "three", "network")
    assert (other.id, joined) == (2, False)
    with host.jobs.lock():
        host.jobs.write(replace(host.jobs.read(first.id), cancelled_by="me@here"))
    third, joined = queue.submit(host.home, "sleep", {"seconds": 30, "paths": ["a", "b"]}, "four", "network")
    assert (third.id, joined) == (3, False)  # the first is on its way out
    for job in (first, third):
        attach.cancel(host.home, job.id)
    assert queue.submit(host.home, "sleep", {"seconds": 30, "paths": ["a", "b"]}, "five", "network")[0].id == 4


def test_a_killed_worker_is_lost_with_all_its_processes_and_the_next_runs(host: JobHost, tmp_path: Path) -> None:
    record = tmp_path / "pids"
    first = host.submit("children", seconds=600, record=str(record))
    eventually(lambda: record.exists() and record.read_text())
    next_one = host.submit("sleep", n=2)
    kill(host.jobs.read(first.id))
    assert host.ended(next_one).state == DONE  # the one that waits has settled the dead one's affairs
    found = host.jobs.read(first.id)
    assert found.state == LOST and found.error and found.error["code"] == "lost"
    assert found.error["hint"] == "run it again: llmctl children of the test"
    assert all(map(gone, map(int, record.read_text().split())))


def test_the_work_ends_with_its_worker(host: JobHost) -> None:
    job = host.running(host.submit("sleep", seconds=600))
    assert job.process
    below = children(job.process.pid)
    assert len(below) == 1
    kill(job)
    eventually(lambda: gone(below[0]))  # though no command has looked after the job
    assert host.jobs.read(job.id).state == RUNNING


def test_a_killed_waiter_is_started_again_by_the_next_command(host: JobHost) -> None:
    first = host.submit("sleep", seconds=1.5)
    waiting = host.submit("sleep", n=2)
    third = host.submit("sleep", n=3)
    kill(waiting)
    eventually(lambda: not host.jobs.read(waiting.id).alive)
    again = next(found for found in queue.overview(host.home)[0] if found.id == waiting.id)
    assert (again.state, again.starts) == (QUEUED, 2) and again.process != waiting.process
    ended = [host.ended(found) for found in (first, waiting, third)]
    assert [found.state for found in ended] == [DONE] * 3
    assert ended[0].ended <= ended[1].started <= ended[2].started  # type: ignore[operator]


def test_a_dead_waiter_does_not_hold_up_the_others(host: JobHost) -> None:
    host.submit("sleep", seconds=1)
    dead, last = host.submit("sleep", n=2), host.submit("sleep", n=3)
    kill(dead)
    assert host.ended(last).state == DONE
    assert host.jobs.read(dead.id).state == QUEUED


def test_a_process_that_never_starts_is_not_started_for_ever(host: JobHost) -> None:
    first = host.running(host.submit("sleep", seconds=60))
    host.submit("sleep", n=2)
    for _ in range(queue.STARTS + 1):
        if (found := host.jobs.read(2)).live:
            kill(found)
            eventually(lambda found=found: not found.alive)
            queue.overview(host.home)
    found = host.jobs.read(2)
    assert found.state == FAILED and found.error and "does not start" in found.error["message"]
    assert host.jobs.read(first.id).state == RUNNING


def test_f10_after_a_reboot_the_running_job_is_lost_and_the_queued_one_starts(
    host: JobHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, waiting = host.submit("sleep", seconds=60), host.submit("sleep", n=2)
    host.running(running)
    for found in (running, waiting):
        kill(host.jobs.read(found.id))
    for found in map(host.jobs.read, (running.id, waiting.id)):
        host.jobs.write(replace(found, process=replace(HERE, boot="another boot")))
    lost, again = queue.overview(host.home)[0]
    assert lost.state == LOST and lost.error and "rebooted" in lost.error["message"]
    assert lost.error["hint"] == "run it again: llmctl sleep of the test"
    assert again.state == QUEUED and host.ended(again).state == DONE


def test_f11_a_process_that_has_the_pid_now_is_neither_waited_for_nor_signalled(host: JobHost) -> None:
    found = host.submit("sleep", seconds=60)
    host.running(found)
    kill(found)
    bystander = host.python("-c", "import time; time.sleep(60)")
    assert found.process
    host.jobs.write(replace(host.jobs.read(found.id), process=replace(found.process, pid=bystander.pid)))
    with pytest.raises(Refused, match="lost"):
        attach.cancel(host.home, found.id)
    assert host.jobs.read(found.id).state == LOST
    time.sleep(0.2)
    assert bystander.poll() is None


def test_f05_a_submit_killed_at_any_moment_leaves_no_half_job(host: JobHost) -> None:
    chance = random.Random(5)
    callers = []
    for n in range(16):
        callers.append(host.caller("sleep", json.dumps({"n": n}), "--detach", "--json"))
        if n % 2:
            time.sleep(0.12 + chance.random() * 0.15)
            for caller in callers[-2:]:
                caller.send_signal(signal.SIGKILL)
    for caller in callers:
        caller.wait()
    last = host.submit("sleep", n="last")
    queue.overview(host.home)
    for id in host.jobs.ids():
        assert host.ended(host.jobs.read(id)).state == DONE
    assert last.id == max(host.jobs.ids())
    assert {path.name for path in host.jobs.path.iterdir()} <= {*map(str, host.jobs.ids()), "lock", "last-id"}


def test_f08_a_torn_state_comes_back_from_its_backup_or_is_left_alone(host: JobHost) -> None:
    good, torn, newer = host.submit("sleep"), host.submit("sleep", n=2), host.submit("sleep", n=3)
    for found in (good, torn, newer):
        host.ended(found)
    for found in (good, torn):
        (host.jobs.folder(found.id) / "job.json").write_text('{"version": 1, "da')
    (host.jobs.folder(torn.id) / "job.bak").write_text("")
    future = host.jobs.folder(newer.id) / "job.json"
    future.write_text('{"version": 99, "data": {}}')
    (host.jobs.path / "4").mkdir()
    (host.jobs.path / "4" / "job.json").write_text('{"version": 1, "data": {"id": 4}}')
    (host.jobs.path / "last-id").write_text("x")

    found, unreadable = queue.overview(host.home)
    assert [job.id for job in found] == [good.id]
    assert [id for id, _ in unreadable] == [torn.id, newer.id, 4]
    for id in (torn.id, newer.id, 4):
        with pytest.raises(StateError) as caught:
            queue.look(host.home, id)
        assert str(host.jobs.folder(id)) in str(caught.value.hint)
    assert "99" in future.read_text()
    assert queue.submit(host.home, "sleep", {"n": 5}, "", "network")[0].id == 5


def test_a_job_that_cannot_be_started_leaves_nothing(host: JobHost, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(sys, "executable", "/nowhere/python")
        host.submit("sleep")
    assert host.jobs.ids() == []
    assert host.ended(host.submit("sleep")).state == DONE


def test_an_unknown_job_is_named(host: JobHost) -> None:
    with pytest.raises(UnknownName) as caught:
        queue.look(host.home, 7)
    assert caught.value.hint == "llmctl jobs list --all"


def test_a_kind_that_is_not_in_the_table_is_refused(host: JobHost) -> None:
    with pytest.raises(Refused):
        host.submit("os:system")
    assert host.jobs.ids() == []
    host.submit("sleep", seconds=1)
    waiting = host.submit("sleep", command="true")
    host.jobs.write(replace(host.jobs.read(waiting.id), kind="os:system"))
    ended = host.ended(waiting)
    assert ended.state == FAILED and ended.error and ended.error["code"] == "refused"


def test_old_jobs_are_forgotten_and_their_ids_not_given_again(host: JobHost, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(4):
        host.ended(host.submit("sleep", n=n))
    host.jobs.write(replace(host.jobs.read(2), ended=time.time() - queue.KEEP_SECONDS - 60))
    live = host.submit("sleep", seconds=60)
    assert host.jobs.ids() == [1, 3, 4, 5]
    monkeypatch.setattr(queue, "KEEP_COUNT", 1)
    with host.jobs.lock():
        assert queue.prune(host.jobs, queue.settle(host.jobs)) == [1, 3]
    attach.cancel(host.home, live.id)
    with host.jobs.lock():
        assert queue.prune(host.jobs, queue.settle(host.jobs), all_ended=True) == [4, 5]
    assert host.submit("sleep").id == 6


def test_s09_what_a_job_writes_is_private_and_has_no_secret(host: JobHost) -> None:
    secret = os.environ["HF_TOKEN"]
    good, bad = host.submit("prints"), host.submit("prints", fail=True)
    assert host.ended(good).result == {"secret": "***"}
    failed = host.ended(bad)
    assert failed.error and failed.error["message"] == "401 for ***"
    for path in [host.jobs.path, *host.jobs.path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        assert path.is_dir() or secret not in path.read_text(), path
    waiting = host.submit("sleep", seconds=60)
    host.running(waiting)
    assert waiting.process
    for pid in (waiting.process.pid, *children(waiting.process.pid)):
        assert secret not in Path(f"/proc/{pid}/cmdline").read_text()
        assert secret in Path(f"/proc/{pid}/environ").read_text()  # the work needs it
