"""Watch a job until its end, and give its end: the result, or the error that its work raised."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmctl.errors import LlmctlError, Refused, from_dict
from llmctl.jobs import queue, report, tree
from llmctl.jobs.state import CANCELLED, DONE, QUEUED, RUNNING, Job, Jobs
from llmctl.logs import Tail

POLL = 0.1
AGAIN = 0.5
BEYOND_GRACE = 5.0
OnEvent = Callable[[dict[str, Any]], None]
_NOTE = re.compile(r"\S+ note: (.*)")


def follow(home: Path, id: int, on_event: OnEvent) -> Job:
    """The job as it ended; until then `on_event` gets its notes, from the first, and its progress as it changes."""
    job = queue.look(home, id)
    progress = _Progress(home, on_event)
    with contextlib.closing(Tail(Jobs(home).log(id))) as log:
        while True:
            for line in log.new():
                if note := _NOTE.match(line):
                    on_event({"event": "note", "message": note[1]})
            progress.look(job)
            if not job.live:
                return job
            time.sleep(POLL)
            job = queue.look(home, id)


class _Progress:
    """Gives the progress of a job as an event when it changed, a new stage at once."""

    def __init__(self, home: Path, on_event: OnEvent) -> None:
        self.jobs, self.on_event = Jobs(home), on_event
        self.last: dict[str, Any] = {}
        self.at = 0.0

    def look(self, job: Job) -> None:
        event = progress_of(self.jobs, job)
        if event is None or (seen := {**event, "elapsed": 0.0}) == self.last:
            return
        if seen["stage"] == self.last.get("stage") and job.live and time.monotonic() - self.at < AGAIN:
            return
        self.last, self.at = seen, time.monotonic()
        self.on_event(event)


def progress_of(jobs: Jobs, job: Job) -> dict[str, Any] | None:
    """The event of a job's progress; for one that waits, what it waits for."""
    if job.state != QUEUED:
        return report.read(jobs.folder(job.id) / "progress.json")
    lane = [other for other in jobs.all()[0] if other.live and other.lane == job.lane]
    ahead = [str(other.id) for other in lane if other.state == RUNNING or other.id < job.id]
    stage = f"waiting for job {', '.join(ahead)}" if ahead else "starting"
    empty: dict[str, Any] = {"done": 0, "total": 0, "speed": None, "eta": None, "parts": {}}
    return {"event": "stage", "stage": stage, **empty, "elapsed": round(time.time() - job.created, 2)}


def outcome(job: Job) -> Mapping[str, Any]:
    """The result of an ended job; raises what its work raised."""
    if job.state == DONE:
        return job.result or {}
    if job.state == CANCELLED:
        error = LlmctlError(
            f"job {job.id} was cancelled" + (f" by {job.cancelled_by}" if job.cancelled_by else ""),
            hint=f"run it again: {job.again}",
        )
        error.code = CANCELLED
        raise error
    raise from_dict(job.error or queue.lost(job).to_dict())


def cancel(home: Path, id: int) -> Job:
    """End a job, its work cleaning up first; the job as it ended. Refused when it had ended already."""
    jobs = Jobs(home)
    with jobs.lock():
        queue.settle(jobs, restart=False)
        job = jobs.read(id)
        if not job.live:
            raise Refused(f"job {id} is over: {job.state}", hint=f"llmctl jobs show {id}")
        job = replace(job, cancelled_by=job.cancelled_by or queue.owner())
        if job.state == QUEUED:
            return queue.finish(jobs, replace(job, state=CANCELLED))
        with contextlib.suppress(OSError):  # a full disk: the worker knows it from the signal too
            jobs.write(job)
    process = job.process
    assert process
    tree.send(process, signal.SIGTERM)
    end = time.monotonic() + job.grace + BEYOND_GRACE
    while (job := queue.look(home, id)).state == RUNNING:
        if time.monotonic() > end:
            tree.send(process, signal.SIGKILL)
        time.sleep(POLL)
    return job
