"""Watching a job: its end is the same wherever it is seen, and the watcher's own end does not touch it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from llmctl.errors import LlmctlError, Refused
from llmctl.jobs import attach
from llmctl.jobs.state import CANCELLED, DONE, FAILED, LOST, QUEUED, RUNNING
from tests.conftest import eventually
from tests.jobs.conftest import JobHost, children, gone, kill

LONG = '{"seconds": 60}'


def test_a_caller_sees_the_progress_and_gets_the_result(host: JobHost) -> None:
    out, err = host.caller("sleep", '{"seconds": 2.5}', "--json").communicate(timeout=60)
    assert json.loads(out)["data"] == {"slept": 2.5}
    events = [json.loads(line) for line in err.splitlines()]
    assert {"event": "note", "message": "sleeping 2.5"} in events
    stages = [event for event in events if event.get("stage") == "sleep"]
    assert set(stages[0]) == {"event", "stage", "done", "total", "speed", "eta", "elapsed", "parts"}
    assert stages[0]["speed"] is None and stages[0]["eta"] is None  # not known yet, and not guessed
    assert [event["done"] for event in stages] == sorted(event["done"] for event in stages)
    assert stages[-1]["parts"]["one.safetensors"] == [stages[-1]["done"] // 2, 12_500_000]
    assert 5e6 < stages[-1]["speed"] <= 1.1e7 and stages[-1]["eta"] < 1


def test_what_waits_says_for_whom(host: JobHost) -> None:
    first = host.submit("sleep", seconds=60)
    host.running(first)
    waiting = host.submit("sleep", n=2)
    event = attach.progress_of(host.jobs, waiting)
    assert event and event["stage"] == "waiting for job 1"


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("refused", "does_not_fit", "too big"),
        ("checkpoint", "bad_checkpoint", "torn.gguf is torn"),
        ("details", "does_not_fit", "odd details"),
        ("os", "os", "No such file or directory: '/nowhere'"),
        ("bug", "internal", "ZeroDivisionError: division by zero"),
        ("memory", "failed", "ran out of memory"),
        ("exit", "failed", "SystemExit(0)"),
        ("unjson", "internal", "not JSON serializable"),
        ("nan", "internal", "not JSON compliant"),
        ("nothing", "internal", "TypeError"),
        ("os-exit", "died", "ended with code 3"),
        ("kill", "died", "killed by signal 9"),
        ("abort", "died", "killed by signal 6"),
    ],
)
def test_every_way_that_work_fails_is_a_typed_error(host: JobHost, how: str, code: str, message: str) -> None:
    job = host.submit("ends", how=how)
    ended = attach.follow(host.home, job.id, lambda event: None)
    assert ended.state == FAILED
    with pytest.raises(LlmctlError) as caught:
        attach.outcome(ended)
    assert caught.value.code == code and message in caught.value.message
    if how == "refused":
        assert (caught.value.hint, caught.value.details) == ("llmctl models fit", {"needed": 7})
        assert isinstance(caught.value, Refused)
    elif code not in ("os", "bad_checkpoint", "does_not_fit"):
        assert caught.value.hint and f"llmctl jobs logs {job.id}" in caught.value.hint
    if code == "died" and how != "abort":
        assert caught.value.details["log"] == ["last words"]
    assert "last words" in host.log(job)
    assert ("Traceback" in host.log(job)) == (how in ("os", "bug", "memory", "exit", "unjson", "nan", "nothing"))


def test_work_whose_module_is_missing_is_a_typed_error(host: JobHost) -> None:
    job = host.submit("absent")
    assert (host.ended(job).error or {})["code"] == "internal"


def test_two_watchers_see_the_same_end_as_the_caller(host: JobHost) -> None:
    job = host.submit("sleep", seconds=1)
    first, second = host.llmctl("--json", "jobs", "attach", 1), host.caller("sleep", '{"seconds": 1}', "--json")
    joined = second.communicate(timeout=60)
    assert "does this already" in joined[1] and json.loads(joined[0])["data"] == {"slept": 1}
    assert json.loads(first.communicate(timeout=60)[0])["data"]["result"] == {"slept": 1}
    after = host.llmctl("--json", "jobs", "attach", job.id)
    assert json.loads(after.communicate(timeout=60)[0])["data"]["result"] == {"slept": 1}
    assert host.jobs.ids() == [1]


@pytest.mark.parametrize(
    ("how", "code", "exit_code"),
    [("refused", "does_not_fit", 1), ("unknown", "unknown_name", 2), ("away", "unreachable", 4)],
)
def test_a_failure_reads_the_same_for_all_and_has_the_works_exit_code(
    host: JobHost, how: str, code: str, exit_code: int
) -> None:
    caller = host.caller("ends", json.dumps({"how": how}), "--json")
    first = json.loads(caller.communicate(timeout=60)[0])
    again = host.llmctl("--json", "jobs", "attach", 1)
    second = json.loads(again.communicate(timeout=60)[0])
    assert first["errors"] == second["errors"] and first["errors"][0]["code"] == code
    assert caller.returncode == again.returncode == first["exit_code"] == exit_code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_watcher_that_leaves_does_not_end_the_job(host: JobHost, number: signal.Signals) -> None:
    caller = host.caller("sleep", LONG)
    assert caller.stderr
    assert "sleeping" in (caller.stderr.readline() + caller.stderr.readline())
    caller.send_signal(number)
    _, err = caller.communicate(timeout=60)
    assert caller.returncode == 130
    assert "job 1 goes on: llmctl jobs attach 1 · llmctl jobs cancel 1" in err
    assert host.jobs.read(1).state == RUNNING and host.jobs.read(1).alive


def test_f05_a_killed_caller_leaves_its_job_running(host: JobHost) -> None:
    caller = host.caller("sleep", '{"seconds": 1}', start_new_session=True)
    eventually((host.jobs.folder(1) / "progress.json").exists)
    os.killpg(caller.pid, signal.SIGKILL)  # as the end of an ssh session does to all that is left in it
    assert host.ended(host.jobs.read(1)).state == DONE


def test_the_end_of_a_terminal_does_not_reach_a_job(host: JobHost) -> None:
    job = host.running(host.submit("sleep", seconds=1))
    assert job.process
    for pid in (job.process.pid, *children(job.process.pid)):
        os.kill(pid, signal.SIGHUP)
    assert host.ended(job).state == DONE


def test_a_killed_worker_is_seen_as_lost_by_attach_and_list(host: JobHost) -> None:
    job = host.running(host.submit("sleep", seconds=60))
    watcher = host.llmctl("jobs", "attach", job.id)
    assert watcher.stderr
    assert "sleeping" in watcher.stderr.readline()
    assert job.process
    below = children(job.process.pid)
    kill(job)
    _, err = watcher.communicate(timeout=10)
    assert watcher.returncode == 1
    assert "job 1 is lost: its process was killed" in err and "hint: run it again: llmctl sleep of the test" in err
    row = json.loads(host.llmctl("--json", "jobs", "list").communicate(timeout=60)[0])["data"]["jobs"][0]
    assert (row["state"], row["error"]["code"]) == (LOST, "lost")
    assert below and all(map(gone, below))


# ── cancel ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_cancelled_job_cleans_up_and_its_watcher_is_told(host: JobHost, tmp_path: Path) -> None:
    record = tmp_path / "record"
    caller = host.caller("sleep", json.dumps({"seconds": 60, "record": str(record)}))
    eventually((host.jobs.folder(1) / "progress.json").exists)
    out, _ = host.llmctl("jobs", "cancel", 1).communicate(timeout=60)
    assert out == "job 1: cancelled\n"
    assert record.read_text()  # what stood in `finally`
    _, err = caller.communicate(timeout=60)
    assert caller.returncode == 1 and "job 1 was cancelled by " in err
    job = host.jobs.read(1)
    assert (job.state, job.error) == (CANCELLED, None) and job.cancelled_by


@pytest.mark.parametrize("how", [{}, {"swallow": True}])
def test_what_does_not_end_when_cancelled_is_killed(host: JobHost, how: dict[str, Any]) -> None:
    job = host.running(host.submit("stubborn", grace=0.5, **how))
    assert job.process
    below = children(job.process.pid)
    os.kill(job.process.pid, signal.SIGTERM)
    assert host.ended(job).state == CANCELLED
    assert below and all(map(gone, below))


def test_a_signal_to_all_of_a_job_does_not_cut_its_clean_up(host: JobHost, tmp_path: Path) -> None:
    record = tmp_path / "record"
    job = host.running(host.submit("sleep", seconds=60, cleanup=0.5, record=str(record)))
    assert job.process
    for _ in range(3):  # as systemd ends a scope, and the worker passes it on as well
        os.killpg(job.process.pid, signal.SIGTERM)
        time.sleep(0.1)
    assert host.ended(job).state == CANCELLED
    assert record.read_text()


def test_a_stopped_worker_is_cancelled_too(host: JobHost, monkeypatch: pytest.MonkeyPatch) -> None:
    job = host.running(host.submit("sleep", grace=0.2, seconds=60))
    assert job.process
    os.kill(job.process.pid, signal.SIGSTOP)
    monkeypatch.setattr(attach, "BEYOND_GRACE", 0.2)
    assert attach.cancel(host.home, job.id).state == CANCELLED


@pytest.mark.parametrize("seconds", [0, 60])
def test_all_processes_of_a_job_end_with_it(host: JobHost, tmp_path: Path, seconds: float) -> None:
    record = tmp_path / "pids"
    job = host.submit("children", seconds=seconds, record=str(record), bare=True)
    eventually(lambda: record.exists() and record.read_text())
    if seconds:
        pids = [int(pid) for pid in record.read_text().split()]
        assert len(pids) == 4 and not any(map(gone, pids))
        assert attach.cancel(host.home, job.id).state == CANCELLED
    ended = host.ended(job)
    assert ended.state == (CANCELLED if seconds else DONE)
    assert all(gone(int(pid)) for pid in record.read_text().split())


def test_a_queued_job_is_cancelled_at_once_and_never_runs(host: JobHost, tmp_path: Path) -> None:
    first = host.submit("sleep", seconds=60)
    waiting = host.waiting(host.submit("sleep", record=str(tmp_path / "ran")))
    assert attach.cancel(host.home, waiting.id).state == CANCELLED
    eventually(lambda: waiting.process and gone(waiting.process.pid))
    assert attach.cancel(host.home, first.id).state == CANCELLED
    assert not (tmp_path / "ran").exists()
    for job in (first, waiting):
        with pytest.raises(Refused, match="is over: cancelled"):
            attach.cancel(host.home, job.id)


def test_a_waiter_that_is_told_to_end_ends_as_cancelled(host: JobHost) -> None:
    host.submit("sleep", seconds=60)
    waiting = host.submit("sleep", n=2)
    assert host.waiting(waiting).state == QUEUED and waiting.process
    os.kill(waiting.process.pid, signal.SIGTERM)
    assert host.ended(waiting).state == CANCELLED


# ── what is written ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_s10_the_log_has_no_escapes_and_keeps_what_was_printed_and_noted(host: JobHost) -> None:
    job = host.submit("prints")
    events: list[dict[str, Any]] = []
    attach.follow(host.home, job.id, events.append)
    lines = [line.split(" ", 1)[1] for line in host.log(job).splitlines()]
    assert {"out: red ***", "out: 10 %", "out: 20 %", "note: a note of ***"} <= set(lines)
    assert any("raw" in line for line in lines)
    assert "\x1b" not in host.log(job) and "\x07" not in host.log(job)
    assert {"event": "note", "message": "a note of ***"} in events


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root: it mounts a tmpfs")
def test_f06_a_full_disk_does_not_stop_the_work(host: JobHost, tmp_path: Path) -> None:
    import subprocess

    small = host.home / "jobs"
    small.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", str(small)], check=True)
    try:
        job = host.running(host.submit("sleep", seconds=2, chatter=1000 * "x" + "\n"))
        with open(small / "filler", "wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
            while True:
                filler.write(b"\0" * 4096)
        before = (host.jobs.folder(job.id) / "progress.json").read_text()
        with pytest.raises(OSError, match="No space"):
            host.submit("sleep", n=2)
        assert host.jobs.ids() == [job.id]
        ended = host.ended(job)
        assert (ended.state, ended.result) == (DONE, {"slept": 2})
        assert (host.jobs.folder(job.id) / "progress.json").read_text() == before
        lost = json.loads(host.llmctl("--json", "jobs", "list").communicate(timeout=60)[0])
        assert lost["data"]["jobs"][0]["state"] == DONE
        (small / "filler").unlink()
        assert host.ended(host.submit("sleep", n=3)).state == DONE
    finally:
        host.end()
        subprocess.run(["umount", "-l", str(small)], check=True)
