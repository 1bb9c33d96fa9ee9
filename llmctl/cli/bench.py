"""`llmctl bench`: how fast a slot or a model is, where the time of its engine goes, and what was measured before."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from llmctl import tables
from llmctl.cli import options as o
from llmctl.cli.session import Session, Target
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, UsageError

app = typer.Typer(help="How fast a slot answers.")


@app.command()
def run(
    ctx: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="PORT|MODEL", help="8101, HOST:8101, or a model for a scratch port.")
    ],
    requests: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="In each run. Default: 8, or two for each stream.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="N[,N]...", help="Tokens of each prompt. Default: 128.")
    ] = None,
    new: Annotated[
        list[str] | None, typer.Option(metavar="N[,N]...", help="Tokens of each answer. Default: 64.")
    ] = None,
    streams: Annotated[list[str] | None, typer.Option(metavar="N[,N]...", help="How many at once. Default: 1.")] = None,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Of each load; the median counts.")] = 3,
    compare: Annotated[
        str | None, typer.Option(metavar="URL|PORT", help="A second server, measured in turns: a URL or HOST:PORT.")
    ] = None,
    compare_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the server at URL calls the model, where it has several.")
    ] = None,
    key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable with the key of the server at URL.")
    ] = None,
    engine: o.Engine = "auto",
    quantization: o.Quantization = None,
    context: o.Context = None,
    parallel: o.Parallel = None,
    ready_within: Annotated[str, typer.Option(metavar="TIME", help="How long MODEL may take to load.")] = "10m",
    patience: Annotated[str, typer.Option(metavar="TIME", help="How long one answer may take.")] = "10m",
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Then trace the engine over two more: a file on its host, and the top ten."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --profile: also put the file into this folder of its host.")
    ] = None,
    no_proof: Annotated[bool, typer.Option("--no-proof", help="Keep no proof bundle.")] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Keep names of hosts, addresses and paths in the proof.")
    ] = False,
    host: o.Hosts = None,
    told: Annotated[bool, typer.Option("--told", hidden=True)] = False,
) -> Answer:
    """Measure a slot, or a model on a scratch port, from its own host; each prompt is new to it. Lists make a grid."""
    from llmctl.checks.bench import grid
    from llmctl.checks.bench_host import Plan
    from llmctl.cli import bench_places
    from llmctl.cli.reach import Reach

    session: Session = ctx.obj
    if told:
        return bench_places.here(session, Plan.from_dict(json.load(sys.stdin)))
    if out and not profile:
        raise UsageError("--out is where the file of --profile goes", hint="add --profile")
    loads = grid(
        numbers("--streams", streams, [1], 256), numbers("--prompt", prompt, [128]), numbers("--new", new, [64]),
        requests,
    )  # fmt: skip
    wish = {
        "model": target, "engine": engine, "quantization": quantization, "context": context, "parallel": parallel,
    }  # fmt: skip
    began = time.time()
    where, port = bench_places.where(session, target, host, wish)
    plan = Plan(
        tuple(loads), runs, port, None if port else wish, None, profile, str(out) if out else None,
        tables.seconds(ready_within), tables.seconds(patience),
    )  # fmt: skip
    with Reach(session) as reach:
        other, elsewhere = bench_places.other(session, where, compare, compare_model, key_env)
        if elsewhere:
            answer = bench_places.between(reach, Target(where, port or 0), elsewhere, plan)
        else:
            answer = bench_places.on(reach, where, replace(plan, other=other), target)
    return _kept(session, answer, began, no_proof, private)


def numbers(option: str, given: Sequence[str] | None, usual: list[int], most: int = 10**7) -> list[int]:
    """The numbers of an option that is a list and may be repeated."""
    found = []
    for text in ",".join(given or ()).split(",") if given else ():
        word = text.strip()
        if not word.isascii() or not word.isdigit() or not 1 <= int(word) <= most:
            raise UsageError(
                f"{option}: {word[:40]!r} is not a number from 1 to {most}", hint=f"{option} {usual[0]},{usual[0] * 8}"
            )
        found.append(int(word))
    return found or usual


# ── what is kept ────────────────────────────────────────────────────────────────────────────────────────────────────


def _kept(session: Session, answer: Answer, began: float, no_proof: bool, private: bool) -> Answer:
    """The answer with the id under which it is found again. A history that cannot be written costs no result."""
    from llmctl.cli import bench_kept

    found, unkept = bench_kept.keep(
        session, answer.data, answer.exit_code, began, proof=not no_proof, private=private
    )  # fmt: skip
    data = {**answer.data, **found, "history": unkept.message if unkept else None}
    return Answer(data, answer.exit_code, answer.errors)


@app.command("list")
def list_kept(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Of this model alone.")] = None,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="On this host alone.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Not older than 2h, 7d, …")] = None,
) -> Answer:
    """The measurements that were kept, the newest first."""
    from llmctl.cli import bench_kept

    session: Session = ctx.obj
    oldest = time.time() - tables.seconds(since) if since else 0.0
    if model:
        with contextlib.suppress(LlmctlError):  # what was measured may be gone from the catalog
            model = session.catalog.resolve(model).id
    rows = [
        bench_kept.head(one)
        for one in bench_kept.everything(session)
        if one["at"] >= oldest and model in (None, one["model"]) and host in (None, one["host"])
    ]
    return Answer({"results": rows})


@app.command()
def show(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="Of bench list, or the folder of a proof bundle.")],
) -> Answer:
    """One measurement, as it was shown when it was made."""
    from llmctl.cli import bench_kept

    return Answer(bench_kept.find(ctx.obj, id))


@app.command()
def compare(
    ctx: typer.Context,
    first: Annotated[str, typer.Argument(metavar="ID", help="What was before.")],
    second: Annotated[str, typer.Argument(metavar="ID", help="What is now.")],
    fail_below: Annotated[
        float | None, typer.Option(min=0.0, metavar="RATIO", help="Exit 1 when a rate is below this part of ID 1's.")
    ] = None,
) -> Answer:
    """Two measurements of the same load side by side: the second over the first."""
    from llmctl.checks import bench_compare
    from llmctl.cli import bench_kept

    session: Session = ctx.obj
    found = bench_compare.compared(bench_kept.find(session, first), bench_kept.find(session, second), fail_below)
    return Answer(asdict(found), 1 if found.slower else 0)
