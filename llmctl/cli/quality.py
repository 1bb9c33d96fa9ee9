"""`llmctl quality`: whether handles can do what they could before, and their servers keep what they must."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from llmctl import tables
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, UsageError

app = typer.Typer()
PATIENCE = 300.0
"""Seconds that one answer may take, where nothing else is said."""


@app.command()
def quality(
    ctx: typer.Context,
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[HANDLE]...", help="Handles, models, or slots: 8101, HOST:8101.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PROMPT", help="Only these prompts, or a glob; repeatable.")
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="What fails now may: this run is the baseline from now on.")
    ] = False,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your prompts, instead of quality.toml beside hosts.toml.")
    ] = None,
    patience: Annotated[str | None, typer.Option(metavar="TIME", help="How long one answer may take: 5m.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the prompts, and ask nobody.")] = False,
) -> Answer:
    """Ask each handle the prompts of the quality matrix. 1: one got worse, or a server lets something through."""
    from llmctl.cli import quality_kept, quality_places
    from llmctl.cli.reach import Reach
    from llmctl.quality import prompts as files

    session: Session = ctx.obj
    meant = files.select(files.load(prompts or files.of_operator(session.config.dir)), only or ())
    if list_:
        return Answer({"prompts": [asdict(prompt) for prompt in meant]})
    if not targets:
        raise UsageError("whose quality?", hint="llmctl quality HANDLE, or a slot: llmctl quality 8101")
    seconds = tables.seconds(patience) if patience else PATIENCE
    found: list[dict[str, Any]] = []
    errors: list[LlmctlError] = []
    with Reach(session) as reach, session.progress(plain=True) as on_event:
        for text in dict.fromkeys(targets):
            try:
                run = quality_kept.measure(
                    quality_places.find(reach, text), meant, seconds,
                    lambda message: on_event({"event": "note", "message": message}),
                )  # fmt: skip
            except LlmctlError as error:
                errors.append(error)
                continue
            data, unkept = quality_kept.judge(session, run, accept=accept)
            found.append(data)
            errors += [unkept] if unkept else []
    return Answer({"runs": found} if found else {}, _code(found, errors), tuple(errors))


def _code(found: list[dict[str, Any]], errors: list[LlmctlError]) -> int:
    """1 with a finding; else 3 where some could not be asked or kept, and the first error's where nobody was."""
    if any(not run["good"] for run in found):
        return 1
    if errors:
        return 3 if found else errors[0].exit_code
    return 0
