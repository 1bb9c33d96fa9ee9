"""Text for people, made of the same data that `--json` prints: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from llmctl.envelope import Answer
from llmctl.errors import LlmctlError

_STYLES = {
    "ready": "green",
    "starting": "yellow",
    "swapping": "yellow",
    "stopping": "yellow",
    "sleeping": "cyan",
    "failed": "red",
    "crash-loop": "red",
    "backoff": "red",
    "down": "red",
    "disabled": "magenta",
}


class Table(NamedTuple):
    """Rows under headers; `right` names the columns that hold numbers."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = ()


View = Callable[[Mapping[str, Any]], "str | Table"]


def show(command: str, answer: Answer) -> None:
    """Print an answer and its errors."""
    for piece in answer.stream or ():
        print(piece, end="", flush=True)
    if answer.data:
        view = VIEWS[command](answer.data) if "would" not in answer.data else _planned(answer.data)
        if isinstance(view, str):
            print(view)
        elif sys.stdout.isatty():
            _rich_table(view)
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
    log = error.details.get("log") or ()
    for line in log.splitlines() if isinstance(log, str) else log:
        print(f"  | {line}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def plain_table(table: Table) -> str:
    """Columns aligned by spaces."""
    lines = [table.headers, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.headers))]
    right = [header in table.right for header in table.headers]

    def aligned(line: Sequence[str]) -> str:
        cells = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True))
        return "  ".join(cells).rstrip()

    return "\n".join(map(aligned, lines))


def _rich_table(table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for header in table.headers:
        shown.add_column(header, justify="right" if header in table.right else "left", no_wrap=header != "WHY")
    for row in table.rows:
        shown.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console().print(shown)


# ── units ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def size(count: int | None) -> str:
    """Bytes as people read them, decimal."""
    if count is None:
        return "-"
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def duration(seconds: float) -> str:
    """12.3s, 4m05s, 3h20m or 2d4h."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


# ── what each verb shows ────────────────────────────────────────────────────────────────────────────────────────────


def _status(data: Mapping[str, Any]) -> str | Table:
    if not data["slots"]:
        return "no slots; start one with: llmctl load 8101 MODEL"
    rows = []
    for slot in data["slots"]:
        speed, since = slot["tokens_per_second"], slot["since"]
        row = (
            slot["host"],
            str(slot["port"]),
            slot["model"] or "-",
            slot["engine"] or "-",
            slot["state"],
            size(slot["memory_bytes"] or None),
            f"{speed:.1f}" if speed else "-",
            duration(max(0.0, time.time() - since)) if since else "-",
            ",".join(slot["handles"]) or "-",
            slot["why"] or "",
        )
        rows.append(row)
    headers = ["HOST", "PORT", "MODEL", "ENGINE", "STATE", "MEMORY", "TOK/S", "UP", "HANDLE", "WHY"]
    shown = len(headers) if any(row[-1] for row in rows) else -1
    return Table(headers[:shown], [row[:shown] for row in rows], right=("PORT", "MEMORY", "TOK/S", "UP"))


def _changed(data: Mapping[str, Any]) -> str:
    """One line for load, swap, unload, restart, disable and enable."""
    where = f"{data['host']}:{data['port']}"
    parts = [f"{where}  {data['model'] or 'no model'}  {data['state']}"]
    if data["previous"] not in (None, data["model"]):
        parts.append(f"before: {data['previous']}")
    if data["engine"]:
        parts.append(data["engine"])
    if data["order"] != "none":
        parts.append(data["order"])
    if data["seconds"]:
        parts.append(f"in {duration(data['seconds'])}")
    if data["cut"]:
        parts.append(f"{data['cut']} requests cut at their time limit")
    if data.get("saved"):
        parts.append(f"saved in {data['saved']}")
    return " · ".join(parts)


def _planned(data: Mapping[str, Any]) -> str:
    return (
        f"would {data['would']} {data['model']} on {data['host']}:{data['port']} with {data['engine']}: "
        f"{data['path']}, context {data['context']} × {data['parallel']}, needs {size(data['needed_bytes'])}"
    )


def _models(data: Mapping[str, Any]) -> Table:
    rows = []
    for model in data["models"]:
        kinds = [_kind(artifact) for artifact in model["artifacts"]]
        here = [_kind(artifact) for artifact in model["artifacts"] if artifact["path"]]
        rows.append((model["id"], ", ".join(here) or "-", ", ".join(kinds)))
    return Table(("MODEL", "HERE", "ARTIFACTS"), rows)


def _kind(artifact: Mapping[str, Any]) -> str:
    return f"{artifact['format']} {artifact['quantization'] or ''}".strip()


def _model(data: Mapping[str, Any]) -> str:
    lines = [data["id"]]
    for key in ("aliases", "context", "parameters", "licence"):
        value = data[key]
        if value:
            lines.append(f"  {key:<11} {', '.join(value) if isinstance(value, list) else value}")
    probe = data["probe"]
    expected = f" → {probe['expect']}" if probe["expect"] else ""
    lines.append(f"  {'probe':<11} {probe['prompt']}{expected}")
    for artifact, source in zip(data["artifacts"], data["sources"], strict=True):
        place = artifact["path"] or f"not here; {source or 'made by scripts/tiny-models'}"
        architecture = data["architectures"].get(artifact["path"])
        about = [size(artifact["bytes"])] if artifact["bytes"] else []
        about += [architecture] if architecture else []
        lines.append(f"  {_kind(artifact)}: {' · '.join([place, *about])}")
    return "\n".join(lines)


def _profiles(data: Mapping[str, Any]) -> str | Table:
    if not data["profiles"]:
        return "no profiles; llmctl init writes a first one"
    rows = [
        (p["name"], ", ".join(f"{s['port']} {s['model']}" for s in p["slots"]), p["description"])
        for p in data["profiles"]
    ]
    return Table(("PROFILE", "SLOTS", "DESCRIPTION"), rows)


def _profile(data: Mapping[str, Any]) -> Table:
    keys = ("port", "model", "host", "engine", "quantization", "context", "parallel", "handle", "idle_unload", "order")
    used = [key for key in keys if any(slot[key] not in (None, "auto") for slot in data["slots"])]
    rows = [[str("-" if slot[key] is None else slot[key]) for key in used] for slot in data["slots"]]
    return Table([key.upper() for key in used], rows)


def _steps(data: Mapping[str, Any]) -> str | Table:
    if "steps" not in data:
        return "\n".join(map(_changed, data["slots"])) or "nothing to do"
    if not data["steps"]:
        return "nothing to do"
    rows = [
        (str(step["port"]), step["action"], step["model"] or "-", step["current"] or "-", ", ".join(step["differs"]))
        for step in data["steps"]
    ]
    return Table(("PORT", "ACTION", "MODEL", "NOW", "DIFFERS"), rows, right=("PORT",))


VIEWS: dict[str, View] = {
    "status": _status,
    **dict.fromkeys(("load", "swap", "unload", "restart", "disable", "enable"), _changed),
    "init": lambda data: "\n".join(f"wrote {path}" for path in data["written"]),
    "version": lambda data: f"llmctl {data['version']}",
    "models list": _models,
    "models show": _model,
    "profile list": _profiles,
    "profile show": _profile,
    **dict.fromkeys(("profile diff", "profile load", "profile unload"), _steps),
    "profile save": lambda data: f"{data['text']}→ {data['path']}",
    **dict.fromkeys(("keys show", "keys rotate"), lambda data: "\n".join(f"{k}: {v}" for k, v in data.items())),
}
