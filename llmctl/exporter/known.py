"""What history knows of the slots and hosts of a fleet, for the exporter's page; only read, never made."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from llmctl.exporter.page import Checked

DAY = 86400.0
PATIENCE = 1.0  # seconds for others who have the file


def checked(path: Path, hosts: Collection[str]) -> list[Checked]:
    """Those of `hosts`; none where there is no history. HistoryError when it cannot be read."""
    from llmctl.history.store import History

    since = time.time() - DAY
    with History.open(path, write=False, patience=PATIENCE) as history:
        last, incidents = history.last(), history.incidents(since=since)
    places = sorted({*last, *((one.host, one.port) for one in incidents)}, key=lambda place: (place[0], place[1] or 0))
    found = []
    for host, port in places:
        if host in hosts:
            mine = [one for one in incidents if (one.host, one.port) == (host, port)]
            check = last.get((host, port))
            found.append(Checked(
                host, port, check.verdict if check else None, check.at if check else 0.0,
                open=sum(one.closed is None for one in mine), day=sum(one.opened >= since for one in mine),
            ))  # fmt: skip
    return found
