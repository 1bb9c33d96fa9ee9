"""`llmctl deploy`, `rollback` and `releases`: llmctl and its slots onto other hosts, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from llmctl import config as configs
from llmctl import tables
from llmctl.cli import options as o
from llmctl.cli import reach as reaching
from llmctl.cli.session import Session
from llmctl.config import Host
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, UsageError
from llmctl.fleet.fanout import Outcome, exit_code

if TYPE_CHECKING:
    from llmctl.fleet.deploy.host import Kit
    from llmctl.fleet.plan import Assignment

app = typer.Typer()
T = TypeVar("T")

HostNames = Annotated[
    list[str], typer.Argument(metavar="HOST...", help="A name, a glob ('gpu*') or @label.", autocompletion=o.hosts)
]
Message = Annotated[str, typer.Option(help="Why; shown to whoever has to wait, and kept in the audit log.")]
HostLockWait = Annotated[str, typer.Option("--lock-wait", metavar="TIME", help="Wait that long for another deploy.")]
NoSmoke = Annotated[bool, typer.Option("--no-smoke", help="Do not ask the changed slots for tokens.")]
Parallel = Annotated[int, typer.Option(min=1, help="How many hosts at once, after the first.")]


@app.command()
def deploy(
    ctx: typer.Context,
    hosts: HostNames,
    profile: Annotated[
        list[str] | None,
        typer.Option("--profile", metavar="NAME", help="Have its slots there; repeatable.", autocompletion=o.profiles),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", metavar="NAME", help="Instead of those of hosts.toml; repeatable; none, convert too."),
    ] = None,
    system: Annotated[bool, typer.Option("--system", help="Units of the system, which need no login.")] = False,
    environment: Annotated[
        str | None, typer.Option(metavar="NAME", help="auto, uv, mamba, micromamba, conda or venv.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="The host asks no package index.")] = False,
    wheelhouse: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Packages from this folder; none are fetched.")
    ] = None,
    parallel: Parallel = 4,
    message: Message = "",
    lock_wait: HostLockWait = "0",
    no_smoke: NoSmoke = False,
    pull: o.Pull = False,
    dry_run: o.DryRun = False,
    prune: Annotated[bool, typer.Option("--prune", help="Only remove what the hosts no longer need.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take llmctl off the hosts; models, keys and history stay.")
    ] = False,
) -> Answer:
    """Bring this llmctl, its environments and the slots of profiles to HOST; the first host proves it for the others.

    What is as it should be is left alone. A step that fails leaves the host with what it had.
    """
    from llmctl.fleet.deploy import back as deploy_back
    from llmctl.fleet.deploy import canary, hooks
    from llmctl.fleet.deploy import host as deploys
    from llmctl.fleet.deploy.choice import Order

    session: Session = ctx.obj
    meant = select(session, hosts)
    if prune and remove:
        raise UsageError("--prune and --remove are two things", hint="leave one of them out")
    if environment not in (None, *configs.ENVIRONMENTS):
        raise UsageError(f"no environment manager {environment!r}", hint=", ".join(configs.ENVIRONMENTS))
    kit = replace(
        kit_of(session, message, lock_wait, meant, [] if prune or remove else profile),
        order=Order(_engines(engine), system, environment, offline, wheelhouse),
        smoke=not no_smoke,
        pull=pull,
        dry_run=dry_run,
    )
    if prune:
        return answer("prunes", over(session, meant, lambda host, on: deploy_back.prune(host, kit, on), parallel))
    if remove:
        names = ", ".join(host.name for host in meant)
        session.confirm(f"Stop all slots of {names} and remove llmctl there? Models, keys and history stay.")
        return answer("removals", over(session, meant, lambda host, on: deploy_back.remove(host, kit, on), parallel))
    told = {"hosts": " ".join(host.name for host in meant), "version": kit.shipment.version, "message": message}
    folder = session.config.dir
    with reaching.side_by_side(session) as on_event:
        deploys.show_hook(hooks.run(folder, hooks.PRE_CONNECT, told), on_event)

        def one(host: Host) -> dict[str, Any]:
            on = reaching.tagged(on_event, host.name)
            status = deploys.FAILED
            try:
                result = deploys.deploy(host, kit, on)
                status = result.status
                return asdict(result)
            finally:
                if not dry_run:
                    _post_deploy(folder, {**kit.told(host), "status": status}, on)

        return answer("hosts", canary.first_then_others(meant, one, parallel))


@app.command()
def rollback(
    ctx: typer.Context,
    host: o.HostName,
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]", help="A release or version there.")] = None,
    message: Message = "",
    lock_wait: HostLockWait = "0",
    no_smoke: NoSmoke = False,
) -> Answer:
    """Put the release before the current one in use on HOST again, or VERSION; its slots go on."""
    from llmctl.fleet.deploy import back as deploy_back

    session: Session = ctx.obj
    meant = select(session, [host])
    kit = replace(kit_of(session, message, lock_wait, meant, []), smoke=not no_smoke)

    def work(one: Host, on: Any) -> dict[str, Any]:
        return asdict(deploy_back.rollback(one, kit, version, on))

    return answer("hosts", over(session, [reaching.one(meant, "rollback")], work))


@app.command()
def releases(ctx: typer.Context, host: o.HostName) -> Answer:
    """The releases on HOST, and who did what there."""
    from llmctl.fleet.deploy import back as deploy_back

    session: Session = ctx.obj
    meant = select(session, [host])
    kit = kit_of(session, "", "0", meant, [])
    return answer("hosts", over(session, meant, lambda one, on: deploy_back.overview(one, kit, on)))


def select(session: Session, patterns: Sequence[str]) -> list[Host]:
    from llmctl.fleet import selection

    return selection.select(session.config, patterns)


def kit_of(session: Session, message: str, lock_wait: str, hosts: Sequence[Host], profile: Sequence[str] | None) -> Kit:
    """What all hosts share. The wheel of this llmctl is made anew each time: it is this very code."""
    from llmctl import __version__
    from llmctl.environments import wheel
    from llmctl.fleet.deploy.host import Kit
    from llmctl.fleet.deploy.side import Shipment
    from llmctl.jobs import queue

    made = wheel.make(session.home / "cache" / "wheel")
    sha256 = hashlib.sha256(made.read_bytes()).hexdigest()
    return Kit(
        config=session.config,
        catalog=session.catalog,
        home=session.home,
        shipment=Shipment(wheel.release_id(made), __version__, made, sha256),
        assignment=_assignment(session, hosts, profile),
        owner=queue.owner(),
        message=message,
        lock_wait=tables.seconds(lock_wait),
    )


def over(
    session: Session, hosts: Sequence[Host], work: Callable[[Host, Any], T], parallel: int = 4
) -> list[Outcome[T]]:
    """The same on each host, with its progress shown."""
    from llmctl.fleet import fanout

    with reaching.side_by_side(session) as on_event:
        return fanout.over(hosts, lambda host: work(host, reaching.tagged(on_event, host.name)), parallel)


def answer(key: str, outcomes: Sequence[Outcome[Any]]) -> Answer:
    """`data.KEY[]` of those that succeeded, and the errors of the others."""
    done = [outcome.value for outcome in outcomes if outcome.error is None]
    errors = tuple(outcome.error for outcome in outcomes if outcome.error)
    return Answer({key: done} if done else {}, exit_code(outcomes), errors)


def _assignment(session: Session, hosts: Sequence[Host], names: Sequence[str] | None) -> Assignment:
    """The slots of profiles on these hosts: of those that were typed; else of all, where it is said on which host."""
    from llmctl.fleet.plan import assign

    named = configs.profile_names(session.config) if names is None else names
    profiles = [configs.profile(session.config, session.catalog, name) for name in named]
    if names is None and session.config.default_host is None and len(session.config.hosts) > 1:
        listed = {name for host in session.config.hosts.values() for name in host.profiles}
        own = [replace(p, slots=p.slots if p.name in listed else tuple(s for s in p.slots if s.host)) for p in profiles]
        return assign(session.config, own, hosts)
    return assign(session.config, profiles, hosts, chosen=True, named=bool(names))


def _engines(typed: Sequence[str] | None) -> tuple[str, ...] | None:
    if not typed:
        return None
    if "none" in typed and len(typed) > 1:
        raise UsageError("--engine none stands alone", hint="leave it out")
    return () if typed == ["none"] else tuple(typed)


def _post_deploy(folder: Path | None, told: dict[str, str], on_event: Callable[[dict[str, Any]], None]) -> None:
    """A hook that fails afterwards is a warning: what it comes after is done."""
    from llmctl.fleet.deploy import hooks
    from llmctl.fleet.deploy.host import show_hook

    try:
        show_hook(hooks.run(folder, hooks.POST_DEPLOY, told), on_event)
    except LlmctlError as error:
        for line in (f"warning: {error.message}", *error.details.get("log", ())):
            on_event({"event": "note", "message": line})
