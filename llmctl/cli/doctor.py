"""`llmctl doctor`: what is wrong with this machine and with each host, and the command that mends it."""

from __future__ import annotations

import getpass
import platform
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl import __version__
from llmctl.cli import options as o
from llmctl.cli.session import Session
from llmctl.config import Config, Host
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError

if TYPE_CHECKING:
    from llmctl.cli.reach import Reach
    from llmctl.doctor.inside import Inside
    from llmctl.doctor.rows import Row
    from llmctl.fleet.facts import Facts

app = typer.Typer()

LOOK = 60.0
"""Seconds that a host has to look at itself: what may hang there has shorter deadlines of its own."""


@app.command()
def doctor(
    ctx: typer.Context,
    hosts: o.HostNames = None,
    report: Annotated[bool, typer.Option("--report", help="Make a report that names nobody, for an issue.")] = False,
) -> Answer:
    """Check this machine and the hosts; every finding ends with what to type. 0 all pass, 1 one fails, 3 warnings."""
    from llmctl.doctor import report as reports
    from llmctl.doctor import rows as results

    session: Session = ctx.obj
    found, config = _own(session)
    seen: dict[str, Facts] = {}
    if config:
        found += gateway(session)
        found += _of_hosts(session, _meant(config, hosts or ()), seen)
    data: dict[str, Any] = {"rows": [reports.shown(row) for row in found]}
    if report:
        data = _report(found, config, seen)
    return Answer(data, results.exit_code(found))


def _meant(config: Config, names: Sequence[str]) -> list[Host]:
    """The hosts that are named; all of hosts.toml, and none where there is no such file."""
    from llmctl.fleet import selection

    return selection.select(config, names) if names or config.dir else []


def _own(session: Session) -> tuple[list[Row], Config | None]:
    """The rows of this machine, and what hosts.toml says, where it can be read."""
    from llmctl import config as configs
    from llmctl.doctor import clock, own, own_ssh
    from llmctl.environments import locks

    home, now = session.home, time.time()
    files, config = own.configuration(lambda: configs.find(session.config_dir))
    rows = [own.python(), *own.packages(locks.shipped("base"), own.installed()), *files]
    if config:
        rows += own_ssh.ssh(config, home)
    rows += [own.own_keys(home), *own.state(home), own.disk(home), *own.past(home, now), clock.clock(now)]
    return rows, config


def gateway(session: Session) -> list[Row]:
    """The rows of the gateway of this machine, where it should have one."""
    from llmctl.cli import handles_work
    from llmctl.cli.reach import Reach
    from llmctl.doctor import own_gateway
    from llmctl.gateway import checking, registry
    from llmctl.gateway.derive import Problem

    try:
        gateways = own_gateway.found(session.home)
    except LlmctlError:  # a state folder that cannot be read is a finding of its own
        return []

    def stale() -> list[Problem]:
        with Reach(session) as reach:
            made = handles_work.derived(reach)[0]
        return list(checking.written(made, registry.read(session.home)))

    return list(own_gateway.gateway(session.home, gateways, stale)) if gateways else []


def _of_hosts(session: Session, hosts: Sequence[Host], seen: dict[str, Facts]) -> list[Row]:
    """The rows of the hosts, which are asked at once; `seen` gets the facts of those that were reached."""
    from llmctl.cli.reach import Reach
    from llmctl.doctor import hosts as judging
    from llmctl.doctor.rows import at
    from llmctl.fleet import fanout

    rows = []
    with Reach(session) as reach:
        outcomes = fanout.over(hosts, lambda host: _look(reach, host))
    for outcome in outcomes:
        host = outcome.host
        if outcome.value is None:
            assert outcome.error
            rows += at(host.name, judging.unreachable(host, outcome.error))
            continue
        facts, inside = outcome.value
        seen[host.name] = facts
        rows += at(host.name, judging.rows(host, facts, inside, time.time()))
    return rows


def _look(reach: Reach, host: Host) -> tuple[Facts, Inside | LlmctlError]:
    """The facts of a host, and what it tells of itself, or why it does not. LlmctlError when it cannot be reached."""
    from llmctl.cli import host_doctor
    from llmctl.doctor.inside import Inside
    from llmctl.fleet.facts import cache, gathering

    facts = gathering.gather(reach.transport(host))
    with suppress(OSError):  # a state folder that cannot be written is a finding of its own
        cache.write(reach.session.home, host, facts)
    try:
        reply = reach.call(host, ["host", "doctor"], host_doctor.looked, timeout=LOOK, any_version=True)
        return facts, Inside.from_dict(reply.value())
    except LlmctlError as error:
        return facts, error
    except (TypeError, ValueError, AttributeError):
        return facts, LlmctlError(f"the llmctl of {host.name} tells what this one does not understand")


def _report(rows: Sequence[Row], config: Config | None, seen: dict[str, Facts]) -> dict[str, Any]:
    """The answer of `--report`: the rows, and the text of an issue."""
    from llmctl.checks import public
    from llmctl.doctor import report as reports

    hosts = config.hosts if config else {}
    entries = hosts.values()
    words: list[tuple[str | None, str]] = [
        *((host.address, "address") for host in entries),
        *((host.spread_address, "address") for host in entries),
        *((host.gateway, "address") for host in entries),
        *((host.user, "user") for host in entries),
        *((facts.user, "user") for facts in seen.values()),
        (Path.home().name, "user"),
        (socket.gethostname(), "host"),
        (socket.gethostname().partition(".")[0], "host"),
    ]
    with suppress(KeyError, OSError):
        words.append((getpass.getuser(), "user"))
    secret = reports.secrets(words, hosts)
    head = {"llmctl": __version__, "python": platform.python_version(), "system": platform.platform()}
    head |= {name: reports.machine(facts) for name, facts in seen.items()}
    told: dict[str, str] = {secret.get(name, name): public.clean(text, secret) for name, text in head.items()}
    safe = reports.safe(rows, secret)
    return {"rows": safe, "report": reports.markdown(safe, told)}
