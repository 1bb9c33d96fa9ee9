"""`llmctl host metrics`: this host for an exporter on another. Starts without Typer (see PLAIN)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmctl import tables
from llmctl.envelope import Answer
from llmctl.errors import UsageError

TIMEOUT = "2s"


def answer(words: Sequence[str], as_host: str | None = None) -> Answer:
    """The answer to the words `--timeout TIME`."""
    from llmctl import paths

    option, _, text = " ".join(words).replace(" ", "=", 1).partition("=")
    if words and option != "--timeout":
        raise UsageError(f"{' '.join(words)[:140]!r} is not understood", hint="llmctl host metrics --timeout 2s")
    return told(paths.home(), as_host or "local", text or TIMEOUT)


def told(home: Path, host: str, timeout: str = TIMEOUT) -> Answer:
    """What the host tells; `timeout` is for the metrics of each slot."""
    from llmctl.exporter import host as telling

    return Answer(telling.told(home, host, tables.seconds(timeout)))
