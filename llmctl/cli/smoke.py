"""`llmctl smoke` and `debug-inference`: proof that a slot, or a model on a host, works."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from llmctl import tables
from llmctl.cli import options as o
from llmctl.cli.session import Session
from llmctl.envelope import Answer

app = typer.Typer()

Timeout = Annotated[str, typer.Option(metavar="TIME", help="For each request, and for a change that is under way.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where proof bundles go, instead of LLMCTL_HOME/proof.")]
NoProof = Annotated[bool, typer.Option("--no-proof", help="Keep no proof bundle.")]
Private = Annotated[bool, typer.Option("--private", help="Keep names of hosts, addresses and paths in the proof.")]


@app.command()
def smoke(
    ctx: typer.Context,
    targets: o.Ports = None,
    timeout: Timeout = "60s",
    wake: Annotated[bool, typer.Option("--wake", help="Start the models of sleeping slots.")] = False,
    out: Out = None,
    no_proof: NoProof = False,
    private: Private = False,
) -> Answer:
    """Prove by generated tokens that slots work; keep the proof. Without a target: all slots that should be up."""
    from llmctl.checks import smoke as checks

    session: Session = ctx.obj
    host, seconds, began = session.host(), tables.seconds(timeout), time.time()
    meant = [session.target(port).port for port in targets or ()] or checks.wanted(session.home)
    rows = []
    with session.progress() as on_event:
        for port in meant:
            on_event({"event": "note", "message": f"asking {host.name}:{port}"})
            rows += checks.smoke(session.home, host.name, port, timeout=seconds, wake=wake)
    data = {"rows": [asdict(row) for row in rows], "slots": checks.subjects(session.home, host.name, meant)}
    code = checks.exit_code(rows)
    kept = None if no_proof or code == checks.NOTHING_RAN else _proof(session, data, code, began, out, private)
    return Answer({**data, "proof": str(kept) if kept else None}, code)


def _proof(session: Session, data: dict[str, Any], code: int, began: float, out: Path | None, private: bool) -> Path:
    from llmctl.checks import proof
    from llmctl.checks.slot_http import SEED

    secret = {word: "[address]" for host in session.config.hosts.values() if (word := host.address)}
    secret |= {word: "[user]" for host in session.config.hosts.values() if (word := host.user)}
    run = proof.Run("smoke", data["rows"], data["slots"], [SEED], code, began, rows_name="checks", secret=secret)
    return proof.write(out or session.home / "proof", run, private=private)


@app.command("debug-inference")
def debug_inference(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Argument(metavar="[HOST]", help="Default: this one.")] = None,
    backend: Annotated[str | None, typer.Option(metavar="BACKEND", help="cpu, cuda or metal.")] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Default: the smallest that is there.")] = None,
    engine: o.Engine = "auto",
    quantization: o.Quantization = None,
    ready_within: Annotated[str, typer.Option(metavar="TIME", help="How long the model may take to load.")] = "30s",
) -> Answer:
    """Load a model on a scratch port beside everything else, let it say 20 tokens, and take it away again."""
    from llmctl import backends
    from llmctl.checks import debug
    from llmctl.slots.resolve import Wish, resolve

    session: Session = ctx.obj
    meant, patience = session.host(host), tables.seconds(ready_within)
    meant = replace(meant, backend=backends.get(backend).NAME) if backend else meant
    if model:
        spec = resolve(session.catalog, meant, Wish(model, engine, quantization))
    else:
        spec = debug.smallest(session.catalog, meant)
    with session.progress() as on_event:
        said = debug.debug(session.home, meant, spec, session.launch(meant), ready_within=patience, on_event=on_event)
    return Answer(asdict(said))
