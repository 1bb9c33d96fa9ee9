"""What the verbs of handles share: all hosts asked, the registry made of that, and what the gateway needs written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llmctl import config as configs
from llmctl import files
from llmctl.cli.reach import Reach, rows
from llmctl.cli.session import Session
from llmctl.config import Host
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError
from llmctl.fleet import fanout
from llmctl.gateway import derive, registry
from llmctl.gateway.derive import Problem
from llmctl.gateway.registry import Registry
from llmctl.keys import is_loopback


def asked(reach: Reach) -> tuple[dict[str, dict[int, dict[str, Any]]], list[LlmctlError]]:
    """Host → port → row of `status` of all hosts; and why there are none of some."""
    outcomes = fanout.over(list(reach.session.config.hosts.values()), lambda host: rows(reach, host)[0])
    found = {
        outcome.host.name: {int(row["port"]): row for row in outcome.value}
        for outcome in outcomes
        if outcome.value is not None
    }
    return found, [outcome.error for outcome in outcomes if outcome.error]


def derived(reach: Reach) -> tuple[Registry, list[Problem], list[LlmctlError]]:
    """The registry as the profiles and the slots have it now."""
    session = reach.session
    known = [configs.profile(session.config, session.catalog, name) for name in configs.profile_names(session.config)]
    found, errors = asked(reach)
    made, problems = derive.derived(session.config, known, found)
    return made, problems, errors


def synced(reach: Reach) -> tuple[Registry, list[Problem], list[LlmctlError]]:
    """Derive it and write it, with what the gateway needs to reach the hosts."""
    made, problems, errors = derived(reach)
    registry.write(reach.session.home, made)
    _write_hosts(reach, made)
    return made, problems, errors


def _write_hosts(reach: Reach, made: Registry) -> None:
    """Where the configuration lies, and the client keys of hosts whose slots ask for one; 0600."""
    session = reach.session
    named = {replica.host for handle in made.handles.values() for replica in handle.replicas}
    keyed = [host for name, host in session.config.hosts.items() if name in named and not is_loopback(host.bind)]
    found = {o.host.name: o.value for o in fanout.over(keyed, lambda host: _key(reach, host)) if o.value}
    folder = str(session.config.dir) if session.config.dir else None
    files.write_json(session.home / "gateway" / "hosts.json", {"config": folder, "keys": found})


def _key(reach: Reach, host: Host) -> str:
    def here(session: Session) -> Answer:
        from llmctl import keys

        return Answer(keys.show(session.home))

    data: Mapping[str, Any] = reach.call(host, ["keys", "show"], here, timeout=60.0).value()
    return str(data["client"])


def shown(made: Registry, problems: list[Problem], errors: list[LlmctlError]) -> Answer:
    """The answer of a verb that made a registry: 1 with a problem, 3 where a host said nothing."""
    data = {
        "handles": [asdict(one) for one in made.handles.values()], "default": made.default, "hash": made.hash,
        "problems": [asdict(one) for one in problems],
    }  # fmt: skip
    return Answer(json.loads(json.dumps(data)), 1 if problems else 3 if errors else 0, tuple(errors))
