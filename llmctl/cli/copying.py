"""`llmctl pull MODEL --from HOST`: an artifact of another host, copied to where it is to be."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from io import BytesIO
from typing import Annotated, Any

import typer

from llmctl.cli import reach
from llmctl.cli.copy_ends import artifacts_of, received
from llmctl.cli.foreground import Foreground
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.config import Host
from llmctl.envelope import Answer
from llmctl.errors import Refused, UsageError
from llmctl.fleet import fanout
from llmctl.fleet.copying import Destination, Source, copy

Verb = Callable[..., Answer]
From = Annotated[
    str | None, typer.Option("--from", metavar="HOST", help="Copy it from this host; in the foreground, resumed.")
]
FOREIGN = ("revision", "detach", "dry_run")


def from_host(verb: Verb) -> Verb:
    """Give `pull` the option --from."""

    @functools.wraps(verb)
    def command(ctx: typer.Context, from_host: str | None = None, **given: Any) -> Answer:
        return _copied(ctx.obj, from_host, given) if from_host else verb(ctx, **given)

    signature = inspect.signature(verb)
    option = inspect.Parameter("from_host", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=From)
    parameters = [*signature.parameters.values(), option]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _copied(session: Session, name: str, given: Mapping[str, Any]) -> Answer:
    """The answer of `pull --from`, for every destination."""
    if wrong := [option for option in FOREIGN if given.get(option)]:
        raise UsageError(f"--{wrong[0].replace('_', '-')} does not go with --from", hint="a copy can be run again")
    origin, wanted = session.config.host(name), reach.select(session, given.get("host"))
    if origin in wanted:
        raise UsageError(f"{origin.name} is where it comes from and where it goes to", hint="name another --host")
    with Reach(session) as hosts:
        source = _source(hosts, origin, given["model"], given["format"], given["quantization"])

        def to(host: Host) -> dict[str, Any]:
            with session.progress() as on_event:
                progress = Foreground(on_event).progress
                with _alone(session, host, source):
                    done = copy(source, _destination(hosts, host), session.home / "spool", progress)
            return {"host": host.name, "from": origin.name, **_named(source.manifest), **asdict(done)}

        outcomes = fanout.over(wanted, to, most=1)
    errors = tuple(outcome.error for outcome in outcomes if outcome.error)
    if len(errors) == len(outcomes) == 1:
        raise errors[0]
    return Answer({"copied": [o.value for o in outcomes if o.value]}, fanout.exit_code(outcomes), errors)


def _named(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: manifest[key] for key in ("model", "format", "quantization")}


# ── where it comes from ─────────────────────────────────────────────────────────────────────────────────────────────


def _source(hosts: Reach, origin: Host, model: str, format: str, quantization: str | None) -> Source:
    """The artifact that is meant on `origin`; an error tells which there are."""
    reply = hosts.call(origin, ["host", "artifacts", "--", model], lambda here: Answer(artifacts_of(here, model)))
    found = reply.value()
    rows = [
        row
        for row in found["artifacts"]
        if format.lower() in ("auto", row["format"])
        and (quantization or "").casefold() in ("", row["quantization"] or "")
    ]
    shown = ", ".join(_shown(row) for row in found["artifacts"])
    if not rows:
        raise Refused(
            f"{origin.name} has {found['model']} as {shown} only", hint="leave --format and --quantization out"
        )
    if len(rows) > 1:
        raise UsageError(
            f"{origin.name} has {found['model']} as {shown}", hint="say which: --format F --quantization Q"
        )
    if not rows[0]["manifest"]:
        raise Refused(
            f"{found['model']} on {origin.name} has no manifest to check it by",
            hint=f"make it an artifact first, on {origin.name}: llmctl models import {rows[0]['folder']}",
        )
    return Source(origin.name, hosts.transport(origin), rows[0]["folder"], rows[0]["manifest"])


def _shown(row: Mapping[str, Any]) -> str:
    return f"{row['format']} {row['quantization'] or ''}".strip()


# ── where it goes ───────────────────────────────────────────────────────────────────────────────────────────────────


def _destination(hosts: Reach, host: Host) -> Destination:
    def ask(step: str, stdin: bytes) -> Mapping[str, Any]:
        def here(session: Session) -> Answer:
            return Answer(received(session, step, BytesIO(stdin), alone=True))

        return hosts.call(host, ["host", "incoming", step], here, stdin=stdin).value()

    return Destination(host.name, ask, host.transport == "local")


def _alone(session: Session, host: Host, source: Source) -> AbstractContextManager[None]:
    """On this machine, while nobody else changes the model; elsewhere each step sees to that."""
    from llmctl.models import receiving

    if host.transport != "local":
        return nullcontext()
    return receiving.alone(receiving.read_manifest(source.manifest), host.models(session.home))
