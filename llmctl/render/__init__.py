"""Text for people, made of the same data that `--json` prints: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from llmctl.envelope import Answer
from llmctl.errors import LlmctlError
from llmctl.render import (
    adopt,
    bench,
    client_config,
    convert,
    deploy,
    doctor,
    fleet,
    gateway,
    handles,
    health,
    history,
    hosts,
    jobs,
    metrics,
    models,
    native,
    profiles,
    pull,
    quality,
    quality_matrix,
    registry,
    search,
    slots,
    smoke,
    test_models,
    token,
    trust,
    wheelhouse,
)
from llmctl.render.text import Table, View, plain_table, rich_table, size


def show(command: str, answer: Answer) -> None:
    """Print an answer and its errors."""
    for piece in answer.stream or ():
        print(piece, end="", flush=True)
    if answer.data:
        view = _view(command, answer.data)
        if isinstance(view, str):
            print(view)
        elif sys.stdout.isatty():
            rich_table(view)
        else:
            print(plain_table(view))
        sys.stdout.flush()
    for error in answer.errors:
        show_error(error, among_hosts=len(answer.data.get("hosts") or ()) > 1)


def show_error(error: LlmctlError, among_hosts: bool = False) -> None:
    """What went wrong, the log that shows why, and what to type next; `among_hosts`: its host is told."""
    if error.code == "interrupted":
        print("interrupted", file=sys.stderr)
        return
    where = f"{error.host}: " if among_hosts and error.host and error.host not in error.message else ""
    where += f"port {error.port}: " if error.port and str(error.port) not in error.message else ""
    print(f"error: {where}{error.message}", file=sys.stderr)
    report = error.details.get("report")
    log = quality.lines(report) if report else error.details.get("log") or ()
    for line in log.splitlines() if isinstance(log, str) else log:
        print(f"  | {line}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def _view(command: str, data: Mapping[str, Any]) -> str | Table:
    if "detached" in data:
        return jobs.detached(data["detached"])
    if "would" in data:
        return _planned(data)
    joined = [host for host in data.get("hosts") or () if "exit_code" in host]
    if joined and len(data) == 1:
        return "\n\n".join(f"{host['host']}:\n{_block(command, host)}" for host in joined)
    return VIEWS[command](data)


def _block(command: str, said: Mapping[str, Any]) -> str:
    """What one of several hosts answered."""
    data = {key: value for key, value in said.items() if key != "exit_code"}
    if set(data) == {"host"}:
        return f"ended with {said['exit_code']}"
    view = _view(command, data)
    return view if isinstance(view, str) else plain_table(view)


def _planned(data: Mapping[str, Any]) -> str:
    lines = [
        f"would {data['would']} {data['model']} on {data['host']}:{data['port']} with {data['engine']}: "
        f"{data['path']}, context {data['context']} × {data['parallel']}, needs {size(data['needed_bytes'])}"
    ]
    return "\n".join([*lines, *slots.room(data)])


FOR_HOSTS = tuple(
    f"host {verb}"
    for verb in ("plan", "apply", "slots", "artifacts", "incoming", "token", "metrics", "doctor", "events")
)
"""What other hosts ask, and people hardly ever."""

VIEWS: dict[str, View] = {
    "init": lambda data: "\n".join(f"wrote {path}" for path in data["written"]),
    "version": lambda data: f"llmctl {data['version']}",
    **dict.fromkeys(
        ("keys show", "keys rotate"), lambda data: "\n".join(f"{kind}: {data[kind]}" for kind in ("client", "admin"))
    ),
    **slots.VIEWS,
    **adopt.VIEWS,
    **models.VIEWS,
    **metrics.VIEWS,
    **profiles.VIEWS,
    **jobs.VIEWS,
    **registry.VIEWS,
    **pull.VIEWS,
    **search.VIEWS,
    **convert.VIEWS,
    **hosts.VIEWS,
    **deploy.VIEWS,
    **doctor.VIEWS,
    **fleet.VIEWS,
    **health.VIEWS,
    **history.VIEWS,
    **smoke.VIEWS,
    **quality_matrix.VIEWS,
    **test_models.VIEWS,
    **bench.VIEWS,
    **client_config.VIEWS,
    **token.VIEWS,
    **dict.fromkeys(FOR_HOSTS, lambda data: json.dumps(data, indent=1)),
    **trust.VIEWS,
    **native.VIEWS,
    **wheelhouse.VIEWS,
    **gateway.VIEWS,
    **handles.VIEWS,
}
