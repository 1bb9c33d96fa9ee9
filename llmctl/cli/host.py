"""`llmctl host`: what a host does when another host's llmctl asks it; not for people, so not in the help.

`host plan` and `host apply` read one JSON object from stdin:

    {"slots": [{"port": 8101 | "auto", "model": "tiny-qwen2", "engine": "auto", "quantization": null, "context": null,
                "parallel": null, "technique": null, "handle": null, "idle_unload": null, "order": "auto",
                "draft": null, "adapters": [], "cache_bits": null, "cache_bytes": null, "spread": []}, …],
     "prune": false, "pull": false, "demand": false}

where a slot is a `config.ProfileSlot` (`dataclasses.asdict`; all but port and model may be left out). They answer

    host plan   {"steps": [{"host", "port", "action", "model", "current", "differs": [...], "problem": "…" | null}, …]}
    host apply  {"steps": [{"host", "port", "action", "model", "current", "differs": [...],
                            "result": {"host", "port", "model", "previous", "engine", "order", "seconds",
                                       "load_seconds", "cut", "state"} | null}, …]}
    host slots  {"slots": [ProfileSlot, …]}   what a profile must say to get the slots as they are

`action` is keep, load, swap, start, unload (with prune), extra (left alone) or held (disabled, left alone). With `pull`
a model that is not here is fetched before its slot is loaded; with `demand` slots that are loaded on demand are loaded
now, and others that may go make room for them, which `plan` lists as `evicts` [{"port", "model", "bytes", "reserved",
"unused"}, …]. Of `apply` the exit code is 0 when all is as wanted, 3
when some steps failed and 1 when all did; the envelope's `errors` have the port of each. Progress goes to stderr as
lines of JSON, with a note for each step.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl.cli.bring import bring
from llmctl.cli.session import Session
from llmctl.config import ProfileSlot
from llmctl.envelope import Answer
from llmctl.errors import UsageError
from llmctl.profiles import Step

if TYPE_CHECKING:
    from llmctl.slots.wanted import Place

app = typer.Typer(help="Asked by llmctl on other hosts.", hidden=True)


@app.command()
def plan(ctx: typer.Context) -> Answer:
    """What would make this host run the slots that stdin says."""
    return planned(ctx.obj, asked(sys.stdin.read()))


@app.command()
def apply(ctx: typer.Context) -> Answer:
    """Make this host run the slots that stdin says."""
    return applied(ctx.obj, asked(sys.stdin.read()))


@app.command()
def slots(ctx: typer.Context) -> Answer:
    """The slots of this host, as a profile would say them."""
    from llmctl.slots import wanted

    session: Session = ctx.obj
    return Answer({"slots": [asdict(slot) for slot in wanted.as_slots(session.place())]})


@app.command()
def share(ctx: typer.Context) -> Answer:
    """Whether this host can compute a share of the model that stdin names."""
    from llmctl.slots import spread

    session: Session = ctx.obj
    place = session.place()
    return Answer(spread.answer(session.catalog, place.host, place.home, spread.read(sys.stdin.read())))


@app.command()
def rank(
    ctx: typer.Context,
    engine: Annotated[str, typer.Option()],
    model: Annotated[str, typer.Option()],
    slot: Annotated[str, typer.Option()],
    needed: Annotated[int, typer.Option(min=0)],
) -> Answer:
    """Become the process that computes a share of a model; what it is to do comes by stdin."""
    from llmctl import backends
    from llmctl.processes import own_environment
    from llmctl.slots import spread

    session: Session = ctx.obj
    host = session.host()
    argv = spread.become_rank(session.catalog, host, engine, model, slot, needed)
    backend = backends.get(backends.detect() if host.backend == "auto" else host.backend)
    os.execve(argv[0], argv, own_environment({**os.environ, **backend.environment(), "PYTHONUNBUFFERED": "1"}))


@app.command()
def watch(ctx: typer.Context, every: Annotated[str, typer.Option(metavar="SECONDS")] = "2") -> Answer:
    """Tell of this host's slots in lines of JSON, one when something changed and one every ten seconds."""
    from llmctl.cli import host_watch

    session: Session = ctx.obj
    return Answer(stream=host_watch.lines(session.home, session.called or "local", host_watch.seconds(every)))


@app.command()
def metrics(ctx: typer.Context, timeout: Annotated[str, typer.Option(metavar="TIME")] = "2s") -> Answer:
    """What this host and its slots count, for the exporter of another."""
    from llmctl.cli import host_metrics

    session: Session = ctx.obj
    return host_metrics.told(session.home, session.called or "local", timeout)


def planned(session: Session, request: Asked) -> Answer:
    """The answer of `host plan`."""
    from llmctl.slots import wanted

    place = session.place()
    steps = wanted.plan(place, request.slots, request.prune, request.demand)
    return Answer({"steps": [_planned(place, step, request.demand) for step in steps]})


def _planned(place: Place, step: Step, demand: bool) -> dict[str, Any]:
    from llmctl.slots import wanted

    error = wanted.problem(place, step)
    more: dict[str, Any] = {}
    if demand and not error:
        more["evicts"], error = wanted.evicts(place, step)
    return {**wanted.row(place.host.name, step), "problem": error.message if error else None, **more}


def applied(session: Session, request: Asked) -> Answer:
    """The answer of `host apply`: partial when some steps failed, failed when all did. With `demand` also what is
    loaded on demand, and others that may go make room for it."""
    from llmctl.slots import wanted

    def here(slot: ProfileSlot) -> None:
        bring(session, slot.model, slot.engine, slot.quantization)

    place = session.place()
    with session.progress() as on_event:
        steps = wanted.plan(place, request.slots, request.prune, request.demand)
        done = wanted.apply(place, steps, on_event, here if request.pull else None, evict=request.demand)
    errors = tuple(one.error for one in done if one.error)
    code = 0 if not errors else 3 if any(one.result for one in done) else errors[0].exit_code
    return Answer({"steps": [wanted.row_of(place.host.name, one) for one in done]}, code, errors)


@dataclass(frozen=True)
class Asked:
    """A request of another llmctl: the slots, whether what is there besides goes, whether absent models come, and
    whether slots that are loaded on demand are meant."""

    slots: list[ProfileSlot]
    prune: bool = False
    pull: bool = False
    demand: bool = False


def asked(text: str) -> Asked:
    """A request as it came; UsageError when it is none."""
    from llmctl.slots import wanted

    try:
        found: Any = json.loads(text)
    except ValueError:
        found = None
    request: dict[str, Any] = found if isinstance(found, dict) else {"prune": None}
    flags = {key: request.get(key, False) for key in ("prune", "pull", "demand")}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise UsageError("stdin is not a request of llmctl", hint="llmctl plan, llmctl apply")
    return Asked(wanted.read_slots(request.get("slots")), **flags)
