"""`llmctl web`: the fleet as a page in a browser."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl import tables
from llmctl.cli import options as o
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import Refused, UsageError

if TYPE_CHECKING:
    from llmctl.cli.reach import Reach
    from llmctl.watch.fleet import Watch
    from llmctl.web.serve import Server

app = typer.Typer()

Bind = Annotated[str, typer.Option(metavar="ADDRESS", help="All but loopback asks for a key.")]
Port = Annotated[int, typer.Option(min=1, max=65535)]
RequireKey = Annotated[bool, typer.Option("--require-key", help="Ask for a key on loopback too.")]


@app.command()
def web(
    ctx: typer.Context,
    bind: Bind = "127.0.0.1",
    port: Port = 8091,
    host: o.Hosts = None,
    every: Annotated[str, typer.Option(metavar="TIME", help="How often hosts look at their slots.")] = "2s",
    require_key: RequireKey = False,
) -> Answer:
    """The fleet live in a browser: slots, history, logs, a chat; with the admin key also swap, load and unload."""
    from llmctl.watch.host import LEAST, MOST

    seconds = tables.seconds(every)
    if not LEAST <= seconds <= MOST:
        raise UsageError(f"--every {every}: it must be {LEAST:g}s to {MOST:g}s", hint="--every 2s")
    session: Session = ctx.obj
    if session.json:
        raise UsageError("web goes on until it is interrupted, and --json answers at the end", hint="leave --json out")
    return Answer(stream=_serve(session, bind, port, host or (), seconds, require_key))


def _serve(
    session: Session, bind: str, port: int, patterns: Sequence[str], every: float, require_key: bool
) -> Generator[str, None, Mapping[str, Any]]:
    from llmctl.cli import watching
    from llmctl.cli.reach import Reach
    from llmctl.fleet import selection

    hosts = selection.select(session.config, patterns)
    with Reach(session) as reach, watching.watch(reach, hosts, every) as watch:
        server = _server(reach, watch, bind, port, require_key)
        yield f"{server.url} shows {len(hosts)} host{'s' * (len(hosts) != 1)}; Ctrl-C ends it\n"
        server.run()
    return {}


def _server(reach: Reach, watch: Watch, bind: str, port: int, require_key: bool) -> Server:
    """Refused where it cannot listen, or what it is made of is not installed."""
    try:
        from llmctl.cli.web_acts import WebActs
        from llmctl.web.app import Door
        from llmctl.web.serve import Server

        return Server(reach.session.home, Door(bind, port, require_key), watch, WebActs(reach))
    except ModuleNotFoundError as error:
        hint = "pip install 'llmctl-fleet[web]'"
        raise Refused(f"the page needs {error.name}, which is not installed here", hint=hint) from None
