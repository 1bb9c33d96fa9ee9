"""`llmctl gateway up --engine litellm` and `llmctl gateway render litellm`: LiteLLM in place of our own gateway."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from llmctl.cli.session import Session
from llmctl.envelope import Answer

app = typer.Typer(help="What other programs are to be told of the handles.")
Where = Annotated[
    str | None, typer.Option("--redis", metavar="HOST:PORT", help="Where several instances keep what they share.")
]


@app.command()
def litellm(
    ctx: typer.Context,
    redis: Where = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there instead.")] = None,
) -> Answer:
    """A LiteLLM proxy's configuration with all handles; keys stand in it by the names of their variables."""
    from llmctl.cli import handles_work
    from llmctl.cli.reach import Reach
    from llmctl.files import write_text
    from llmctl.gateway.litellm import Redis, rendered

    where = Redis.of(redis) if redis else None
    with Reach(ctx.obj) as reach:
        made, problems, errors = handles_work.derived(reach)
    found = rendered(made, where)
    if out:
        write_text(out, found.text)
    answer = handles_work.shown(made, problems, errors)
    data = {
        "text": found.text, "environment": found.environment, "notes": list(found.notes), "hash": made.hash,
        "file": str(out) if out else None,
    }  # fmt: skip
    return Answer({**data, "problems": answer.data["problems"]}, answer.exit_code, answer.errors)


def up(session: Session, port: int, bind: str, redis: str | None, python: Path | None) -> Answer:
    """Have a LiteLLM on this machine's gateway port; its environment is made first, where it is not there."""
    from llmctl.cli import handles_work
    from llmctl.cli.reach import Reach
    from llmctl.gateway import life, litellm_env, litellm_plan
    from llmctl.gateway.litellm import PASSWORD, Redis

    where = Redis.of(redis) if redis else None
    if python is None:
        with session.progress(plain=True) as on_event:
            python = litellm_env.made(session.home, lambda text: on_event({"event": "note", "message": text}))
    python = python.absolute()  # not resolved: that of an environment is a link to one that is in none
    litellm_env.check(python)
    if where and (password := os.environ.get(PASSWORD)):
        litellm_plan.keep_password(session.home, password)
    with Reach(session) as reach:
        made, problems, errors = handles_work.synced(reach)
    launch = replace(session.launch(session.here()), bind=bind, require_key=False)
    started = life.up(session.home, port, launch, litellm_plan.spec(python, where))
    answer = handles_work.shown(made, problems, errors)
    data = {**answer.data, "port": port, "bind": bind, "started": started}
    return Answer(data, answer.exit_code, answer.errors)
