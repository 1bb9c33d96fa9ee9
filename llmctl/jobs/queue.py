"""The queue of a host: one job of a lane runs, the others wait in the order of their ids.

Each job waits in a process of its own and takes its turn under the queue's lock, a flock. Nobody's death leaves
anything held: a running job without its process is `lost`, a queued one is started again by the next command.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmctl.errors import LlmctlError, Refused
from llmctl.files import private
from llmctl.jobs import kinds, tree
from llmctl.jobs.state import CANCELLED, FAILED, LANES, LOST, QUEUED, RUNNING, Job, Jobs
from llmctl.processes import ProcessId, own_environment

GRACE = 10.0
KEEP_SECONDS, KEEP_COUNT = 30 * 86400.0, 100
STARTS = 3
RESERVE = 64 * 2**10


def submit(
    home: Path, kind: str, arguments: Mapping[str, Any], title: str, lane: str, grace: float = GRACE
) -> tuple[Job, bool]:
    """A job that does this, and whether it was there already: the same work is not done twice at once."""
    kinds.check(kind)
    kinds.python(kind)  # before the job is one
    if lane not in LANES:
        raise Refused(f"{lane!r} is no lane", hint=f"one of {', '.join(LANES)}")
    arguments = json.loads(json.dumps(arguments))
    jobs = Jobs(home)
    with jobs.lock():
        found = settle(jobs)
        for job in found:
            if job.live and not job.cancelled_by and (job.kind, job.arguments) == (kind, arguments):
                return job, True
        prune(jobs, found)
        token = secrets.token_hex(16)
        job = Job(_next_id(jobs), kind, title, arguments, lane, owner(), time.time(), token, grace)
        _make(jobs, job)
        try:
            return start(jobs, job), False
        except OSError:
            shutil.rmtree(jobs.folder(job.id), ignore_errors=True)
            raise


def overview(home: Path) -> tuple[list[Job], list[tuple[int, LlmctlError]]]:
    """All jobs as they are now, and those whose file cannot be read."""
    jobs = Jobs(home)
    found, torn = jobs.all()
    if any(job.live and not job.alive for job in found):
        with jobs.lock():
            found = settle(jobs)
    return found, torn


def look(home: Path, id: int) -> Job:
    """One job as it is now."""
    jobs = Jobs(home)
    job = jobs.read(id)
    if job.live and not job.alive:
        with jobs.lock():
            job = next((job for job in settle(jobs) if job.id == id), job)
    return job


def turn(jobs: Iterable[Job], lane: str) -> int | None:
    """Whose turn it is in `lane`: the first that waits, once nothing runs."""
    here = [job for job in jobs if job.lane == lane]
    if any(job.state == RUNNING for job in here):
        return None
    return min((job.id for job in here if job.state == QUEUED and job.alive), default=None)


def settle(jobs: Jobs, restart: bool = True) -> list[Job]:
    """All jobs, after those whose process is gone are lost, cancelled or (with `restart`) started again. Under lock."""
    return [_settled(jobs, job, restart) if job.live and not job.alive else job for job in jobs.all()[0]]


def _settled(jobs: Jobs, job: Job, restart: bool) -> Job:
    if job.state == QUEUED and not job.cancelled_by:
        with contextlib.suppress(OSError):  # a full disk: the next command tries again
            return start(jobs, job) if restart else job
        return job
    tree.end_marked(job.token)
    state = CANCELLED if job.cancelled_by else LOST
    return finish(jobs, replace(job, state=state, error=lost(job).to_dict() if state == LOST else None))


def finish(jobs: Jobs, job: Job) -> Job:
    """Write the end of a job, if the disk lets us: room was kept for it. Under lock."""
    (jobs.folder(job.id) / "reserve").unlink(missing_ok=True)
    job = replace(job, ended=time.time())
    with contextlib.suppress(OSError):
        jobs.write(job)
    return job


def lost(job: Job) -> LlmctlError:
    """The error that a job is whose process went without a word."""
    rebooted = job.process is not None and job.process.boot != ProcessId.of(os.getpid()).boot
    why = "this host was rebooted" if rebooted else "its process was killed"
    error = LlmctlError(f"job {job.id} is lost: {why}", hint=f"run it again: {job.again}")
    error.code = "lost"
    return error


def start(jobs: Jobs, job: Job) -> Job:
    """A process of its own waits for the job's turn. Under lock."""
    if job.starts >= STARTS:
        error = LlmctlError(f"the process of job {job.id} does not start", hint=f"see {jobs.log(job.id)}")
        return finish(jobs, replace(job, state=FAILED, error=error.to_dict()))
    argv = [sys.executable, "-m", "llmctl.jobs.worker", str(job.id), "--home", str(jobs.home)]
    with open(jobs.log(job.id), "ab", opener=private) as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=jobs.home, start_new_session=True,
            env={**own_environment(), tree.TOKEN: job.token},
        )  # fmt: skip
    process.returncode = 0  # it outlives us: nobody here waits for it
    return jobs.write(replace(job, process=ProcessId.of(process.pid), starts=job.starts + 1))


def prune(jobs: Jobs, found: Iterable[Job], all_ended: bool = False) -> list[int]:
    """Forget the ended jobs that are too old or too many, or all of them; their ids. Under lock."""
    ended = [job for job in found if not job.live][::-1]
    oldest = time.time() - KEEP_SECONDS
    gone = [job for i, job in enumerate(ended) if all_ended or i >= KEEP_COUNT or (job.ended or 0) < oldest]
    for job in gone:
        shutil.rmtree(jobs.folder(job.id), ignore_errors=True)
    return sorted(job.id for job in gone)


def owner() -> str:
    """user@host of the caller."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _next_id(jobs: Jobs) -> int:
    """One more than ever was given; the counter outlives the jobs that were pruned."""
    counter = jobs.path / "last-id"
    try:
        last = int(counter.read_text())
    except (OSError, ValueError):
        last = 0
    new = max([last, *jobs.ids()]) + 1
    temp = counter.with_suffix(".tmp")
    with open(temp, "w", opener=private) as file:
        file.write(str(new))
    os.replace(temp, counter)
    return new


def _make(jobs: Jobs, job: Job) -> None:
    """The folder of a new job appears whole or not at all."""
    made = jobs.path / ".new"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(mode=0o700)
    try:
        jobs.write(job, made)
        with open(made / "reserve", "wb", opener=private) as reserve:
            reserve.write(b"\0" * RESERVE)
        os.rename(made, jobs.folder(job.id))
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        raise
