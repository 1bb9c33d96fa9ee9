"""`llmctl hosts trust`: a host's key is shown, compared, and trusted from then on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llmctl.cli import options as o
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.fleet.ssh import trusting
from llmctl.fleet.ssh.trusting import Shown

app = typer.Typer()


@app.command()
def trust(
    ctx: typer.Context,
    host: o.HostName,
    fingerprint: Annotated[
        str | None, typer.Option(metavar="SHA256:…", help="Trust the host's key if it is this one, and do not ask.")
    ] = None,
) -> Answer:
    """Show the key of HOST (and of its gateways), and trust it from now on."""
    session: Session = ctx.obj
    found = session.config.host(host)
    rows = []
    for shown in trusting.look(found, session.config, session.home):
        if fingerprint and shown.name == found.name:
            trusting.check(shown, fingerprint)
        elif not shown.trusted:
            session.confirm(_question(shown))
        if not shown.trusted:
            trusting.trust(shown, session.home)
        rows.append(_row(shown))
    return Answer({"host": found.name, "keys": rows})


def _question(shown: Shown) -> str:
    now = f"{shown.name} ({shown.known_as}) shows the key {shown.key.type} {shown.key.fingerprint}"
    if shown.before:
        return f"{now}, and trusted so far is {', '.join(shown.before)}. Trust the new one instead?"
    return f"{now}. Trust it?"


def _row(shown: Shown) -> dict[str, Any]:
    return {
        "name": shown.name,
        "known_as": shown.known_as,
        "type": shown.key.type,
        "fingerprint": shown.key.fingerprint,
        "before": list(shown.before),
        "changed": not shown.trusted,
    }
