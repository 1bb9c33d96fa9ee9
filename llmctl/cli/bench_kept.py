"""Measurements that are found again: in the fleet's history, and as proof bundles, which name no host."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.cli.session import Session
from llmctl.errors import HistoryError, LlmctlError, StateError, UnknownName, nearest

KIND, ROWS = "bench", "cells"
MOST = 1000


def keep(
    session: Session, data: Mapping[str, Any], code: int, began: float, *, proof: bool, private: bool
) -> tuple[dict[str, Any], HistoryError | None]:
    """Keep a result: its `id`, the folder of its `proof` (None without one), and why history did not take it."""
    from llmctl.checks import proof as proofs
    from llmctl.cli.smoke import secret_words
    from llmctl.history import NAME
    from llmctl.history.store import History

    rows = [{"host": data["host"], "status": "pass", **cell} for cell in data["cells"]]
    folder = None
    if proof:
        secret = secret_words(session) | ({data["other"]: "the other server"} if data["other"] else {})
        subject = {key: value for key, value in data.items() if key not in ("cells", "profile")}
        run = proofs.Run(KIND, rows, [subject], [], code, began, rows_name=ROWS, secret=secret)
        folder = proofs.write(session.home / "proof", run, private=private)
    id = folder.name if folder else proofs.run_id(began, json.dumps(rows))
    kept = {"id": id, "proof": str(folder) if folder else None}
    details = {**data, **kept, "at": began, "profile": None}
    try:
        with History.open(session.home / NAME) as history:
            history.note(
                data["host"], KIND, port=data["port"], model=data["model"], outcome="failed" if code else "ok",
                what=_told(data), details=details, at=began,
            )  # fmt: skip
    except HistoryError as error:
        return kept, error
    return kept, None


def everything(session: Session) -> list[dict[str, Any]]:
    """All that is kept, the newest first; a bundle that cannot be read is passed over."""
    found = _of_history(session)
    for folder in _folder(session).glob("*"):
        if folder.name not in found:
            with contextlib.suppress(LlmctlError):
                found[folder.name] = read(folder)
    return sorted(found.values(), key=lambda one: float(one["at"]), reverse=True)


def head(data: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the list."""
    loads = [{key: cell[key] for key in ("streams", "prompt", "new", "requests", "runs")} for cell in data["cells"]]
    return {**{key: data.get(key) for key in ("id", "at", "host", "port", "model", "engine", "other")}, "loads": loads}


def find(session: Session, id: str) -> dict[str, Any]:
    """One result by its id, or by the folder of a bundle. UnknownName, or StateError where it cannot be read."""
    if (Path(id).expanduser() / "metadata.json").is_file():
        return read(Path(id).expanduser())
    known = _of_history(session)
    if id in known:
        return known[id]
    if (_folder(session) / Path(id).name / "metadata.json").is_file():
        return read(_folder(session) / Path(id).name)
    close = nearest(id, [*known, *(path.name for path in _folder(session).glob("*"))])
    hint = f"did you mean {close}?" if close else "llmctl bench list"
    raise UnknownName(f"there is no measurement {id[:140]!r}", hint=hint)


def read(folder: Path) -> dict[str, Any]:
    """A bundle as the data that `bench run` answered."""
    try:
        meta = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        lines = (folder / f"{ROWS}.ndjson").read_text(encoding="utf-8").splitlines()[1:]
        cells = [{k: v for k, v in json.loads(line).items() if k not in ("host", "status")} for line in lines]
        at = datetime.datetime.fromisoformat(meta["began"]).timestamp()
        (subject,) = meta["subjects"]
        found = {**subject, "id": meta["run_id"], "at": at, "profile": None, "cells": cells, "proof": str(folder)}
        head(found)
        return found
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"{folder} is no readable proof bundle of a measurement: {error!r}"
        raise StateError(why, hint="llmctl bench list") from None


def _of_history(session: Session) -> dict[str, dict[str, Any]]:
    """What history has, by id; nothing where it cannot be read: the bundles are still there."""
    from llmctl.history import NAME
    from llmctl.history.store import History

    found = {}
    with contextlib.suppress(HistoryError), History.open(session.home / NAME, write=False) as history:
        for event in history.events(kinds=[KIND], most=MOST):
            with contextlib.suppress(LookupError, TypeError):  # of another version
                head(event.details)
                found[str(event.details["id"])] = dict(event.details)
    return found


def _told(data: Mapping[str, Any]) -> str:
    """The event in one line: the first load and its rate."""
    cell = data["cells"][0]
    rate = cell["tokens_per_second"]["median"]
    more = f", and {len(data['cells']) - 1} loads more" if len(data["cells"]) > 1 else ""
    return f"{rate:.1f} tokens/s at {cell['streams']} × {cell['prompt']} + {cell['new']} tokens{more}"


def _folder(session: Session) -> Path:
    return session.home / "proof" / KIND
