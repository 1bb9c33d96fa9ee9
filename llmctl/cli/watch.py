"""`llmctl status --watch`: the table again and again, over connections that stay open."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from llmctl.cli import status
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.render import slots
from llmctl.render.text import Table, plain_table, rich_of


def watching(
    session: Session, ports: Sequence[str], patterns: Sequence[str], every: float
) -> Generator[str, None, Mapping[str, Any]]:
    """The table every `every` seconds until Ctrl-C: in its place on a terminal, one below the other elsewhere."""
    with Reach(session) as reach:
        if sys.stdout.isatty():
            _live(reach, ports, patterns, every)
        while True:
            yield f"{time.strftime('%H:%M:%S')}\n{_text(_look(reach, ports, patterns))}\n\n"
            time.sleep(every)


def _live(reach: Reach, ports: Sequence[str], patterns: Sequence[str], every: float) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        while True:
            found = _look(reach, ports, patterns)
            live.update(rich_of(found) if isinstance(found, Table) else Text(found), refresh=True)
            time.sleep(every)


def _look(reach: Reach, ports: Sequence[str], patterns: Sequence[str]) -> Table | str:
    return slots.status(status.of_fleet(reach.session, ports, patterns, reach).data)


def _text(found: Table | str) -> str:
    return found if isinstance(found, str) else plain_table(found)
