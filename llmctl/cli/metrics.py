"""`llmctl metrics`: what all slots and hosts count, for Prometheus: served, or written for node_exporter."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl import tables
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import Refused, UsageError

if TYPE_CHECKING:
    from llmctl.cli.reach import Reach
    from llmctl.exporter.fleet import Exporter

app = typer.Typer(help="What all slots and hosts count, for Prometheus.")

SHORTEST = 1.0
FOLDER = "node_exporter --collector.textfile.directory=FOLDER names it"
Bind = Annotated[str, typer.Option(metavar="ADDRESS", help="All but loopback asks for the client key.")]
Port = Annotated[int, typer.Option(min=1, max=65535)]
Deadline = Annotated[str, typer.Option(metavar="TIME", help="A host that does not answer within it is down.")]
File = Annotated[Path, typer.Argument(metavar="FILE.prom", help="In the folder of node_exporter's textfile collector.")]


@app.command()
def serve(ctx: typer.Context, bind: Bind = "127.0.0.1", port: Port = 9191, deadline: Deadline = "8s") -> Answer:
    """Answer GET /metrics with the metrics of all hosts, asked anew each time, until it is interrupted."""
    return Answer(stream=_serve(ctx.obj, bind, port, _seconds(deadline)))


@app.command()
def textfile(ctx: typer.Context, path: File, deadline: Deadline = "8s") -> Answer:
    """Write the metrics of all hosts into a file, whole or not at all; for cron."""
    from llmctl.cli.reach import Reach
    from llmctl.files import write_text

    seconds = _seconds(deadline)
    if path.suffix != ".prom":
        raise UsageError(f"{path} does not end in .prom: node_exporter would not read it", hint=f"{path}.prom")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", hint=FOLDER)
    with Reach(ctx.obj) as reach:
        scraped = _exporter(ctx.obj, reach).scrape(seconds)
    try:
        write_text(path, scraped.text)
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}", hint="name a file that you may write") from error
    told = [{"host": one.host, "up": one.data is not None, "code": one.code, "why": one.why} for one in scraped.hosts]
    up = sum(one.data is not None for one in scraped.hosts)
    code = 0 if up == len(told) else 3 if up else 4
    return Answer({"path": str(path), "series": scraped.series, "answered": told}, code)


def _serve(session: Session, bind: str, port: int, deadline: float) -> Generator[str, None, Mapping[str, Any]]:
    from llmctl import keys
    from llmctl.cli.reach import Reach

    try:
        from llmctl.exporter.serve import Server
    except ModuleNotFoundError as error:
        hint = "pip install 'llmctl-fleet[server]'"
        raise Refused(f"the exporter needs {error.name}, which is not installed here", hint=hint) from None
    count = len(session.config.hosts)
    with Reach(session) as reach:
        server = Server(bind, port, keys.read(session.home), _exporter(session, reach), deadline)
        yield f"{server.url} has the metrics of {count} host{'s' * (count != 1)}; Ctrl-C ends it\n"
        server.run()
    return {}


def _exporter(session: Session, reach: Reach) -> Exporter:
    from llmctl import history
    from llmctl.cli import host_metrics
    from llmctl.cli.reach import LOOK
    from llmctl.exporter import known
    from llmctl.exporter.asking import Asking
    from llmctl.exporter.fleet import Exporter

    hosts = session.config.hosts

    def ask(name: str) -> Mapping[str, Any]:
        reply = reach.call(
            hosts[name], ["host", "metrics", "--timeout", host_metrics.TIMEOUT],
            lambda here: host_metrics.told(here.home, name), timeout=LOOK, any_version=True,
        )  # fmt: skip
        return reply.value()

    return Exporter(Asking(list(hosts), ask), lambda: known.checked(session.home / history.NAME, hosts))


def _seconds(deadline: str) -> float:
    found = tables.seconds(deadline)
    if found < SHORTEST:
        raise UsageError(f"--deadline {deadline} is too short for any host", hint=f"--deadline {SHORTEST:g}s or more")
    return found
