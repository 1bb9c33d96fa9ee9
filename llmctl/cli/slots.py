"""The verbs of a slot: load, swap, unload, restart, disable, enable, logs. `status` has a file of its own."""

from __future__ import annotations

import datetime
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from llmctl import profiles, tables
from llmctl.cli import options as o
from llmctl.cli import reach
from llmctl.cli import status as status_verb
from llmctl.cli.bring import bring
from llmctl.cli.changes import change, data_of, planned, room_for, spec_of
from llmctl.cli.far import Way, on_hosts, run
from llmctl.cli.session import Session, Target
from llmctl.cli.tuning import tuned
from llmctl.config import Tuning
from llmctl.envelope import Answer
from llmctl.errors import UsageError

app = typer.Typer()


@app.command()
@on_hosts("port")
@tuned
def load(
    ctx: typer.Context,
    port: o.NewPort,
    model: o.Model,
    engine: o.Engine = "auto",
    quantization: o.Quantization = None,
    context: o.Context = None,
    parallel: o.Parallel = None,
    idle_unload: o.IdleUnload = None,
    spare: o.Spare = None,
    lock_wait: o.LockWait = "0",
    pull: o.Pull = False,
    evict: Annotated[
        bool, typer.Option("--evict", help="Where it does not fit, unload idle ones that are loaded on demand.")
    ] = False,
    dry_run: o.DryRun = False,
    *,
    tuning: Tuning,
) -> Answer:
    """Put MODEL on PORT; returns when it has answered its probe."""
    session: Session = ctx.obj
    target = session.target(port, auto=True)
    if pull and not dry_run:
        model = bring(session, model, engine, quantization)
    spec = spec_of(session, target, model, engine, quantization, context, parallel, idle_unload, spare, tuning)
    if dry_run:
        found = planned("load", target, spec)
        return replace(found, data={**found.data, **room_for(session, target, spec)})
    return Answer(change(session, target, "load", spec, lock_wait=lock_wait, evict=evict))


@app.command()
@tuned
def swap(
    ctx: typer.Context,
    port: o.Port,
    model: o.Model,
    order: o.SwapOrder = o.Order.auto,
    engine: o.Engine = "auto",
    quantization: o.Quantization = None,
    context: o.Context = None,
    parallel: o.Parallel = None,
    idle_unload: o.IdleUnload = None,
    spare: o.Spare = None,
    lock_wait: o.LockWait = "0",
    save: Annotated[bool, typer.Option("--save", help="Write the model into the profile that has this port.")] = False,
    profile: o.SaveTo = None,
    require_quality: Annotated[
        bool, typer.Option("--require-quality", help="Then ask it the quality matrix; one that fails goes again.")
    ] = False,
    pull: o.Pull = False,
    dry_run: o.DryRun = False,
    host: o.Hosts = None,
    *,
    tuning: Tuning,
) -> Answer:
    """Replace the model of PORT under live traffic; the old one goes on when the new one fails."""
    session: Session = ctx.obj
    told = {"engine": engine, "quantization": quantization, "context": context, "parallel": parallel}
    told |= tuning.tuning()
    given = {**told, "port": port, "model": model, "order": order, "idle_unload": idle_unload, "spare": spare}
    given |= {"lock_wait": lock_wait, "pull": pull, "dry_run": dry_run}
    way = Way("port", single=save or profile is not None)

    def edit(id: str) -> profiles.Edit:
        (there, *_), number = reach.slots_of(session, port, host)
        values = {**told, "engine": None if engine == "auto" else engine, "model": id, "idle_unload": idle_unload}
        return profiles.edit_slot(session.config, session.catalog, there.name, int(number), values, profile)

    if way.single:
        edit(session.catalog.resolve(model).id)  # a profile without such a slot is an error before anything is done

    def do() -> Answer:
        return run(ctx, _swap, way, given, host, ours=("save", "profile"))

    if require_quality and not dry_run:
        from llmctl.cli.quality_swap import swapped

        answer = swapped(session, port, host, do)
    else:
        answer = do()
    if dry_run or answer.errors or not way.single:
        return answer
    return replace(answer, data={**answer.data, "saved": edit(answer.data["model"]).write()})


@tuned
def _swap(
    ctx: typer.Context,
    port: str,
    model: str,
    order: o.Order,
    engine: str,
    quantization: str | None,
    context: int | None,
    parallel: int | None,
    idle_unload: str | None,
    spare: bool | None,
    lock_wait: str,
    pull: bool,
    dry_run: bool,
    tuning: Tuning,
) -> Answer:
    session: Session = ctx.obj
    target = session.target(port)
    if pull and not dry_run:
        model = bring(session, model, engine, quantization)
    spec = spec_of(session, target, model, engine, quantization, context, parallel, idle_unload, spare, tuning)
    if dry_run:
        return planned("swap", target, spec)
    return Answer(change(session, target, "swap", spec, order=order.value, lock_wait=lock_wait))


