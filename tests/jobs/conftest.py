"""A host for jobs: a state folder with the tests' kinds of work, and callers as processes of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.jobs import queue, tree
from llmctl.jobs.kinds import TESTS
from llmctl.jobs.state import Job, Jobs
from tests.conftest import REPO, eventually
from tests.jobs import works


class JobHost:
    """The jobs of one state folder."""

    def __init__(self, home: Path) -> None:
        self.home, self.jobs = home, Jobs(home)
        self.callers: list[subprocess.Popen[str]] = []

    def submit(self, kind: str, lane: str = "network", grace: float = 5.0, **arguments: Any) -> Job:
        return queue.submit(self.home, kind, arguments, "of the test", lane, grace)[0]

    def look(self, job: Job) -> Job:
        return queue.look(self.home, job.id)

    def ended(self, job: Job) -> Job:
        """The job once it is over, without any command having looked after it."""
        eventually(lambda: not self.jobs.read(job.id).live)
        return self.jobs.read(job.id)

    def running(self, job: Job) -> Job:
        """The job once its work has told something."""
        eventually((self.jobs.folder(job.id) / "progress.json").exists)
        return self.jobs.read(job.id)

    def waiting(self, job: Job) -> Job:
        """The job once its process waits for its turn: it handles SIGTERM, which it does from then on."""
        assert job.process
        status = Path(f"/proc/{job.process.pid}/status")
        eventually(lambda: int(re.findall(r"SigCgt:\s*(\w+)", status.read_text())[0], 16) >> (signal.SIGTERM - 1) & 1)
        time.sleep(0.2)
        return self.jobs.read(job.id)

    def log(self, job: Job) -> str:
        return self.jobs.log(job.id).read_text()

    def python(self, *argv: object, **options: Any) -> subprocess.Popen[str]:
        """A process of this interpreter, its output piped."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(
            [sys.executable, *map(str, argv)], text=True, cwd=REPO, stdin=subprocess.DEVNULL, **pipes
        )
        self.callers.append(process)
        return process

    def llmctl(self, *argv: object, **options: Any) -> subprocess.Popen[str]:
        return self.python("-m", "llmctl", *argv, **options)

    def caller(self, kind: str, arguments: str, *options: str, **popen: Any) -> subprocess.Popen[str]:
        """A command line that does this work as a job, as `pull` does."""
        return self.python("-m", "tests.jobs.caller", kind, arguments, *options, **popen)

    def end(self) -> None:
        for process in self.callers:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.communicate()
        for job in self.jobs.all()[0]:
            if job.process:
                tree.send(job.process, signal.SIGKILL)
            tree.end_marked(job.token)


@pytest.fixture
def host(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobHost]:
    monkeypatch.setenv(TESTS, works.KINDS)
    monkeypatch.setenv("HF_TOKEN", "hf_canary0123456789")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    found = JobHost(home)
    yield found
    found.end()


def gone(pid: int) -> bool:
    """No process has this pid, or a zombie that its parent has not looked at."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def kill(job: Job) -> None:
    """Kill -9 the job's own process."""
    assert job.process
    os.kill(job.process.pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Those of a process, directly below it."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
