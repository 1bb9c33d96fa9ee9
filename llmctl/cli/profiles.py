"""`llmctl profile`: a file's worth of slots at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from llmctl import config as configs
from llmctl import paths, profiles
from llmctl.cli import options as o
from llmctl.cli.changes import change, data_of
from llmctl.cli.session import Session, Target
from llmctl.config import Profile
from llmctl.domain import SlotSpec
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, Refused
from llmctl.profiles import EXTRA, KEEP, LOAD, SWAP, Step

app = typer.Typer(help="Profiles: what runs on which ports, in one file.")


@app.command("list")
def list_profiles(ctx: typer.Context) -> Answer:
    """All profiles."""
    session: Session = ctx.obj
    return Answer({"profiles": [_profile(_read(session, name)) for name in configs.profile_names(session.config)]})


@app.command()
def show(ctx: typer.Context, profile: o.ProfileName) -> Answer:
    """The slots of one profile."""
    return Answer(_profile(_read(ctx.obj, profile)))


@app.command()
def diff(ctx: typer.Context, profile: o.ProfileName) -> Answer:
    """What runs otherwise than the profile says; exit code 1 when something does."""
    steps = _plan(ctx.obj, _read(ctx.obj, profile))
    differs = any(step.action not in (KEEP, EXTRA) for step in steps)
    return Answer({"profile": profile, "steps": [_row(step) for step in steps]}, exit_code=int(differs))


@app.command()
def load(ctx: typer.Context, profile: o.ProfileName, dry_run: o.DryRun = False) -> Answer:
    """Load or swap what the profile says; slots that are not in it stay as they are."""
    session: Session = ctx.obj
    steps = [step for step in _plan(session, _read(session, profile)) if step.action != EXTRA]
    if dry_run:
        return Answer({"profile": profile, "steps": [_row(step) for step in steps]})
    return _each(profile, steps, lambda step: _load(session, step))


@app.command()
def unload(ctx: typer.Context, profile: o.ProfileName, dry_run: o.DryRun = False) -> Answer:
    """Unload the models of the profile that run on its ports."""
    from llmctl.slots import verbs

    session: Session = ctx.obj
    found = _read(session, profile)
    mine = [s for s in _plan(session, found) if s.slot and s.current == s.model]
    steps = [Step(s.port, "unload", s.model, s.current, slot=s.slot) for s in mine]
    if dry_run:
        return Answer({"profile": profile, "steps": [_row(step) for step in steps]})
    return _each(profile, steps, lambda step: data_of(_target(session, step), verbs.unload(session.home, step.port)))


@app.command()
def save(
    ctx: typer.Context,
    profile: o.ProfileName,
    description: Annotated[str, typer.Option(help="One line for `profile list`.")] = "",
    dry_run: o.DryRun = False,
) -> Answer:
    """Write the slots as they run into a profile; asks before it replaces one."""
    session: Session = ctx.obj
    paths.check_name(profile, "profile")
    path = session.folder / "profiles" / f"{profile}.toml"
    models = session.host().models(session.home)
    slots = [
        profiles.as_slot(port, spec, session.catalog.resolve(spec.model), models)
        for port, spec in running(session).items()
        if spec
    ]
    text = profiles.as_toml(description, slots)
    if dry_run:
        return Answer({"path": str(path), "text": text})
    if path.exists():
        session.confirm(f"{path} is there already, with its comments. Replace it?")
    path.parent.mkdir(exist_ok=True)
    return Answer({"path": profiles.Edit(path, text).write(), "text": text})


def running(session: Session) -> dict[int, SlotSpec | None]:
    """What each slot of this host should run by its own state."""
    from llmctl.slots.state import SlotFolder, slot_ports

    return {port: SlotFolder(session.home, port).read_desired().spec for port in slot_ports(session.home)}


def _read(session: Session, name: str) -> Profile:
    return configs.profile(session.config, session.catalog, name)


def _plan(session: Session, profile: Profile) -> list[Step]:
    hosts = {session.host(slot.host).name for slot in profile.slots} or {session.host().name}
    if len(hosts) > 1:
        raise Refused(f"profile {profile.name} is for several hosts, and this version works on one")
    host = session.host(next(iter(hosts)))
    return profiles.plan(profile, running(session), lambda taken: session.free_port(host, taken))


def _load(session: Session, step: Step) -> dict[str, Any]:
    from llmctl.slots.resolve import profile_slot

    assert step.slot
    target = _target(session, step)
    if step.slot.technique:
        raise Refused(f"technique {step.slot.technique} is not in this version", port=step.port)
    spec = profile_slot(session.catalog, target.host, step.slot)
    action = SWAP if step.action == SWAP else LOAD  # loading what is there does nothing, unless it is down
    return change(session, target, action, spec, order=step.slot.order)


def _target(session: Session, step: Step) -> Target:
    return Target(session.host(step.slot.host if step.slot else None), step.port)


def _each(profile: str, steps: list[Step], act: Callable[[Step], dict[str, Any]]) -> Answer:
    """Do every step, whatever becomes of the others: partial when some failed, failed when all did."""
    results: list[dict[str, Any]] = []
    errors: list[LlmctlError] = []
    for step in steps:
        try:
            results.append(act(step))
        except LlmctlError as error:
            error.port = error.port or step.port
            errors.append(error)
    code = 0 if not errors else 3 if results else errors[0].exit_code
    return Answer({"profile": profile, "slots": results}, code, tuple(errors))


def _row(step: Step) -> dict[str, Any]:
    return {
        "port": step.port,
        "action": step.action,
        "model": step.model,
        "current": step.current,
        "differs": list(step.differs),
    }


def _profile(profile: Profile) -> dict[str, Any]:
    slots = [asdict(slot) for slot in profile.slots]
    return {"name": profile.name, "description": profile.description, "slots": slots}
