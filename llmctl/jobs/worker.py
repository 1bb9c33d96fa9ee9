"""The detached process of one job: waits for its turn, runs the work below itself, keeps its log, writes its end.

`python -m llmctl.jobs.worker ID --home H`. It leads a session of its own, adopts what the work's processes
leave behind, and ends only when nothing of the job is alive.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmctl import hf_token
from llmctl.errors import LlmctlError
from llmctl.jobs import kinds, queue, tree
from llmctl.jobs.secrets import Secrets
from llmctl.jobs.state import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Job, Jobs
from llmctl.logs import Lines, Log, read
from llmctl.processes import ProcessId

POLL = 0.2
FULL_DISK = 60.0
LAST_LINES = 10


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("id", type=int)
    parser.add_argument("--home", type=Path, required=True)
    options = parser.parse_args(argv)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        worker = Worker(Jobs(options.home), options.id)
        signal.signal(signal.SIGTERM, worker.on_term)
        job = worker.wait()
        if job:
            worker.finish(worker.work(job))
    except (LlmctlError, OSError) as error:  # its folder is gone, or its state torn: there is nowhere else to tell
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


class Worker:
    """One job from its turn to its end."""

    def __init__(self, jobs: Jobs, id: int) -> None:
        self.jobs, self.id, self.me = jobs, id, ProcessId.of(os.getpid())
        self.log, self.secrets = Log(jobs.log(id)), Secrets(os.environ, [hf_token.stored(jobs.home)])
        self.child: subprocess.Popen[bytes] | None = None
        self.terminated: float | None = None

    def on_term(self, number: int, frame: object) -> None:
        """Pass a cancellation on to the work; what is still there after its grace is killed."""
        if self.terminated is None:
            self.terminated = time.monotonic()
            if self.child:
                self.child.send_signal(signal.SIGTERM)

    def wait(self) -> Job | None:
        """The job once it runs; None when it is not to run, or another process has it."""
        with self.jobs.lock():
            job = self.jobs.read(self.id)
            if job.state != QUEUED or (job.process != self.me and job.alive):
                return None
            if job.process != self.me:
                self.jobs.write(replace(job, process=self.me))
        while True:
            if self.terminated is not None:
                with self.jobs.lock():
                    queue.finish(self.jobs, replace(self.jobs.read(self.id), state=CANCELLED))
                return None
            job = self.jobs.read(self.id)
            if job.state != QUEUED:
                return None
            if not self._ahead(job):
                with self.jobs.lock():
                    if queue.turn(queue.settle(self.jobs, restart=False), job.lane) == self.id:
                        return self.jobs.write(replace(self.jobs.read(self.id), state=RUNNING, started=time.time()))
            time.sleep(POLL)

    def _ahead(self, job: Job) -> bool:
        """Somebody runs or waits before us, as far as can be seen without the lock."""
        others = [other for other in self.jobs.all()[0] if other.lane == job.lane and other.live and other.alive]
        return any(other.state == RUNNING or other.id < job.id for other in others)

    def work(self, job: Job) -> Job:
        """Run the work until nothing of it is alive; the job as it ended."""
        tree.adopt_orphans()
        said, says = os.pipe()
        printed, prints = os.pipe()
        argv = [
            kinds.python(job.kind),
            "-m",
            "llmctl.jobs.work",
            str(self.me.pid),
            str(self.jobs.folder(self.id)),
            str(says),
        ]
        self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=prints, stderr=prints, pass_fds=(says,))
        if self.terminated is not None:
            self.child.send_signal(signal.SIGTERM)
        os.close(says)
        os.close(prints)
        end = self._listen(job, said, printed)
        return self._ended(job, end)

    def _listen(self, job: Job, said: int, printed: int) -> Mapping[str, Any]:
        """Log what the work prints and notes, until its process is gone; its last message."""
        assert self.child
        end: Mapping[str, Any] = {}
        rest, lines, open_pipes = b"", Lines(), [said, printed]
        gone = False
        while True:
            ready = select.select(open_pipes, [], [], 0 if gone else POLL)[0]
            for fd in ready:
                data = os.read(fd, 2**16)
                if fd == printed:
                    for line in lines.feed(data):
                        self._log("out", line)
                else:
                    *messages, rest = (rest + data).split(b"\n")
                    for message in messages:
                        end = self._heard(message) or end
                if not data:
                    open_pipes.remove(fd)
            if gone and not ready:
                break
            if not gone and self.terminated is not None and time.monotonic() - self.terminated > job.grace:
                self.child.kill()
            if not gone and self.child.poll() is not None:
                tree.end_children()
                tree.end_marked(job.token)
                gone = True
        for line in lines.feed(b""):
            self._log("out", line)
        return end

    def _heard(self, line: bytes) -> Mapping[str, Any] | None:
        """Log a note; what is no note is the last message. A line that is torn says nothing."""
        try:
            message = json.loads(self.secrets.hide(line.decode()))
        except ValueError:
            return None
        if "note" not in message:
            return dict(message)
        self._log("note", message["note"])
        return None

    def _ended(self, job: Job, end: Mapping[str, Any]) -> Job:
        assert self.child
        if "result" in end:
            return replace(job, state=DONE, result=end["result"])
        if self.terminated is not None:
            return replace(job, state=CANCELLED)
        return replace(job, state=FAILED, error=end.get("error") or self._died(self.child.returncode).to_dict())

    def _died(self, code: int) -> LlmctlError:
        how = f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with code {code}"
        why = "; so the kernel ends a process when memory runs out" if code == -signal.SIGKILL else ""
        log = [line.partition(" out: ")[2] for line in read(self.log.path, LAST_LINES) if " out: " in line]
        error = LlmctlError(f"the work's process {how}{why}", hint=f"llmctl jobs logs {self.id}", details={"log": log})
        error.code = "died"
        return error

    def finish(self, job: Job) -> None:
        """Write the end; on a full disk, try again for a while."""
        end = time.monotonic() + FULL_DISK
        while True:
            with self.jobs.lock():
                now = self.jobs.read(self.id)
                queue.finish(self.jobs, replace(job, cancelled_by=now.cancelled_by))
                if not self.jobs.read(self.id).live or time.monotonic() > end:
                    return
            time.sleep(1.0)

    def _log(self, who: str, line: str) -> None:
        with contextlib.suppress(OSError):  # a full disk does not stop the work
            self.log.line(who, self.secrets.hide(line))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
