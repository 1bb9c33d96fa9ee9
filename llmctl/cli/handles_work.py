"""What the verbs of handles share: all hosts asked, the registry made of that, and what the gateway needs written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llmctl import config as configs
from llmctl import files
from llmctl.cli.reach import Reach, rows
from llmctl.cli.session import Session
from llmctl.config import Host, Profile
from llmctl.domain import GATEWAY
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, StateError
from llmctl.fleet import fanout
from llmctl.gateway import checking, derive, hosts, life, registry
from llmctl.gateway.derive import Problem
from llmctl.gateway.registry import Registry
from llmctl.keys import is_loopback
from llmctl.slots import status

TAKEN_UP = 5.0
"""Seconds within which a gateway has a registry that was written; it looks every second."""
Asked = tuple[derive.Rows, list[LlmctlError]]


def asked(reach: Reach) -> Asked:
    """Host → port → row of `status` of all hosts; and why there are none of some."""
    outcomes = fanout.over(list(reach.session.config.hosts.values()), lambda host: rows(reach, host)[0])
    found: dict[str, dict[int, dict[str, Any]]] = {}
    errors = []
    for outcome in outcomes:
        if outcome.error:
            outcome.error.host = outcome.host.name
            errors.append(outcome.error)
        else:
            found[outcome.host.name] = {int(row["port"]): row for row in outcome.value or ()}
    return found, errors


def derived(reach: Reach, told: Asked | None = None) -> tuple[Registry, list[Problem], list[LlmctlError]]:
    """The registry as the profiles and the slots have it now; slots of hosts that say nothing as it had them before."""
    session = reach.session
    found, errors = told or asked(reach)
    before = _before(session) if errors else derive.NOTHING
    made, problems = derive.derived(session.config, profiles(session), found, before)
    return made, problems, errors


def profiles(session: Session) -> list[Profile]:
    """All of them."""
    return [configs.profile(session.config, session.catalog, name) for name in configs.profile_names(session.config)]


def _before(session: Session) -> Registry:
    try:
        return registry.read(session.home)
    except StateError:  # what was written is nonsense: it is about to be written anew
        return derive.NOTHING


def synced(reach: Reach) -> tuple[Registry, list[Problem], list[LlmctlError]]:
    """Derive it and write it, with what the gateway needs to reach the hosts."""
    made, problems, errors = derived(reach)
    write(reach, made)
    return made, problems, errors


def write(reach: Reach, made: Registry) -> None:
    """What the gateway goes by: the registry, where the configuration lies, and the keys of hosts that ask for one. A
    gateway that runs here has taken it up afterwards, or is left to it."""
    session = reach.session
    registry.write(session.home, made)
    folder = str(session.config.dir) if session.config.dir else None
    files.write_json(session.home / "gateway" / hosts.NAME, {"config": folder, "keys": keys_of(reach, made)})
    for row in status.status(session.home):
        if row.model == GATEWAY and row.runner_pid:
            life.goes_by(session.home, row.port, made.hash, TAKEN_UP)


def keys_of(reach: Reach, made: Registry) -> dict[str, str]:
    """The client keys of the hosts whose slots ask for one; those that cannot be asked keep what was known."""
    session = reach.session
    named = {replica.host for handle in made.handles.values() for replica in handle.replicas}
    keyed = [host for name, host in session.config.hosts.items() if name in named and not is_loopback(host.bind)]
    before = hosts.read(session.home).get("keys", {})
    outcomes = fanout.over(keyed, lambda host: _key(reach, host))
    found = {one.host.name: one.value or before.get(one.host.name) for one in outcomes}
    return {name: key for name, key in found.items() if key}


def _key(reach: Reach, host: Host) -> str:
    def here(session: Session) -> Answer:
        from llmctl import keys

        return Answer(keys.show(session.home))

    data: Mapping[str, Any] = reach.call(host, ["keys", "show"], here, timeout=60.0).value()
    return str(data["client"])


def shown(made: Registry, problems: Sequence[Problem], errors: Sequence[LlmctlError]) -> Answer:
    """The answer of a verb that made a registry: 3 where something is wrong with a part of it, or a host said
    nothing."""
    data = {
        "handles": [asdict(one) for one in made.handles.values()], "default": made.default, "hash": made.hash,
        "kept": kept(made, errors), "problems": checking.data(problems),
    }  # fmt: skip
    return Answer(json.loads(json.dumps(data)), 3 if problems or errors else 0, tuple(errors))


def kept(made: Registry, errors: Sequence[LlmctlError]) -> list[str]:
    """The slots that are taken to be as they were, for their hosts say nothing."""
    silent = {error.host for error in errors}
    return sorted({one.where for handle in made.handles.values() for one in handle.replicas if one.host in silent})
