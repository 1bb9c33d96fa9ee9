"""Pages of a fleet that stands still, with a past, shown to Chromium: for pictures of the docs, and for the bench."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from llmctl import keys
from llmctl.history import NAME
from llmctl.history.store import Check, History
from llmctl.watch.view import Snapshot
from llmctl.web.app import Door, Web
from tests.conftest import REPO
from tests.top.fixed import GB, NOW
from tests.web.fixed import Fleet, Verbs
from tests.web.serving import Served

RUNS = 288  # health runs of a day, one every five minutes
TIMEOUT = 600


@dataclass(frozen=True)
class Shot:
    """One page to look at, in a window of that size; its picture is kept where `picture` says."""

    path: str
    width: int = 1280
    height: int = 800
    scheme: str = "light"
    picture: str = ""


@dataclass(frozen=True)
class Seen:
    """Milliseconds until a page was painted first, and bytes of all that it is made of."""

    painted: float
    bytes: float


@contextmanager
def shown(snapshot: Snapshot) -> Iterator[Served]:
    """The pages of a fleet on a port of this machine."""
    with tempfile.TemporaryDirectory(prefix="llm-") as made, socket.socket() as free:
        home = Path(made)
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
        free.close()
        keys.show(home)
        _past(home, snapshot)
        web = Web(home, Door(port=port), Fleet(snapshot), Verbs(), clock=lambda: NOW)
        with Served(web, port) as served:
            yield served


def photograph(served: Served, shots: Sequence[Shot], admin: bool = False) -> list[Seen]:
    """What Chromium saw; RuntimeError where there is none."""
    python = subprocess.run(
        [sys.executable, REPO / "scripts" / "own-environment", "browser"], stdout=subprocess.PIPE, text=True, check=True
    )
    told = {
        "url": f"http://127.0.0.1:{served.port}", "shots": [asdict(shot) for shot in shots],
        "key": keys.show(served.web.changes.home)["admin"] if admin else "",
        "chromium": shutil.which("chromium"), "chromedriver": shutil.which("chromedriver"),
    }  # fmt: skip
    if not told["chromium"] or not told["chromedriver"]:
        raise RuntimeError("apt-get install chromium chromium-driver")
    ran = subprocess.run(
        [python.stdout.strip(), "-m", "tests.web.photograph", json.dumps(told)],
        cwd=REPO, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise RuntimeError(ran.stderr[-2000:])
    return [Seen(**one) for one in json.loads(ran.stdout.splitlines()[-1])]


def _past(home: Path, snapshot: Snapshot) -> None:
    """A day of health runs, in which the first slot hung for half an hour."""
    with History.open(home / NAME) as history:
        for run in range(RUNS):
            at = NOW - (RUNS - run) * 300
            hung = 180 <= run < 186
            rows = [Check(host.name, None, at, "ok") for host in snapshot.hosts.values()]
            for which, (name, slot) in enumerate(
                (host.name, slot) for host in snapshot.hosts.values() for slot in host.slots if slot["model"]
            ):
                bad = (hung and not which) or slot["state"] == "crash-loop"
                first = None if bad else 0.21 + 0.03 * math.sin(run / 9) + 0.02 * math.sin(run * 7)
                rate = None if bad else 82 + 5 * math.sin(run / 17) + 2 * math.sin(run * 5)
                verdict, why = ("down", "no answer within 30 s") if bad else ("ok", "")
                verdict = "unknown" if name == "attic" and run == RUNS - 1 else verdict
                queued = max(0, int(4 * math.sin(run / 12)))
                said = (verdict, why, slot["model"], first, rate, queued, 5 * GB)
                rows.append(Check(name, slot["port"], at, *said))
            history.checked(rows)
        begun = NOW - (RUNS - 180) * 300
        number = history.open_incident("gpu1", 8101, begun, "down", "no answer within 30 s")
        history.note("gpu1", "heal", port=8101, outcome="ok", what="restarted by health", at=begun + 20)
        history.close_incident(number, begun + 1800)
        history.open_incident("gpu1", 8102, NOW - 60, "down", "crash loop: its engine ended 5 times in ten minutes")
        history.note("gpu1", "swap", port=8101, model="qwen2.5-7b", outcome="ok", what="by operator", at=NOW - 3000)
