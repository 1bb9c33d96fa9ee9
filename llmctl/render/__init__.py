"""Text for people, made of the same data that `--json` prints: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from llmctl.envelope import Answer
from llmctl.errors import LlmctlError
from llmctl.render import (
    convert,
    deploy,
    fleet,
    hosts,
    jobs,
    models,
    profiles,
    pull,
    quality,
    registry,
    search,
    slots,
    smoke,
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
        show_error(error)


def show_error(error: LlmctlError) -> None:
    """What went wrong, the log that shows why, and what to type next."""
    if error.code == "interrupted":
        print("interrupted", file=sys.stderr)
        return
    where = f"port {error.port}: " if error.port and str(error.port) not in error.message else ""
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
    return _planned(data) if "would" in data else VIEWS[command](data)


def _planned(data: Mapping[str, Any]) -> str:
    return (
        f"would {data['would']} {data['model']} on {data['host']}:{data['port']} with {data['engine']}: "
        f"{data['path']}, context {data['context']} × {data['parallel']}, needs {size(data['needed_bytes'])}"
    )


VIEWS: dict[str, View] = {
    "init": lambda data: "\n".join(f"wrote {path}" for path in data["written"]),
    "version": lambda data: f"llmctl {data['version']}",
    **dict.fromkeys(("keys show", "keys rotate"), lambda data: "\n".join(f"{k}: {v}" for k, v in data.items())),
    **slots.VIEWS,
    **models.VIEWS,
    **profiles.VIEWS,
    **jobs.VIEWS,
    **registry.VIEWS,
    **pull.VIEWS,
    **search.VIEWS,
    **convert.VIEWS,
    **hosts.VIEWS,
    **deploy.VIEWS,
    **fleet.VIEWS,
    **smoke.VIEWS,
}
