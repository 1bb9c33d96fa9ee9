"""The Typer application: the options of every verb, and the verbs of all nouns in the order that help shows."""

from __future__ import annotations

from typing import Annotated

import typer

from llmctl.cli import (
    adopt,
    artifacts,
    ask,
    bench,
    chat,
    client_config,
    convert,
    copy_ends,
    deploy,
    doctor,
    fleet,
    gateway,
    handles,
    health,
    history,
    host,
    host_doctor,
    host_events,
    host_heal,
    host_health,
    host_undo,
    hosts,
    hosts_edit,
    init,
    jobs,
    keys,
    metrics,
    models,
    native,
    profiles,
    pull,
    quality,
    registry,
    search,
    serve,
    slots,
    smoke,
    test_models,
    token,
    top,
    trust,
    verify,
    web,
    wheelhouse,
)
from llmctl.cli.options import EVERYWHERE
from llmctl.cli.session import Session

app = typer.Typer(
    name="llmctl",
    help="Language models on the ports of your own machines: load them, talk to them, swap them under live traffic.",
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)


@app.callback()
def common(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON envelope; events go to stderr.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="The folder of hosts.toml, instead of the nearest one upwards.")
    ] = None,
    as_host: Annotated[str | None, typer.Option(hidden=True)] = None,
    for_version: Annotated[str | None, typer.Option(hidden=True)] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """These options may stand anywhere on the line."""
    ctx.obj = Session(json, yes, config_dir, as_host)


VERBS = (
    init, slots, adopt, fleet, deploy, wheelhouse, smoke, quality, doctor, top, web, test_models, ask, chat,
    client_config, serve, pull, convert,
)  # fmt: skip
NOUNS = {
    "hosts": hosts,
    "models": models,
    "profile": profiles,
    "jobs": jobs,
    "bench": bench,
    "native": native,
    "registry": registry,
    "keys": keys,
    "handles": handles,
    "gateway": gateway,
    "metrics": metrics,
    "health": health,
    "history": history,
    "host": host,
}
for verbs in VERBS:
    app.add_typer(verbs.app)
for verbs in (verify, search):
    models.app.add_typer(verbs.app)
for verbs in (hosts_edit, trust, token):
    hosts.app.add_typer(verbs.app)
for verbs in (copy_ends, host_doctor, host_events, host_heal, host_health, host_undo):
    host.app.add_typer(verbs.app)
for name, noun in NOUNS.items():
    app.add_typer(noun.app, name=name)
for part in (*VERBS, *NOUNS.values(), artifacts, verify, search, hosts_edit, trust, token):
    for command in part.app.registered_commands:
        command.epilog = EVERYWHERE
