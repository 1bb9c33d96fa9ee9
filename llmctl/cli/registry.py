"""`llmctl registry`: registry.json of the tool that llmctl replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmctl import paths
from llmctl.cli import options as o
from llmctl.envelope import Answer

app = typer.Typer(help="Read and write registry.json.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="A registry.json of version 1 or 2.")]
MaybeFile = Annotated[Path | None, typer.Argument(metavar="[FILE]")]
ProfileOption = Annotated[str, typer.Option("--profile", metavar="NAME", help="The profile that its ports are.")]


@app.command("import")
def import_(ctx: typer.Context, file: File, profile: ProfileOption = "imported", dry_run: o.DryRun = False) -> Answer:
    """Bring its models, ports and last-known-good targets over; nothing is downloaded, nothing there is changed."""
    from llmctl.cli import registry_work

    paths.check_name(profile, "profile")
    return registry_work.import_(ctx.obj, file, profile, dry_run)


@app.command()
def export(ctx: typer.Context, file: MaybeFile = None, profile: ProfileOption = "imported") -> Answer:
    """Write what lies and runs here as registry.json, version 2: to FILE, or to stdout."""
    from llmctl.cli import registry_work

    return registry_work.export(ctx.obj, file, profile)


@app.command()
def check(ctx: typer.Context, file: MaybeFile = None, profile: ProfileOption = "imported") -> Answer:
    """All that is wrong with FILE, or with what `export` would write, each with its place; exit code 1 if anything."""
    from llmctl.cli import registry_work

    return registry_work.check(ctx.obj, file, profile)
