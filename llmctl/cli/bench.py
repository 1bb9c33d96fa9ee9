"""`llmctl bench`: how fast a slot or a model is, where the time of its engine goes, and what was measured before."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl import tables
from llmctl.cli import options as o
from llmctl.cli.session import Session, Target
from llmctl.config import Host
from llmctl.domain import READY
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, Refused, UsageError

if TYPE_CHECKING:
    from llmctl.checks.bench_client import Server
    from llmctl.checks.bench_host import Other, Plan
    from llmctl.cli.reach import Reach

app = typer.Typer(help="How fast a slot answers.")
LONG = 7 * 86400.0


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
    from llmctl.cli.reach import Reach

    session: Session = ctx.obj
    if told:
        return _here(session, Plan.from_dict(json.load(sys.stdin)))
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
    where, port = _where(session, target, host, wish)
    plan = Plan(
        tuple(loads), runs, port, None if port else wish, None, profile, str(out) if out else None,
        tables.seconds(ready_within), tables.seconds(patience),
    )  # fmt: skip
    with Reach(session) as reach:
        other, elsewhere = _other(session, where, compare, compare_model, key_env)
        if elsewhere:
            answer = _between(reach, Target(where, port or 0), elsewhere, plan)
        else:
            answer = _on(reach, where, replace(plan, other=other), target)
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


# ── where ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _where(
    session: Session, target: str, patterns: Sequence[str] | None, wish: Mapping[str, Any]
) -> tuple[Host, int | None]:
    """The host, and the port of a slot; None: `target` is a model."""
    from llmctl.cli import reach as reaching

    if target.rpartition(":")[2].isdigit():
        hosts, port = reaching.slots_of(session, target, patterns)
        if wrong := [f"--{key}" for key in ("quantization", "context", "parallel") if wish[key] is not None]:
            raise UsageError(f"{wrong[0]} is for a model that comes up, and port {port} has one", hint="leave it out")
        return reaching.one(hosts, "bench run"), int(port)
    return reaching.one(reaching.select(session, patterns), "bench run"), None


def _other(
    session: Session, where: Host, compare: str | None, model: str | None, key_env: str | None
) -> tuple[Other | None, Target | None]:
    """Whom to compare with: somebody whom the host `where` reaches, or a slot that only this machine does."""
    from llmctl.checks.bench_host import Other
    from llmctl.cli import reach as reaching

    is_url = compare is not None and "://" in compare
    if (model or key_env) and not is_url:
        raise UsageError("--compare-model and --key-env are of the server at a URL", hint="--compare http://HOST:PORT")
    if compare is None:
        return None, None
    if is_url:
        if key_env and not os.environ.get(key_env):
            raise UsageError(f"there is nothing in the environment variable {key_env}", hint=f"export {key_env}=…")
        return Other(None, compare, model, os.environ.get(key_env or "") or None), None
    name, port = reaching.split(compare)
    host = session.config.host(name) if name else where
    if port == "auto":
        raise UsageError("which slot shall it be compared with?", hint="--compare HOST:8101")
    return (Other(int(port)), None) if host == where else (None, Target(host, int(port)))


# ── the measurement ─────────────────────────────────────────────────────────────────────────────────────────────────


def _on(reach: Reach, where: Host, plan: Plan, target: str) -> Answer:
    """On the host of the slot. The key of the other server goes by stdin: what is typed can be seen by others."""
    session = reach.session
    with session.progress() as on_event:
        reply = reach.call(
            where, ["bench", "run", "--told", "--", target], lambda here: _here(here, plan),
            stdin=json.dumps(plan.to_dict()).encode(), timeout=LONG, yes=session.yes, on_event=on_event,
            check=f"llmctl status --host {where.name}",
        )  # fmt: skip
    return Answer({**reply.value(), "host": where.name}, reply.exit_code, reply.errors)


def _here(session: Session, plan: Plan) -> Answer:
    """On this machine."""
    from llmctl.checks import bench_host
    from llmctl.cli.bench_energy import meter

    with session.progress() as on_event:
        data, error = bench_host.run(session.home, session.host(), session.catalog, plan, meter, on_event)
    return Answer(data, 3, (error,)) if error else Answer(data)


def _between(reach: Reach, ours: Target, other: Target, plan: Plan) -> Answer:
    """Two slots on two hosts, both asked from here, each over the way that `llmctl ask` takes."""
    from llmctl.checks.bench_cells import Gauges, measured

    if not ours.port or plan.profile:
        what = "--profile" if plan.profile else "a model on a scratch port"
        raise UsageError(f"{what} is measured on its own host, and {other.host.name} is another", hint="leave it out")
    rows = [_row(reach, target) for target in (ours, other)]
    servers = [_server(reach, target, plan.patience) for target in (ours, other)]
    away = "it is measured from another machine"
    data = {
        "host": ours.host.name, "port": ours.port, "scratch": False, "model": rows[0]["model"],
        "engine": rows[0]["engine"], "weights_bytes": None, "other": servers[1].name, "profile": None, "cells": [],
    }  # fmt: skip
    with reach.session.progress() as on_event:
        error = measured(
            data["cells"], servers[0], servers[1], plan.loads, plan.runs, Gauges(away, "", away),
            lambda message: on_event({"event": "note", "message": message}),
        )  # fmt: skip
    return Answer(data, 3, (error,)) if error else Answer(data)


def _server(reach: Reach, target: Target, patience: float) -> Server:
    from llmctl.checks.bench_client import Server
    from llmctl.cli import chat_partner
    from llmctl.clients.openai import OpenAI

    partner = chat_partner.of_slot(reach, target)
    assert isinstance(partner.client, OpenAI)
    return Server(partner.client.place, partner.name, None, patience)


def _row(reach: Reach, target: Target) -> Mapping[str, Any]:
    """The slot's line of `status`; Refused unless it is ready."""
    from llmctl.cli import reach as reaching

    name = f"{target.host.name}:{target.port}"
    row = reaching.rows(reach, target.host, [str(target.port)])[0][0]
    if row["state"] != READY:
        raise Refused(f"{name} is {row['state']}", hint=f"llmctl status {name}", port=target.port)
    return row


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
