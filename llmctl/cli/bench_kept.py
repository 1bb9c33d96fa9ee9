"""Measurements that are found again: proof bundles under LLMCTL_HOME/proof/bench, which name no host."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.cli.session import Session
from llmctl.errors import StateError, UnknownName, nearest

KIND, ROWS = "bench", "cells"


def keep(
    session: Session, data: Mapping[str, Any], code: int, began: float, *, proof: bool, private: bool
) -> dict[str, Any]:
    """Keep a result; its `id`, and the folder of its `proof`. `private`: with names of hosts, addresses and paths."""
    from llmctl.checks import proof as proofs
    from llmctl.cli.smoke import secret_words

    if not proof:
        return {"id": None, "proof": None}
    secret = secret_words(session) | ({data["other"]: "the other server"} if data["other"] else {})
    rows = [{"host": data["host"], "status": "pass", **cell} for cell in data["cells"]]
    subject = {key: value for key, value in data.items() if key not in ("cells", "profile")}
    run = proofs.Run(KIND, rows, [subject], [], code, began, rows_name=ROWS, secret=secret)
    folder = proofs.write(session.home / "proof", run, private=private)
    return {"id": folder.name, "proof": str(folder)}


def rows(session: Session) -> list[dict[str, Any]]:
    """All that is kept, the newest first, without the figures' ranges."""
    found = [read(folder) for folder in _folder(session).glob("*") if (folder / "metadata.json").is_file()]
    return sorted((head(one) for one in found), key=lambda row: float(row["at"]), reverse=True)


def head(data: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the list."""
    keys = ("id", "at", "host", "port", "model", "engine", "other")
    loads = [{key: cell[key] for key in ("streams", "prompt", "new", "requests", "runs")} for cell in data["cells"]]
    return {**{key: data.get(key) for key in keys}, "loads": loads}


def find(session: Session, id: str) -> dict[str, Any]:
    """One result by its id, or by the folder of its bundle. UnknownName, or StateError where it cannot be read."""
    folder = Path(id).expanduser()
    if not (folder / "metadata.json").is_file():
        known = [path.name for path in _folder(session).glob("*")]
        if id not in known:
            close = nearest(id, known)
            raise UnknownName(
                f"there is no measurement {id[:140]!r}", hint=f"did you mean {close}?" if close else "llmctl bench list"
            )
        folder = _folder(session) / id
    return read(folder)


def read(folder: Path) -> dict[str, Any]:
    """A bundle as the data that `bench run` answered."""
    try:
        meta = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        lines = (folder / f"{ROWS}.ndjson").read_text(encoding="utf-8").splitlines()[1:]
        cells = [{k: v for k, v in json.loads(line).items() if k not in ("host", "status")} for line in lines]
        at = datetime.datetime.fromisoformat(meta["began"]).timestamp()
        (subject,) = meta["subjects"]
        if meta["type"] != KIND:
            raise ValueError(f"it is one of {meta['type']}")
        return {**subject, "id": meta["run_id"], "at": at, "profile": None, "cells": cells, "proof": str(folder)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(
            f"{folder} is no readable proof bundle of a measurement: {error}", hint=f"rm -r {folder}"
        ) from None


def _folder(session: Session) -> Path:
    return session.home / "proof" / KIND


def age(at: float) -> float:
    """Seconds since a moment."""
    return max(0.0, time.time() - at)
