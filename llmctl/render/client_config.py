"""How `client-config` is shown: what is to be pasted on stdout, where it goes and what else is to be done on stderr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llmctl.render.text import Table, View


class Line(NamedTuple):
    """Text for stdout, or (`aside`) for stderr."""

    text: str
    aside: bool


def lines(data: Mapping[str, Any]) -> Iterator[Line]:
    """The parts, each under the name of its file, then the notes."""
    for part in data["parts"]:
        yield Line(f"{part['file'] or 'in a shell'}:\n", aside=True)
        yield Line(part["text"], aside=False)
    for note in data["notes"]:
        yield Line(f"note: {note}\n", aside=True)


def kinds(data: Mapping[str, Any]) -> Table:
    """What there is a configuration for."""
    return Table(("KIND", "FOR"), [(kind["kind"], kind["what"]) for kind in data["kinds"]])


VIEWS: dict[str, View] = {"client-config": kinds}
