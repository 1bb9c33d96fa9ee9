"""`llmctl jobs` as an operator types it, over jobs that really run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from llmctl.__main__ import main
from llmctl.jobs.state import Jobs
from tests.conftest import eventually
from tests.jobs.conftest import JobHost, host  # noqa: F401 - a fixture

Run = Callable[..., tuple[int, str, str]]
ROW = {"id", "kind", "title", "state", "lane", "stage", "done", "total", "speed", "eta"}
ROW |= {"created", "started", "ended", "owner", "error"}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """run("jobs", "list") → (exit code, stdout, stderr)."""

    def call(*argv: object) -> tuple[int, str, str]:
        code = main([*map(str, argv)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def data(run: Run, *argv: object) -> Any:
    return json.loads(run("jobs", *argv, "--json")[1])["data"]


def test_an_operators_view_of_jobs(host: JobHost, run: Run) -> None:  # noqa: F811
    assert run("jobs", "list") == (0, "no jobs\n", "")
    assert not (host.home / "jobs").exists()
    out, _ = host.caller("sleep", '{"seconds": 60}', "--detach").communicate(timeout=60)
    assert out == "job 1: sleep of a caller\nllmctl jobs attach 1 · llmctl jobs cancel 1\n"
    out, _ = host.caller("sleep", '{"seconds": 60}', "--detach").communicate(timeout=60)
    assert out.startswith("job 1 (it was there already)")
    host.caller("sleep", '{"seconds": 61}', "--detach").communicate(timeout=60)
    eventually(lambda: data(run, "list")["jobs"][0]["speed"])

    head, first, second = run("jobs", "list")[1].splitlines()
    assert head.split() == ["ID", "KIND", "TITLE", "STATE", "PROGRESS", "SPEED", "ETA", "AGE"]
    assert first.split()[:4] == ["1", "sleep", "of", "a"] and "% of 600.0 MB" in first and "MB/s" in first
    assert "queued" in second and "waiting for job 1" in second
    rows = data(run, "list")["jobs"]
    assert all(set(row) == ROW for row in rows)
    assert [(row["id"], row["state"], row["stage"]) for row in rows] == [
        (1, "running", "sleep"), (2, "queued", "waiting for job 1")
    ]  # fmt: skip
    assert 0 < rows[0]["done"] < rows[0]["total"] == 6 * 10**8 and rows[0]["eta"] > 1
    assert rows[0]["owner"].endswith(f"@{os.uname().nodename}")

    code, out, _ = run("jobs", "show", 1)
    assert code == 0 and "job 1  sleep of a caller  running" in out and "seconds: 60" in out
    assert "note: sleeping 60.0" in run("jobs", "logs", 1)[1]
    assert data(run, "logs", 1, "-n", 0) == {"id": 1, "lines": []}
    assert run("jobs", "cancel", 2)[:2] == (0, "job 2: cancelled\n")
    assert data(run, "cancel", 1)["job"]["state"] == "cancelled"
    code, _, err = run("jobs", "cancel", 1)
    assert code == 1 and err == "error: job 1 is over: cancelled\nhint: llmctl jobs show 1\n"
    code, _, err = run("jobs", "attach", 1)
    assert code == 1 and "job 1 was cancelled by " in err and "hint: run it again: llmctl sleep of a caller" in err
    assert data(run, "prune")["removed"] == []
    assert run("jobs", "prune", "--all")[1] == "forgot 2 jobs\n"
    assert data(run, "list", "--all")["jobs"] == []


def test_a_followed_log_ends_with_its_job(host: JobHost, run: Run) -> None:  # noqa: F811
    host.submit("sleep", seconds=1)
    _, out, _ = run("jobs", "logs", 1, "-f")
    assert "note: sleeping 1.0" in out
    code, _, err = run("--json", "jobs", "logs", 1, "-f")
    assert code == 2 and not err
    assert run("jobs", "attach", 1)[1] == "job 1 is done\n"


def test_ended_jobs_leave_the_short_list_after_a_day(host: JobHost, run: Run) -> None:  # noqa: F811
    from dataclasses import replace

    job = host.ended(host.submit("sleep"))
    assert len(data(run, "list")["jobs"]) == 1
    assert job.ended
    host.jobs.write(replace(job, ended=job.ended - 90_000))
    assert data(run, "list")["jobs"] == []
    assert len(data(run, "list", "--all")["jobs"]) == 1


@pytest.mark.parametrize(
    "id", ["../1", "1e3", "0", "01", "1.0", "", " 1", "1\n", "٣", "9" * 10, "9" * 5000, "1;ls", "%2e"]
)
@pytest.mark.parametrize("verb", ["show", "attach", "cancel", "logs"])
def test_s05_an_id_is_a_number_and_nothing_else(home: str, run: Run, verb: str, id: str) -> None:
    code, out, err = run("jobs", verb, id)
    assert (code, out) == (2, "") and "is not the id of a job" in err and err.endswith("hint: llmctl jobs list\n")
    assert len(err) < 200


def test_s05_an_id_that_looks_like_an_option_is_refused(home: str, run: Run) -> None:
    assert run("jobs", "cancel", "-1")[0] == 2
    assert run("jobs", "cancel", "--", "-1")[0] == 2


@pytest.mark.parametrize("verb", ["show", "attach", "cancel", "logs"])
def test_an_unknown_job_is_named(home: str, run: Run, verb: str) -> None:
    code, _, err = run("jobs", verb, 7)
    assert code == 2 and err == "error: there is no job 7\nhint: llmctl jobs list --all\n"


def test_f08_a_torn_job_does_not_hide_the_others(host: JobHost, run: Run) -> None:  # noqa: F811
    for n in range(2):
        host.ended(host.submit("sleep", n=n))
    for name in ("job.json", "job.bak"):
        (host.jobs.folder(1) / name).write_text("{")
    rows = data(run, "list")["jobs"]
    assert [(row["id"], row["state"]) for row in rows] == [(1, "unreadable"), (2, "done")]
    assert set(rows[0]) == ROW and rows[0]["error"]["code"] == "state"
    assert "unreadable" in run("jobs", "list")[1]
    code, _, err = run("jobs", "cancel", 1)
    assert code == 1 and f"rm -r {host.jobs.folder(1)}" in err


def test_a_lost_job_says_how_to_go_on(host: JobHost, run: Run) -> None:  # noqa: F811
    job = host.running(host.submit("sleep", seconds=60))
    assert job.process
    os.kill(job.process.pid, signal.SIGKILL)
    out = run("jobs", "list")[1]
    assert "WHY" in out and "lost" in out and "its process was killed" in out
    code, _, err = run("jobs", "attach", job.id)
    assert code == 1 and "hint: run it again: llmctl sleep of the test" in err
    assert "lost" in run("jobs", "show", job.id)[1]


def test_what_a_job_is_called_is_not_obeyed_by_a_terminal(host: JobHost, run: Run) -> None:  # noqa: F811
    host.ended(host.submit("prints"))
    from dataclasses import replace

    Jobs(host.home).write(replace(host.jobs.read(1), title="\x1b[2Jtitle\n2", owner="x\x1b[2J"))
    shown = run("jobs", "list")[1] + run("jobs", "show", 1)[1] + run("jobs", "logs", 1)[1]
    assert "\x1b" not in shown and "\\x1b[2Jtitle\\n2" in shown
