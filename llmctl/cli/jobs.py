"""`llmctl jobs`: the long work of a host."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl.cli import work
from llmctl.cli.far import on_hosts
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.jobs.state import Jobs, number

if TYPE_CHECKING:
    from llmctl.jobs.state import Job

app = typer.Typer(help="Long work that outlives its caller.")
RECENT = 86400.0


def _ids(incomplete: str) -> list[str]:
    from llmctl import paths

    return [id for id in map(str, Jobs(paths.home()).ids()) if id.startswith(incomplete)]


Id = Annotated[str, typer.Argument(metavar="ID", autocompletion=_ids)]


@app.command("list")
@on_hosts(rows="jobs", reads=True)
def list_jobs(
    ctx: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Also those that ended more than a day ago.")] = False,
) -> Answer:
    """The jobs that wait or run, and those that ended within a day."""
    from llmctl.jobs import queue

    session: Session = ctx.obj
    found, torn = queue.overview(session.home)
    recent = time.time() - RECENT
    rows = [row(session.home, job) for job in found if every or job.live or (job.ended or 0) > recent]
    rows += [unreadable(id, error.to_dict()) for id, error in torn]
    return Answer({"jobs": sorted(rows, key=lambda row: int(row["id"]))})


@app.command()
@on_hosts(single=True, reads=True)
def show(ctx: typer.Context, id: Id) -> Answer:
    """One job: what it was told, how far it is, how it ended."""
    from llmctl.jobs import queue

    session: Session = ctx.obj
    job = queue.look(session.home, number(id))
    extra = {"arguments": job.arguments, "result": job.result, "cancelled_by": job.cancelled_by, "again": job.again}
    return Answer({"job": {**row(session.home, job), **extra}})


@app.command()
@on_hosts(single=True, goes_on=True)
def attach(ctx: typer.Context, id: Id) -> Answer:
    """Watch a job until its end, and answer as its verb would have. Ctrl-C leaves it running."""
    from llmctl.jobs import queue

    session: Session = ctx.obj
    job = queue.look(session.home, number(id))
    result = work.watch(session, job.id)
    return Answer({"job": row(session.home, queue.look(session.home, job.id)), "result": result})


@app.command()
@on_hosts(single=True)
def cancel(ctx: typer.Context, id: Id) -> Answer:
    """End a job: it cleans up, and what does not end in time is killed."""
    from llmctl.jobs import attach

    session: Session = ctx.obj
    return Answer({"job": row(session.home, attach.cancel(session.home, number(id)))})


@app.command()
@on_hosts(single=True, reads=True, lines=True)
def logs(
    ctx: typer.Context,
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until the job ends.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 100,
) -> Answer:
    """What a job noted, and what its work printed."""
    session: Session = ctx.obj
    return Answer(stream=_log(session.home, number(id), follow, lines))


@app.command()
@on_hosts()
def prune(
    ctx: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="All that have ended, not only the oldest.")] = False,
) -> Answer:
    """Forget ended jobs: those older than 30 days, and all but the last 100."""
    from llmctl.jobs import queue

    jobs = Jobs(ctx.obj.home)
    with jobs.lock():
        return Answer({"removed": queue.prune(jobs, queue.settle(jobs), every)})


def row(home: Path, job: Job) -> dict[str, Any]:
    """The JSON of a job, as `data.jobs[]` has it; times are epoch seconds, `speed` is in units of `total` a second."""
    from llmctl.jobs import attach

    progress = attach.progress_of(Jobs(home), job) or {}
    moving = progress if job.live else {}
    return {
        "id": job.id,
        "kind": job.kind,
        "title": job.title,
        "state": job.state,
        "lane": job.lane,
        "stage": progress.get("stage"),
        "done": progress.get("done", 0),
        "total": progress.get("total", 0),
        "speed": moving.get("speed"),
        "eta": moving.get("eta"),
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
        "owner": job.owner,
        "error": job.error,
    }


def unreadable(id: int, error: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a job whose file cannot be read."""
    known = dict.fromkeys(("kind", "title", "lane", "stage", "speed", "eta", "created", "started", "ended", "owner"))
    return {"id": id, "state": "unreadable", "done": 0, "total": 0, **known, "error": error}


def _log(home: Path, id: int, follow: bool, lines: int) -> Generator[str, None, Mapping[str, Any]]:
    from llmctl import logs
    from llmctl.jobs import queue

    queue.look(home, id)
    seen = []
    for line in logs.read(Jobs(home).log(id), lines, lambda: follow and queue.look(home, id).live):
        yield line + "\n"
        if not follow:
            seen.append(line)
    return {"id": id, "lines": seen}
