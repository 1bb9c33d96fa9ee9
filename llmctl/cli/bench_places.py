"""Where `bench run` measures: the host of a slot, or here between two hosts; and the second server that is meant."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmctl.cli.session import Session, Target
from llmctl.config import Host
from llmctl.domain import READY
from llmctl.envelope import Answer
from llmctl.errors import Refused, UsageError

if TYPE_CHECKING:
    from llmctl.checks.bench_client import Server
    from llmctl.checks.bench_host import Other, Plan
    from llmctl.cli.reach import Reach

LONG = 7 * 86400.0


def where(
    session: Session, target: str, patterns: Sequence[str] | None, wish: Mapping[str, Any]
) -> tuple[Host, int | None]:
    """The host, and the port of a slot; None: `target` is a model."""
    from llmctl.cli import reach as reaching

    if target.rpartition(":")[2].isdigit():
        hosts, port = reaching.slots_of(session, target, patterns)
        if wrong := [f"--{key}" for key in ("quantization", "context", "parallel") if wish[key] is not None]:
            raise UsageError(f"{wrong[0]} is for a model that comes up, and port {port} has one", hint="leave it out")
        return reaching.one(hosts, "bench run"), int(port)
    return reaching.one(reaching.select(session, patterns), "bench run"), None


def other(
    session: Session, where: Host, compare: str | None, model: str | None, key_env: str | None
) -> tuple[Other | None, Target | None]:
    """Whom to compare with: somebody whom the host `where` reaches, or a slot that only this machine does."""
    from llmctl.checks.bench_host import Other
    from llmctl.cli import reach as reaching

    is_url = compare is not None and "://" in compare
    if (model or key_env) and not is_url:
        raise UsageError("--compare-model and --key-env are of the server at a URL", hint="--compare http://HOST:PORT")
    if compare is None:
        return None, None
    if is_url:
        if key_env and not os.environ.get(key_env):
            raise UsageError(f"there is nothing in the environment variable {key_env}", hint=f"export {key_env}=…")
        return Other(None, compare, model, os.environ.get(key_env or "") or None), None
    name, port = reaching.split(compare)
    host = session.config.host(name) if name else where
    if port == "auto":
        raise UsageError("which slot shall it be compared with?", hint="--compare HOST:8101")
    return (Other(int(port)), None) if host == where else (None, Target(host, int(port)))


# ── the measurement ─────────────────────────────────────────────────────────────────────────────────────────────────


def on(reach: Reach, where: Host, plan: Plan, target: str) -> Answer:
    """On the host of the slot. The key of the other server goes by stdin: what is typed can be seen by others."""
    session = reach.session
    with session.progress() as on_event:
        reply = reach.call(
            where, ["bench", "run", "--told", "--", target], lambda there: here(there, plan),
            stdin=json.dumps(plan.to_dict()).encode(), timeout=LONG, yes=session.yes, on_event=on_event,
            check=f"llmctl status --host {where.name}",
        )  # fmt: skip
    return Answer({**reply.value(), "host": where.name}, reply.exit_code, reply.errors)


def here(session: Session, plan: Plan) -> Answer:
    """On this machine."""
    from llmctl.checks import bench_host
    from llmctl.cli.bench_energy import meter

    with session.progress() as on_event:
        data, error = bench_host.run(session.home, session.host(), session.catalog, plan, meter, on_event)
    return Answer(data, 3, (error,)) if error else Answer(data)


def between(reach: Reach, ours: Target, other: Target, plan: Plan) -> Answer:
    """Two slots on two hosts, both asked from here, each over the way that `llmctl ask` takes."""
    from llmctl.checks.bench_cells import Gauges, measured

    if not ours.port or plan.profile:
        what = "--profile" if plan.profile else "a model on a scratch port"
        raise UsageError(f"{what} is measured on its own host, and {other.host.name} is another", hint="leave it out")
    rows = [_row(reach, target) for target in (ours, other)]
    servers = [_server(reach, target, plan.patience) for target in (ours, other)]
    away = "it is measured from another machine"
    data = {
        "host": ours.host.name, "port": ours.port, "scratch": False, "model": rows[0]["model"],
        "engine": rows[0]["engine"], "weights_bytes": None, "other": servers[1].name, "profile": None, "cells": [],
    }  # fmt: skip
    with reach.session.progress() as on_event:
        error = measured(
            data["cells"], servers[0], servers[1], plan.loads, plan.runs, Gauges(away, "", away),
            lambda message: on_event({"event": "note", "message": message}),
        )  # fmt: skip
    return Answer(data, 3, (error,)) if error else Answer(data)


def _server(reach: Reach, target: Target, patience: float) -> Server:
    from llmctl.checks.bench_client import Server
    from llmctl.cli import chat_partner
    from llmctl.clients.openai import OpenAI

    partner = chat_partner.of_slot(reach, target)
    assert isinstance(partner.client, OpenAI)
    return Server(partner.client.place, partner.name, None, patience)


def _row(reach: Reach, target: Target) -> Mapping[str, Any]:
    """The slot's line of `status`; Refused unless it is ready."""
    from llmctl.cli import reach as reaching

    name = f"{target.host.name}:{target.port}"
    row = reaching.rows(reach, target.host, [str(target.port)])[0][0]
    if row["state"] != READY:
        raise Refused(f"{name} is {row['state']}", hint=f"llmctl status {name}", port=target.port)
    return row
