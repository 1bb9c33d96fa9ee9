"""Shows on stderr how a load or swap goes on: a live bar on a terminal, plain lines, or lines of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from llmctl.render.text import duration, size

OnEvent = Callable[[dict[str, Any]], None]


@contextmanager
def shown(as_json: bool) -> Iterator[OnEvent]:
    """Gives the function that shows one event."""
    if as_json:
        yield lambda event: print(json.dumps(event), file=sys.stderr, flush=True)
    elif sys.stderr.isatty():
        with _bar() as on_event:
            yield on_event
    else:
        yield _Lines()


class _Lines:
    """One plain line for each note and each new stage."""

    def __init__(self) -> None:
        self.stage = ""

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "note":
            print(event["message"], file=sys.stderr, flush=True)
        elif event["event"] == "stage" and event["stage"] != self.stage:
            self.stage = event["stage"]
            print(f"{self.stage} …", file=sys.stderr, flush=True)


@contextmanager
def _bar() -> Iterator[OnEvent]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=None, detail="")

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "note":
                bars.console.print(event["message"], markup=False, highlight=False)
            elif event["event"] == "stage":
                total = event["total"] or None
                bars.update(
                    task, description=event["stage"], completed=event["done"], total=total, detail=_detail(event)
                )

        yield on_event


def _detail(event: Mapping[str, Any]) -> str:
    done, total, eta = event["done"], event["total"], event["eta"]
    parts = [duration(event["elapsed"])]
    if total >= 10**6:
        parts.insert(0, f"{size(done)} of {size(total)}")
    if eta is not None:
        parts.append(f"{duration(eta)} left")
    return " · ".join(parts)
