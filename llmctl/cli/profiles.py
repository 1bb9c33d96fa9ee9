"""`llmctl profile`: a file's worth of slots at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any

import typer

from llmctl import config as configs
from llmctl import paths, profiles
from llmctl.cli import fleet
from llmctl.cli import options as o
from llmctl.cli import reach as reaching
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.config import Host, Profile
from llmctl.domain import GATEWAY, SlotSpec
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, UsageError
from llmctl.fleet import fanout

app = typer.Typer(help="Profiles: what runs on which ports, in one file.")


@app.command("list")
def list_profiles(ctx: typer.Context) -> Answer:
    """All profiles."""
    session: Session = ctx.obj
    names = configs.profile_names(session.config)
    return Answer({"profiles": [_profile(fleet.read(session, name)) for name in names]})


@app.command()
def show(ctx: typer.Context, profile: o.ProfileName) -> Answer:
    """The slots of one profile."""
    return Answer(_profile(fleet.read(ctx.obj, profile)))


@app.command()
def diff(ctx: typer.Context, profile: o.ProfileName, host: o.Hosts = None) -> Answer:
    """What runs otherwise than the profile says; exit code 1 when something does."""
    with Reach(ctx.obj) as reach:
        return _named(profile, fleet.planned(reach, fleet.wish(ctx.obj, [profile], host)))


@app.command()
def load(
    ctx: typer.Context,
    profile: o.ProfileName,
    host: o.Hosts = None,
    slot: Annotated[
        str | None,
        typer.Option("--slot", metavar="HOST:PORT", help="This one alone, also if it is loaded on demand: others go."),
    ] = None,
    dry_run: o.DryRun = False,
) -> Answer:
    """Load or swap what the profile says; slots that are not in it stay as they are."""
    with Reach(ctx.obj) as reach:
        asked = fleet.wish(ctx.obj, [profile], host)
        if slot is not None:
            asked = _only(ctx.obj, asked, slot)
        if dry_run:
            found = _named(profile, fleet.planned(reach, asked))
            return replace(found, exit_code=0 if found.exit_code == 1 and not found.errors else found.exit_code)
        return _named(profile, fleet.applied(reach, asked), results=True)


@app.command()
def unload(ctx: typer.Context, profile: o.ProfileName, host: o.Hosts = None, dry_run: o.DryRun = False) -> Answer:
    """Unload the models of the profile that run on its ports."""
    session: Session = ctx.obj
    with Reach(session) as reach:
        asked = fleet.wish(session, [profile], host)
        found = fleet.planned(reach, asked)
        mine = [s for s in found.data["steps"] if s["model"] and s["current"] == s["model"]]
        steps = [{**step, "action": profiles.UNLOAD, "differs": []} for step in mine]
        if dry_run:
            code = 0 if found.exit_code == 1 and not found.errors else found.exit_code
            return Answer({"profile": profile, "steps": steps, "hosts": found.data["hosts"]}, code, found.errors)
        return _unloaded(reach, profile, asked.hosts, steps, found)


@app.command()
def save(
    ctx: typer.Context,
    profile: o.ProfileName,
    description: Annotated[str, typer.Option(help="One line for `profile list`.")] = "",
    host: o.Hosts = None,
    dry_run: o.DryRun = False,
) -> Answer:
    """Write the slots of a host as they run into a profile; asks before it replaces one."""
    session: Session = ctx.obj
    paths.check_name(profile, "profile")
    path = session.folder / "profiles" / f"{profile}.toml"
    there = reaching.one(reaching.select(session, host), "profile save")
    with Reach(session) as reach:
        reply = reach.call(there, ["host", "slots"], _slots, timeout=reaching.LOOK)
    name = None if there.transport == "local" else there.name
    slots = [replace(slot, host=name) for slot in reaching.slots(reply.value())]
    text = profiles.as_toml(description, slots)
    if dry_run:
        return Answer({"path": str(path), "text": text})
    if path.exists():
        session.confirm(f"{path} is there already, with its comments. Replace it?")
    path.parent.mkdir(exist_ok=True)
    return Answer({"path": profiles.Edit(path, text).write(), "text": text})


def _only(session: Session, asked: fleet.Wish, slot: str) -> fleet.Wish:
    """What is wished for one slot."""
    name, port = reaching.split(slot)
    if not port.isascii() or not port.isdigit():
        raise UsageError(f"{slot[:140]!r} is no slot", hint="--slot HOST:8101")
    host = session.config.host(name)
    assigned = asked.assigned.only(host.name, int(port))
    return replace(asked, hosts=(host,), assigned=assigned, demand=True)


def running(session: Session) -> dict[int, SlotSpec | None]:
    """What each slot of this machine should run by its own state; the gateway is none of them."""
    from llmctl.slots.state import SlotFolder

    found = {port: SlotFolder(session.home, port).read_desired().spec for port in paths.slot_ports(session.home)}
    return {port: spec for port, spec in found.items() if spec is None or spec.engine.engine != GATEWAY}


def _slots(session: Session) -> Answer:
    from llmctl.slots import wanted

    return Answer({"slots": [asdict(slot) for slot in wanted.as_slots(session.place())]})


def _named(profile: str, found: Answer, results: bool = False) -> Answer:
    """An answer about one profile: the steps, or what became of them."""
    steps = found.data["steps"]
    rest = {"hosts": found.data["hosts"]}
    shown = {"slots": [step["result"] for step in steps if step["result"]]} if results else {"steps": steps}
    return replace(found, data={"profile": profile, **shown, **rest})


def _unloaded(
    reach: Reach, profile: str, hosts: Sequence[Host], steps: Sequence[Mapping[str, Any]], found: Answer
) -> Answer:
    """Unload on each host one after another, whatever becomes of the others."""
    errors: list[LlmctlError] = []

    def one(host: Host) -> list[Mapping[str, Any]]:
        results = []
        for step in steps:
            if step["host"] != host.name:
                continue
            port = int(step["port"])
            try:
                check = f"llmctl status {host.name}:{port}"
                reply = reach.call(host, ["unload", str(port)], partial(_unload, port=port), check=check)
                results.append(reply.value())
            except LlmctlError as error:
                error.port = error.port or port
                errors.append(error)
        return results

    done = [row for outcome in fanout.over(hosts, one) for row in outcome.value or ()]
    errors += found.errors
    code = 0 if not errors else 3 if done else errors[0].exit_code
    return Answer({"profile": profile, "slots": done, "hosts": found.data["hosts"]}, code, tuple(errors))


def _unload(session: Session, *, port: int) -> Answer:
    from llmctl.slots import verbs

    return Answer({"host": session.host().name, **asdict(verbs.unload(session.home, port))})


def _profile(profile: Profile) -> dict[str, Any]:
    slots = [asdict(slot) for slot in profile.slots]
    return {"name": profile.name, "description": profile.description, "slots": slots}
