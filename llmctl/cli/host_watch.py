"""`llmctl host watch`: lines of JSON about this host until nobody reads them. Starts without Typer (see PLAIN)."""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmctl.envelope import Answer
from llmctl.errors import UsageError
from llmctl.watch.host import LEAST, MOST, Wait, looks


def answer(words: Sequence[str], as_host: str | None = None) -> Answer:
    """The answer to the words `--every SECONDS`."""
    from llmctl import paths

    option, equals, text = " ".join(words).replace(" ", "=", 1).partition("=")
    if words and option != "--every":
        raise UsageError(f"{' '.join(words)[:140]!r} is not understood", hint="llmctl host watch --every 2")
    for line in lines(paths.home(), as_host or "local", seconds(text if equals else "2")):
        print(line, end="", flush=True)
    return Answer()


def lines(home: Path, host: str, every: float) -> Generator[str, None, Mapping[str, Any]]:
    """Each look as a line; ends when stdout goes away."""
    for look in looks(home, host, every, _until_unread()):
        yield json.dumps(look) + "\n"
    return {}


def seconds(text: str) -> float:
    """`--every`; UsageError for what is no time between looks."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not LEAST <= found <= MOST:
        raise UsageError(f"--every {text[:40]}: it must be {LEAST:g} to {MOST:g} seconds", hint="--every 2")
    return found


def _until_unread() -> Wait:
    """Waits, and is done as soon as the other end of stdout was closed: nobody would notice an orphan."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors alone, which are told unasked

    def wait(pause: float) -> bool:
        found = poll.poll(1000 * pause)
        if found and found[0][1] & select.POLLNVAL:  # not a thing that can be polled, as files on a Mac
            time.sleep(pause)
            return False
        return bool(found)

    return wait
