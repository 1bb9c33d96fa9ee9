"""What the verbs of handles share: all hosts asked, the registry made of that, and what the gateway needs written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmctl import config as configs
from llmctl import files
from llmctl.cli import handles_live
from llmctl.cli.reach import Reach, rows
from llmctl.cli.session import Session
from llmctl.config import Host
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, StateError
from llmctl.fleet import fanout
from llmctl.gateway import checking, derive, hosts, jsonl, registry
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
    files.write_json(session.home / "gateway" / hosts.NAME, {"config": folder, "keys": found})


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


def export(session: Session, made: Registry, folder: Path) -> list[str]:
    """Write handles.jsonl and its sidecar; their paths."""
    texts = {jsonl.FILE: jsonl.export(made, _services(session)), jsonl.SIDECAR: jsonl.sidecar(made)}
    for name, text in texts.items():
        files.write_text(folder / name, text)
    return [str(folder / name) for name in texts]


def checked(reach: Reach, *, live: bool, fix: bool) -> Answer:
    """All that does not agree; what is generated is written anew with `fix`."""
    session, folder = reach.session, reach.session.config.dir
    made, problems, errors = derived(reach)
    known, _ = asked(reach)
    if fix and folder and (folder / jsonl.FILE).exists():
        export(session, made, folder)
    if fix:
        registry.write(session.home, made)
        _write_hosts(reach, made)
    found = [*problems, *checking.handles(made, known)]
    if folder:
        found += checking.file(made, _text(folder / jsonl.FILE), _services(session))
        found += checking.sidecar(made, _text(folder / jsonl.SIDECAR))
    if registry.path(session.home).exists():
        found += _gateways(session, made)
    if live:
        found += checking.live(made, *handles_live.said(reach, made))
    code = 1 if found else 3 if errors else 0
    return Answer({"problems": checking.data(found), "handles": list(made.handles)}, code, tuple(errors))


def _gateways(session: Session, made: Registry) -> list[Problem]:
    try:
        return list(checking.written(made, registry.read(session.home)))
    except StateError as error:
        return [Problem("the gateway", error.message, checking.SYNC)]


def _services(session: Session) -> dict[str, str]:
    return {name: host.service for name, host in session.config.hosts.items()}


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
