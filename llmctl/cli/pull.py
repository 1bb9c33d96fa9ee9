"""`llmctl pull`: bring a model to this host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmctl.cli import options as o
from llmctl.cli.copying import from_host
from llmctl.cli.far import on_hosts
from llmctl.cli.session import Session
from llmctl.envelope import Answer

if TYPE_CHECKING:
    from llmctl.models.wanted import Wanted, Wish

app = typer.Typer()


@app.command()
@from_host
@on_hosts(goes_on=True)
def pull(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model, or org/repo[:FILE.gguf] of the hub.")],
    format: Annotated[str, typer.Option(help="auto, safetensors, mlx or gguf.")] = "auto",
    quantization: o.Quantization = None,
    revision: Annotated[str | None, typer.Option(help="A commit, tag or branch, instead of the entry's.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Answer at once; see `llmctl jobs`.")] = False,
    dry_run: o.DryRun = False,
) -> Answer:
    """Fetch a model's files from the hub, whole and checked; go on where an earlier pull stopped."""
    return fetch(ctx.obj, model, format.lower(), quantization, revision, detach, dry_run)


def fetch(
    session: Session,
    model: str,
    format: str = "auto",
    quantization: str | None = None,
    revision: str | None = None,
    detach: bool = False,
    dry_run: bool = False,
) -> Answer:
    """The pull on this machine; answers at once when all is here and unchanged."""
    from llmctl.jobs.context import Silent
    from llmctl.models import pull
    from llmctl.models.wanted import Wish

    wanted = _wanted(session, Wish(model, format, quantization, revision))
    job = Silent()
    kept = None if dry_run else pull.settled(wanted, job)
    if dry_run or kept:
        data = kept or {"plan": pull.plan(wanted, job).to_dict()}
        with session.progress() as on_event:
            for note in job.notes:
                on_event({"event": "note", "message": note})
        return Answer(data)
    from llmctl.cli import work

    title = " ".join([model, *_options(format, quantization, revision)])
    return work.run(session, "pull", wanted.to_dict(), title, detach, needs="network")


def _wanted(session: Session, wish: Wish) -> Wanted:
    """The pull, with all that the job's process may not look up."""
    from huggingface_hub import constants

    from llmctl import catalog
    from llmctl.models import wanted
    from llmctl.slots.resolve import backend_of

    return wanted.resolve(
        wish,
        session.catalog,
        pinned=catalog.load(session.config.dir).models,
        backend=backend_of(session.host()),
        models_dir=str(session.models_dir),
        cache=constants.HF_HUB_CACHE,
        endpoint=constants.ENDPOINT,
    )


def _options(format: str, quantization: str | None, revision: str | None) -> list[str]:
    given = {"--format": format if format != "auto" else None, "--quantization": quantization, "--revision": revision}
    return [f"{option} {value}" for option, value in given.items() if value]
