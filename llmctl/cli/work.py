"""What the verbs of long work share: submit it as a job of this host, watch it, and answer as if it had run here."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from llmctl.cli.session import Session
from llmctl.envelope import Answer


def run(
    session: Session, kind: str, arguments: Mapping[str, Any], title: str, detach: bool = False, needs: str = "network"
) -> Answer:
    """Do `kind` of work as a job, and answer with its result or raise its error; with `detach`, answer at once.

    `title` is what follows the verb on the command line (`qwen2.5-32b --to mlx`): hints repeat `llmctl KIND TITLE`.
    `needs` is the lane, "network" or "compute". The same work that is under way already is joined, not done twice.
    """
    from llmctl.jobs import queue

    job, joined = queue.submit(session.home, kind, arguments, title, needs)
    if detach:
        from llmctl.cli.jobs import row

        return Answer({"detached": {**row(session.home, job), "joined": joined}})
    if joined:
        _say(session, f"job {job.id} of {job.owner} does this already: joining it")
    return Answer(watch(session, job.id))


def watch(session: Session, id: int) -> Mapping[str, Any]:
    """Show a job's progress until its end; its result, or its error raised. Ctrl-C and SIGHUP leave it running."""
    from llmctl.jobs import attach

    try:
        with _hang_up(), session.progress() as on_event:
            job = attach.follow(session.home, id, on_event)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be gone
            _say(session, f"job {id} goes on: llmctl jobs attach {id} · llmctl jobs cancel {id}")
        raise
    return attach.outcome(job)


def _say(session: Session, message: str) -> None:
    with session.progress(plain=True) as on_event:
        on_event({"event": "note", "message": message})
    sys.stderr.flush()


@contextlib.contextmanager
def _hang_up() -> Iterator[None]:
    """Within, a SIGHUP (the terminal or the ssh connection went away) ends the watching as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
