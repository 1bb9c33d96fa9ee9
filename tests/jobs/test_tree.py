"""Which processes are ended with a job, and which are not."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

from llmctl.jobs import tree
from llmctl.processes import ProcessId
from tests.conftest import eventually
from tests.jobs.conftest import JobHost, gone

SLEEP = ("-c", "import time; time.sleep(60)")


def test_f11_only_the_very_process_is_signalled(host: JobHost) -> None:
    process = host.python(*SLEEP)
    this = ProcessId.of(process.pid)
    assert not tree.send(replace(this, start="1"), signal.SIGKILL)
    assert not tree.send(replace(this, boot="another boot"), signal.SIGKILL)
    time.sleep(0.2)
    assert process.poll() is None
    assert tree.send(this, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    assert not tree.send(this, signal.SIGKILL)


def test_only_what_is_marked_is_ended(host: JobHost) -> None:
    marks = ("one", "one-more", "on", "two")
    processes = {mark: host.python(*SLEEP, env={**os.environ, tree.TOKEN: mark}) for mark in marks}
    mentions = host.python(*SLEEP, "LLMCTL_JOB=one", env={"OTHER": "LLMCTL_JOB=one"}, start_new_session=True)
    assert tree.end_marked("one")
    eventually(lambda: gone(processes["one"].pid))
    time.sleep(0.2)
    assert mentions.poll() is None
    assert [mark for mark in marks if processes[mark].poll() is None] == ["one-more", "on", "two"]
