"""What each key has used of its day or month, kept in the gateway's slot folder so that no end of it forgets that."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmctl import paths
from llmctl.errors import StateError
from llmctl.files import read_json, write_json
from llmctl.gateway.limits import Allowed, Meter, period_of

NAME = "usage.json"
Rows = dict[str, dict[str, Any]]
"""Key → {period, spent}."""


class Meters:
    """Those of all keys, by name: a key that is made anew under its name goes on with what that has used."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / NAME
        self.error = ""
        try:
            self._saved = read(folder)
        except StateError as error:
            self.error = f"{error.message}: the keys begin at zero"
            self._file.replace(self._file.with_suffix(".bad"))
            self._saved = {}
        self._known = {name: Meter(**row) for name, row in self._saved.items()}

    def of(self, name: str) -> Meter:
        return self._known.setdefault(name, Meter())

    async def keep(self) -> None:
        """Have on the disk what has changed since the last time, without holding up what goes on."""
        if rows := self._changed():
            await asyncio.to_thread(write_json, self._file, rows)
            self._saved = rows

    def close(self) -> None:
        """The same at once."""
        if rows := self._changed():
            write_json(self._file, rows)
            self._saved = rows

    def _changed(self) -> Rows | None:
        rows = {name: {"period": one.period, "spent": one.spent} for name, one in self._known.items() if one.spent}
        return rows if rows != self._saved else None


def read(folder: Path) -> Rows:
    """Of one gateway; StateError for a file that makes no sense."""
    data = read_json(folder / NAME)
    if data is None:
        return {}
    if not isinstance(data, Mapping) or not all(_sound(row) for row in data.values()):
        raise StateError(f"{folder / NAME} tells of no use of keys", hint=f"ls -l {folder / NAME}*")
    return {str(name): dict(row) for name, row in data.items()}


def _sound(row: Any) -> bool:
    return (
        isinstance(row, Mapping) and set(row) == {"period", "spent"}
        and isinstance(row["period"], str) and type(row["spent"]) is int
    )  # fmt: skip


def everywhere(home: Path) -> list[Rows]:
    """Of all gateways of a state folder: each counts what it has let in."""
    return [read(paths.slot(home, port)) for port in paths.slot_ports(home)]


def used(gateways: Iterable[Rows], name: str, allowed: Allowed, today: datetime.date) -> int:
    """Tokens of the day or month that `today` is in."""
    period = period_of(allowed.per, today)
    found = (rows.get(name) for rows in gateways)
    return sum(int(row["spent"]) for row in found if row and row["period"] == period)
