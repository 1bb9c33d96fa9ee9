"""`llmctl adopt`: a slot in front of a server that somebody started by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl import events
from llmctl.cli import options as o
from llmctl.cli.far import on_hosts
from llmctl.cli.session import Session, Target
from llmctl.domain import SlotSpec
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, UsageError

if TYPE_CHECKING:
    from llmctl.slots.adopt import Found

app = typer.Typer()


@app.command()
@on_hosts("port")
def adopt(
    ctx: typer.Context,
    port: o.Port,
    model: Annotated[str | None, typer.Option("--as", metavar="NAME", help="What the model is called here.")] = None,
    server_port: Annotated[
        int | None,
        typer.Option("--port-of-server", metavar="N", help="Where the server listens; PORT is then the slot's."),
    ] = None,
    served: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which of the server's models, where it has several.")
    ] = None,
    key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The variable that holds the server's API key.")
    ] = None,
    manage: Annotated[
        bool, typer.Option("--manage", help="End the server, and start it anew by its own words under llmctl.")
    ] = False,
    save: Annotated[bool, typer.Option("--save", help="Write its entry into models.toml, to load it by name.")] = False,
    dry_run: o.DryRun = False,
) -> Answer:
    """Put a slot in front of the server that listens on PORT; the server goes on as it is."""
    from llmctl.slots import adopt as adopting

    session: Session = ctx.obj
    target = session.target(port)
    found = adopting.look(session.home, server_port or target.port, key_env)
    spec = adopting.spec(found, model, served, key_env, manage)
    slot = _slot(session, target, server_port, found, manage)
    data = {"host": target.host.name, "port": slot.port, "managed": manage, "server": found.to_dict()}
    if save:
        _entry_fits(session, spec)
    if dry_run:
        return Answer({**data, "plan": "manage" if manage else "attach", "model": spec.model, "entry": _text(spec)})
    result = _taken_over(session, slot, found, spec) if manage else _loaded(session, slot, spec)
    how = "ended and started anew" if manage else "goes on as it is"
    events.note(session.home, "adopt", port=slot.port, model=spec.model, outcome=events.OK, what=f"the server {how}")
    saved = _save(session, spec) if save else None
    return Answer({**data, **result, "saved": saved, "entry": _text(spec)})


def _slot(session: Session, target: Target, server_port: int | None, found: Found, manage: bool) -> Target:
    """Where the slot is to be: on the server's own port when that goes, else on a free one of the host's."""
    if server_port is not None:
        if server_port == target.port and not manage:
            hint = "leave --port-of-server out"
            raise UsageError(f"port {server_port} cannot be the server's and the slot's at once", hint=hint)
        return target
    if manage:
        return target
    return Target(target.host, session.free_port(target.host, {found.listener.port}))


def _loaded(session: Session, slot: Target, spec: SlotSpec) -> dict[str, Any]:
    from llmctl.cli.changes import change

    return change(session, slot, "load", spec)


def _taken_over(session: Session, slot: Target, found: Found, spec: SlotSpec) -> dict[str, Any]:
    """Checked as far as it can be while the server still runs; then it ends, and comes back below the slot."""
    from llmctl.slots import adopt as adopting

    one = found.listener
    session.confirm(f"End the server of pid {one.pid} on port {one.port}, and start it again under llmctl?")
    adopting.stop(found)
    try:
        return _loaded(session, slot, spec)
    except LlmctlError as error:
        raise adopting.blame(found, error) from None


# ── its entry ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _text(spec: SlotSpec) -> str:
    from llmctl.models import entry_text
    from llmctl.slots.adopt import entry

    return entry_text.entry(entry(spec))


def _with_entry(session: Session, spec: SlotSpec) -> str:
    own = session.folder / "models.toml"
    old = own.read_text(encoding="utf-8") if own.exists() else ""
    return f"{old.rstrip()}\n\n{_text(spec)}" if old.strip() else _text(spec)


def _entry_fits(session: Session, spec: SlotSpec) -> None:
    """UsageError, before anything is done, when models.toml cannot take the entry."""
    from llmctl import catalog_file

    if spec.model in catalog_file.models_in(session.folder / "models.toml"):
        raise UsageError(f"models.toml has an entry {spec.model} already", hint="--as NAME, or leave --save out")
    catalog_file.load(session.folder / "models.toml", _with_entry(session, spec))


def _save(session: Session, spec: SlotSpec) -> str:
    from llmctl.files import write_text

    path = session.folder / "models.toml"
    write_text(path, _with_entry(session, spec))
    return str(path)
