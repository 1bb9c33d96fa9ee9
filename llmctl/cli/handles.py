"""`llmctl handles`: the names that clients send, and what stands behind each."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llmctl.cli import options as o
from llmctl.cli.session import Session
from llmctl.envelope import Answer

app = typer.Typer(help="The names that clients send to the gateway.")
Name = Annotated[str, typer.Argument(metavar="HANDLE")]


@app.command("list")
def list_(ctx: typer.Context) -> Answer:
    """All handles, as the profiles and the slots have them now."""
    from llmctl.cli import handles_work
    from llmctl.cli.reach import Reach

    with Reach(ctx.obj) as reach:
        return handles_work.shown(*handles_work.derived(reach))


@app.command()
def show(ctx: typer.Context, name: Name) -> Answer:
    """One handle: its slots, its fallbacks, what it promises."""
    from llmctl.cli import handles_work
    from llmctl.cli.reach import Reach

    with Reach(ctx.obj) as reach:
        made, _, errors = handles_work.derived(reach)
    handle = made.find(name)
    chain = [one.name for one in made.chain(handle)]
    data = {"handle": asdict(handle), "chain": chain, "kept": handles_work.kept(made, errors)}
    return Answer(json.loads(json.dumps(data)), 3 if errors else 0, tuple(errors))


@app.command()
def sync(ctx: typer.Context) -> Answer:
    """Write what the gateway goes by; one that runs here has taken it up then."""
    from llmctl.cli import handles_work
    from llmctl.cli.reach import Reach

    session: Session = ctx.obj
    with Reach(session) as reach:
        return handles_work.shown(*handles_work.synced(reach))


@app.command()
def export(
    ctx: typer.Context,
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="That of hosts.toml without it.")] = None,
) -> Answer:
    """Write handles.jsonl, which other tools read, and beside it what that has no place for."""
    from llmctl.cli import handles_files, handles_work
    from llmctl.cli.reach import Reach

    session: Session = ctx.obj
    with Reach(session) as reach:
        made, problems, errors = handles_work.derived(reach)
    paths = handles_files.export(session, made, folder or session.folder)
    answer = handles_work.shown(made, problems, errors)
    return Answer({**answer.data, "files": paths}, answer.exit_code, answer.errors)


@app.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A handles.jsonl; its sidecar counts where it is beside.")
    ],
    host: Annotated[str | None, typer.Option("--host", metavar="HOST", help="Whose slots its endpoints are.")] = None,
    profile: Annotated[str | None, typer.Option("--profile", metavar="NAME", help="Only slots of this one.")] = None,
    dry_run: o.DryRun = False,
) -> Answer:
    """Give the slots of profiles the handles of FILE; lines of what is no slot are kept, and exported again."""
    from llmctl.cli import handles_import
    from llmctl.cli.reach import Reach

    with Reach(ctx.obj) as reach:
        return handles_import.imported(reach, file, host, profile, dry_run)


@app.command()
def check(
    ctx: typer.Context,
    live: Annotated[bool, typer.Option("--live", help="Ask each slot, and the gateway, what they answer to.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Write what is made anew: the generated files alone.")] = False,
) -> Answer:
    """Whether handles, profiles, slots and the files made of them say the same. 1: something does not."""
    from llmctl.cli import handles_check
    from llmctl.cli.reach import Reach

    with Reach(ctx.obj) as reach:
        return handles_check.checked(reach, live=live, fix=fix)