@app.command()
@on_hosts("port")
def unload(
    ctx: typer.Context,
    port: o.Port,
    lock_wait: o.LockWait = "0",
    unused: Annotated[str, typer.Option(metavar="TIME", help="Only where it had no request for that long.")] = "0",
    stop_server: Annotated[
        bool, typer.Option("--stop-server", help="Also end the slot server, which closes the port.")
    ] = False,
) -> Answer:
    """Take the model off PORT once it has finished what it has; the port stays open and answers 503."""
    from llmctl.slots import verbs

    session: Session = ctx.obj
    target = session.target(port)
    wait, rest = tables.seconds(lock_wait), tables.seconds(unused)
    with session.progress() as on_event:
        result = verbs.unload(session.home, target.port, unused=rest, lock_wait=wait, on_event=on_event)
    if stop_server:
        verbs.stop(session.home, target.port)
    return Answer(data_of(target, result))


@app.command()
@on_hosts("port")
def restart(
    ctx: typer.Context,
    port: o.Port,
    reexec: Annotated[
        bool, typer.Option("--reexec", help="Restart the slot server in the installed llmctl; the engine goes on.")
    ] = False,
    lock_wait: o.LockWait = "0",
) -> Answer:
    """Start the engine of PORT anew, with the same model."""
    from llmctl.slots import verbs

    session: Session = ctx.obj
    target = session.target(port)
    wait = tables.seconds(lock_wait)
    with session.progress() as on_event:
        result = verbs.restart(
            session.home, target.port, reexec=reexec, service=target.host.service, lock_wait=wait, on_event=on_event
        )
    return Answer(data_of(target, result))


@app.command()
@on_hosts("port")
def disable(
    ctx: typer.Context,
    port: o.Port,
    why: Annotated[str, typer.Option(help="Shown to everyone who asks why it is down.")],
    until: Annotated[
        str | None, typer.Option(metavar="WHEN", help="A date-time (2030-01-31T08:00) or a time from now (2h).")
    ] = None,
) -> Answer:
    """Stop PORT and keep it down, over reboots too."""
    from llmctl.slots import verbs

    session: Session = ctx.obj
    target = session.target(port)
    return Answer(data_of(target, verbs.disable(session.home, target.port, why, _moment(until) if until else None)))


@app.command()
@on_hosts("port")
def enable(ctx: typer.Context, port: o.Port) -> Answer:
    """Undo `disable`: the model that PORT should have is started again."""
    from llmctl.slots import verbs

    session: Session = ctx.obj
    target = session.target(port)
    with session.progress() as on_event:
        return Answer(data_of(target, verbs.enable(session.home, target.port, on_event=on_event)))


@app.command()
def status(
    ctx: typer.Context,
    ports: o.Ports = None,
    host: o.Hosts = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again and again, until Ctrl-C.")] = False,
    every: Annotated[str, typer.Option(metavar="TIME", help="With --watch: how often.")] = "2s",
) -> Answer:
    """What runs on which port of which host. 3: some hosts are not known, 4: none is reached."""
    session: Session = ctx.obj
    if not watch:
        return status_verb.of_fleet(session, ports or [], host or [])
    from llmctl.cli.watch import watching

    if session.json:
        raise UsageError("--watch never ends, and --json answers at the end", hint="leave one of them out")
    return Answer(stream=watching(session, ports or [], host or [], tables.seconds(every)))


@app.command()
@on_hosts("port", reads=True, lines=True)
def logs(
    ctx: typer.Context,
    port: o.Port,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 100,
) -> Answer:
    """What the engine of PORT has written."""
    session: Session = ctx.obj
    return Answer(stream=_log(session, session.target(port), follow, lines))


def _log(session: Session, target: Target, follow: bool, lines: int) -> Generator[str, None, Mapping[str, Any]]:
    from llmctl.slots import verbs

    seen = []
    for line in verbs.log_lines(session.home, target.port, follow=follow, lines=lines):
        yield line.rstrip("\n") + "\n"
        if not follow:
            seen.append(line.rstrip("\n"))
    return {"host": target.host.name, "port": target.port, "lines": seen}


def _moment(text: str) -> str:
    """An ISO date-time with its offset, from one or from a duration."""
    try:
        return datetime.datetime.fromisoformat(text).astimezone().isoformat()
    except ValueError:
        pass
    try:
        later = datetime.timedelta(seconds=tables.seconds(text))
    except UsageError:
        raise UsageError(f"{text!r} is neither a date-time nor a duration", hint="2030-01-31T08:00 or 2h") from None
    return (datetime.datetime.now().astimezone() + later).isoformat(timespec="seconds")
