"""`llmctl plan` and `apply`: what all profiles say, on all hosts."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from llmctl import config as configs
from llmctl.cli import host as host_verbs
from llmctl.cli import options as o
from llmctl.cli import reach as reaching
from llmctl.cli import status
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.config import Host, Profile
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, UsageError
from llmctl.fleet import fanout, selection
from llmctl.fleet.call import Reply
from llmctl.fleet.fanout import Outcome
from llmctl.fleet.plan import Assignment, assign
from llmctl.profiles import STILL

app = typer.Typer()

Names = Annotated[
    list[str] | None,
    typer.Option(
        "--profile", metavar="NAME", help="Only this one; repeatable. Default: all.", autocompletion=o.profiles
    ),
]
Prune = Annotated[bool, typer.Option("--prune", help="Also unload what no profile has, on hosts that profiles name.")]


@app.command()
def plan(ctx: typer.Context, profile: Names = None, host: o.Hosts = None, prune: Prune = False) -> Answer:
    """Show what would make the hosts run what their profiles say. 1: something differs."""
    with Reach(ctx.obj) as reach:
        return planned(reach, wish(ctx.obj, profile, host, prune))


@app.command()
def apply(
    ctx: typer.Context,
    profile: Names = None,
    host: o.Hosts = None,
    prune: Prune = False,
    pull: o.Pull = False,
    dry_run: o.DryRun = False,
) -> Answer:
    """Make the hosts run what their profiles say; asks first. What is as it should be is left alone."""
    session: Session = ctx.obj
    with Reach(session) as reach:
        asked = replace(wish(session, profile, host, prune), pull=pull)
        found = planned(reach, asked)
        changes = [step for step in found.data["steps"] if step["action"] not in STILL]
        if dry_run or not changes:
            return found
        _ask(session, changes)
        names = {step["host"] for step in changes}
        made = applied(reach, asked, names)
    rest = [{**step, "result": None} for step in found.data["steps"] if step["host"] not in names]
    hosts = [one for one in found.data["hosts"] if one["host"] not in names]
    data = {**made.data, "steps": [*made.data["steps"], *rest], "hosts": [*made.data["hosts"], *hosts]}
    errors = (*found.errors, *made.errors)
    return Answer(data, made.exit_code if not found.errors else 3, errors)


@dataclass(frozen=True)
class Wish:
    """Hosts, what profiles want on them, whether what is on them besides is to go, whether absent models are to come,
    and whether slots that are loaded on demand are meant."""

    hosts: tuple[Host, ...]
    assigned: Assignment
    prune: bool = False
    pull: bool = False
    demand: bool = False

    @property
    def notes(self) -> list[str]:
        return [
            f"profile {name} belongs to no host: list it in `profiles` of a host's entry, or apply it with "
            f"--profile {name} --host HOST"
            for name in self.assigned.homeless
        ]


def wish(session: Session, names: Sequence[str] | None, patterns: Sequence[str] | None, prune: bool = False) -> Wish:
    """What the profiles called `names` (all of them without any) want on the hosts of --host (all without it)."""
    if names and prune:
        raise UsageError("--prune would unload what the other profiles have", hint="leave --profile out, or --prune")
    found = [read(session, name) for name in names or configs.profile_names(session.config)]
    hosts = selection.select(session.config, patterns or ())
    assigned = assign(session.config, found, hosts, chosen=bool(patterns), named=bool(names))
    if names:
        hosts = [host for host in hosts if assigned.slots[host.name]]
        if not hosts and any(profile.slots for profile in found):
            raise UsageError(f"{', '.join(names)} has no slot for these hosts", hint=f"llmctl profile show {names[0]}")
    return Wish(tuple(hosts), assigned, prune)


def read(session: Session, name: str) -> Profile:
    """The profile called `name`."""
    return configs.profile(session.config, session.catalog, name)


def planned(reach: Reach, asked: Wish) -> Answer:
    """The steps of all hosts, and which hosts could not be asked; 1: something differs."""
    outcomes = _over(reach, asked, "plan", asked.hosts)
    steps = [step for outcome in outcomes if outcome.value for step in outcome.value.data.get("steps", ())]
    errors = _errors(outcomes)
    differs = any(step["action"] not in STILL for step in steps)
    code = _code(outcomes) or int(differs)
    return Answer({"steps": steps, "hosts": _states(outcomes), "notes": asked.notes}, code, errors)


def applied(reach: Reach, asked: Wish, names: Collection[str] | None = None) -> Answer:
    """Do it, hosts side by side and the slots of each one after another; the hosts called `names`, or all."""
    hosts = [host for host in asked.hosts if names is None or host.name in names]
    outcomes = _over(reach, asked, "apply", hosts)
    steps = [step for outcome in outcomes if outcome.value for step in outcome.value.data.get("steps", ())]
    return Answer(
        {"steps": steps, "hosts": _states(outcomes), "notes": asked.notes}, _code(outcomes), _errors(outcomes)
    )


def _over(reach: Reach, asked: Wish, verb: str, hosts: Sequence[Host]) -> list[Outcome[Reply]]:
    with reaching.side_by_side(reach.session) as on_event:

        def one(host: Host) -> Reply:
            request = asked.assigned.request(host.name, asked.prune, asked.pull, asked.demand)
            for slot in request["slots"]:
                slot["spread"] = reaching.members(reach.session.config, slot["spread"])

            def here(session: Session) -> Answer:
                there = host_verbs.asked(json.dumps(request))
                return (host_verbs.planned if verb == "plan" else host_verbs.applied)(session, there)

            reply = reach.call(
                host, ["host", verb], here, stdin=json.dumps(request).encode(), timeout=7 * 86400.0,
                on_event=reaching.tagged(on_event, host.name), check=f"llmctl plan --host {host.name}",
            )  # fmt: skip
            if "steps" not in reply.data:
                reply.value()
            return reply

        return fanout.over(hosts, one)


def _states(outcomes: Sequence[Outcome[Reply]]) -> list[dict[str, Any]]:
    return [status.state(o.host.name, o.value.version if o.value else None, o.error) for o in outcomes]


def _errors(outcomes: Sequence[Outcome[Reply]]) -> tuple[LlmctlError, ...]:
    found: list[LlmctlError] = []
    for outcome in outcomes:
        found += [outcome.error] if outcome.error else outcome.value.errors if outcome.value else ()
    return tuple(found)


def _code(outcomes: Sequence[Outcome[Reply]]) -> int:
    """0 all good, that of all where they agree, else 3."""
    codes = {o.error.exit_code if o.error else o.value.exit_code if o.value else 0 for o in outcomes} or {0}
    return codes.pop() if len(codes) == 1 else 3


def _ask(session: Session, changes: Sequence[dict[str, Any]]) -> None:
    if session.yes:
        return
    from llmctl.render import fleet, text

    session.tell(text.plain_table(fleet.steps({"steps": changes})))
    names = list(dict.fromkeys(step["host"] for step in changes))
    session.confirm(f"Make {len(changes)} change{'s' * (len(changes) > 1)} on {', '.join(names)}?")
