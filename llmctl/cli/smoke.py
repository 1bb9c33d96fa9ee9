"""`llmctl smoke` and `debug-inference`: proof that a slot, or a model on a host, works."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from llmctl import tables
from llmctl.cli import options as o
from llmctl.cli.session import Session
from llmctl.config import Host
from llmctl.envelope import Answer

app = typer.Typer()

Targets = Annotated[
    list[str] | None,
    typer.Argument(metavar="[HOST[:PORT]]...", help="8101, HOST:8101, or all slots of HOST or @LABEL."),
]
Timeout = Annotated[str, typer.Option(metavar="TIME", help="For each request, and for a change that is under way.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where proof bundles go, instead of LLMCTL_HOME/proof.")]
NoProof = Annotated[bool, typer.Option("--no-proof", help="Keep no proof bundle.")]
Private = Annotated[bool, typer.Option("--private", help="Keep names of hosts, addresses and paths in the proof.")]


@app.command()
def smoke(
    ctx: typer.Context,
    targets: Targets = None,
    timeout: Timeout = "60s",
    wake: Annotated[bool, typer.Option("--wake", help="Start the models of sleeping slots.")] = False,
    out: Out = None,
    no_proof: NoProof = False,
    private: Private = False,
) -> Answer:
    """Prove by generated tokens that slots work; keep the proof. No target: what should be up on the default host."""
    from llmctl.checks import smoke as checks
    from llmctl.cli.reach import Reach, side_by_side, tagged
    from llmctl.fleet import fanout

    session: Session = ctx.obj
    seconds, began = tables.seconds(timeout), time.time()
    meant = _meant(session, targets or ())
    with Reach(session) as reach, side_by_side(session) as on_event:

        def on(host: Host) -> dict[str, Any]:
            words = ["smoke", *meant[host], "--no-proof", "--timeout", timeout, *(["--wake"] if wake else [])]
            reply = reach.call(
                host, words, lambda here: _here(here, meant[host], seconds, wake),
                on_event=tagged(on_event, host.name), check=f"llmctl smoke {host.name}",
            )  # fmt: skip
            return {
                key: [{**row, "host": host.name} for row in reply.value().get(key, ())] for key in ("rows", "slots")
            }

        outcomes = fanout.over(list(meant), on)
    data: dict[str, Any] = {"rows": [], "slots": []}
    for outcome in outcomes:
        for key, rows in (outcome.value or {}).items():
            data[key] += rows
    errors = tuple(outcome.error for outcome in outcomes if outcome.error)
    code = checks.exit_code(data["rows"])
    if errors:
        code = fanout.exit_code(outcomes) if code == checks.NOTHING_RAN else max(code, 3) if code != 1 else 1
    kept = None if no_proof or not _ran(data["rows"]) else _proof(session, data, code, began, out, private)
    return Answer({**data, "proof": str(kept) if kept else None}, code, errors)


def _meant(session: Session, words: Sequence[str]) -> dict[Host, list[str]]:
    """The hosts that are meant, each with the ports; none: all that should be up."""
    from llmctl.cli import reach

    return reach.targets(session, words) if words else {host: [] for host in reach.select(session, None)}


def _here(session: Session, ports: Iterable[str], timeout: float, wake: bool) -> Answer:
    """The slots of this machine."""
    from llmctl.checks import smoke as checks
    from llmctl.slots import verbs

    host, rows = session.host(), []
    meant = [int(port) for port in ports]
    verbs.status(session.home, meant)  # an unknown port is told before anything is asked
    meant = meant or checks.wanted(session.home)
    with session.progress() as on_event:
        for port in meant:
            on_event({"event": "note", "message": f"asking port {port}"})
            rows += checks.smoke(session.home, host.name, port, timeout=timeout, wake=wake)
    data = {"rows": [asdict(row) for row in rows], "slots": checks.subjects(session.home, host.name, meant)}
    return Answer(data, checks.exit_code(data["rows"]))


def _ran(rows: Iterable[dict[str, Any]]) -> bool:
    return any(row["status"] != "skip" for row in rows)


def _proof(session: Session, data: dict[str, Any], code: int, began: float, out: Path | None, private: bool) -> Path:
    from llmctl.checks import proof
    from llmctl.checks.slot_http import SEED

    secret = secret_words(session)
    run = proof.Run("smoke", data["rows"], data["slots"], [SEED], code, began, rows_name="checks", secret=secret)
    return proof.write(out or session.home / "proof", run, private=private)


def secret_words(session: Session) -> dict[str, str]:
    """What no proof may show, and what stands for it."""
    secret = {word: "[address]" for host in session.config.hosts.values() if (word := host.address)}
    return secret | {word: "[user]" for host in session.config.hosts.values() if (word := host.user)}


@app.command("debug-inference")
def debug_inference(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Argument(metavar="[HOST]", help="Default: the default host.")] = None,
    backend: Annotated[str | None, typer.Option(metavar="BACKEND", help="cpu, cuda or metal.")] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Default: the smallest that is there.")] = None,
    engine: o.Engine = "auto",
    quantization: o.Quantization = None,
    ready_within: Annotated[str, typer.Option(metavar="TIME", help="How long the model may take to load.")] = "30s",
) -> Answer:
    """Load a model on a scratch port beside everything else, let it say 20 tokens, and take it away again."""
    from llmctl.cli.reach import Reach, one, select, side_by_side

    session: Session = ctx.obj
    patience = tables.seconds(ready_within)
    options = {"--backend": backend, "--model": model, "--engine": engine, "--quantization": quantization}
    words = [word for option, value in options.items() if value for word in (option, value)]
    where = one(select(session, [host] if host else None), "debug-inference")
    with Reach(session) as reach, side_by_side(session) as on_event:
        reply = reach.call(
            where, ["debug-inference", *words, "--ready-within", ready_within],
            lambda here: _debug_here(here, backend, model, engine, quantization, patience), on_event=on_event,
        )  # fmt: skip
    return Answer({**reply.value(), "host": where.name}, reply.exit_code, reply.errors)


def _debug_here(
    session: Session, backend: str | None, model: str | None, engine: str, quantization: str | None, patience: float
) -> Answer:
    from llmctl import backends
    from llmctl.checks import debug
    from llmctl.slots.resolve import Wish, resolve

    host = session.host()
    host = replace(host, backend=backends.get(backend).NAME) if backend else host
    if model:
        spec = resolve(session.catalog, host, Wish(model, engine, quantization))
    else:
        spec = debug.smallest(session.catalog, host)
    with session.progress() as on_event:
        said = debug.debug(session.home, host, spec, session.launch(host), ready_within=patience, on_event=on_event)
    return Answer(asdict(said))
