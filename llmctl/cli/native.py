"""`llmctl native`: llama.cpp built for the CPU of a host, in place of the wheel that runs on any."""

from __future__ import annotations

from typing import Annotated

import typer

from llmctl.cli.far import on_hosts
from llmctl.cli.session import Session
from llmctl.envelope import Answer

app = typer.Typer(help="llama.cpp built for this very CPU.")


@app.command()
@on_hosts(goes_on=True)
def build(
    ctx: typer.Context,
    jobs: Annotated[int, typer.Option(min=0, help="Compilers at once; 0: as many as there are cores.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Make it again if it is there.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Answer at once; see `llmctl jobs`.")] = False,
) -> Answer:
    """Build it, at low priority; engines that start later use it. A deploy starts this by itself."""
    from llmctl.cli import work
    from llmctl.native.build import able

    session: Session = ctx.obj
    able()
    title = " ".join(["build", *([f"--jobs {jobs}"] if jobs else []), *(["--force"] if force else [])])
    arguments = {"home": str(session.home), "jobs": jobs, "force": force}
    return work.run(session, "native", arguments, title, detach, needs="compute")


@app.command()
@on_hosts(rows="native", reads=True)
def status(ctx: typer.Context) -> Answer:
    """Which llama.cpp engines of this host load, and why."""
    from llmctl.native import builds

    session: Session = ctx.obj
    return Answer({"native": [builds.described(session.home)]})


@app.command()
@on_hosts()
def remove(ctx: typer.Context) -> Answer:
    """Remove what was built: engines that start later load the wheel's."""
    from llmctl.native import builds

    session: Session = ctx.obj
    return Answer({"removed": builds.remove(session.home)})
