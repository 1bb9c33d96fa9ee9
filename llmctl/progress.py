"""Shows on stderr how a load, a swap or a job goes on: live bars on a terminal, plain lines, or lines of JSON.

Events: {"event": "stage", "stage", "done", "total", "elapsed", "eta"}, from jobs also "speed" and "parts"
({name: [done, total]}); and {"event": "note", "message"}. `total` 0 and `eta` None mean: not known.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmctl.render.text import BYTES_FROM, amount, duration, escaped

if TYPE_CHECKING:
    from rich.progress import TaskID

OnEvent = Callable[[dict[str, Any]], None]
LINE_EVERY = 5.0
MOST_PARTS = 6


@contextmanager
def shown(as_json: bool, plain: bool = False) -> Iterator[OnEvent]:
    """Gives the function that shows one event; `plain`: without bars."""
    if as_json:
        yield lambda event: print(json.dumps(event), file=sys.stderr, flush=True)
    elif sys.stderr.isatty() and not plain:
        with _bars() as on_event:
            yield on_event
    else:
        yield Lines()


class Lines:
    """One plain line for each note and each new stage, and every few seconds how far a stage is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.stage, self.at = "", 0.0

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "note":
            print(escaped(event["message"]), file=sys.stderr, flush=True)
        elif event["event"] == "stage":
            stage, now = escaped(event["stage"]), self.clock()
            if stage != self.stage:
                self.stage, self.at = stage, now
                print(f"{stage} …", file=sys.stderr, flush=True)
            elif event["total"] and now - self.at >= LINE_EVERY:
                self.at = now
                share = f"{100 * event['done'] / event['total']:.0f} %"
                print(f"{stage} {share} · {detail(event)}", file=sys.stderr, flush=True)


@contextmanager
def _bars() -> Iterator[OnEvent]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), TextColumn("{task.fields[detail]}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        whole = bars.add_task("starting", total=None, detail="")
        parts: dict[str, TaskID] = {}

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "note":
                bars.console.print(escaped(event["message"]), markup=False, highlight=False)
            elif event["event"] == "stage":
                total = event["total"] or None
                what = escaped(event["stage"])
                bars.update(whole, description=what, completed=event["done"], total=total, detail=detail(event))
                now = dict(list((event.get("parts") or {}).items())[:MOST_PARTS])
                for name in [name for name in parts if name not in now]:
                    bars.remove_task(parts.pop(name))
                for name, (done, size) in now.items():
                    if name not in parts:
                        parts[name] = bars.add_task(f"  {_short(name)}", total=None, detail="")
                    told = f"{amount(done, size)} of {amount(size, size)}" if size else amount(done, done)
                    bars.update(parts[name], completed=done, total=size or None, detail=told)

        yield on_event


def detail(event: Mapping[str, Any]) -> str:
    """How far, how fast and how long still, as far as it is known."""
    done, total, speed, eta = event["done"], event["total"], event.get("speed"), event["eta"]
    parts = [duration(event["elapsed"])]
    if speed:
        parts.insert(0, f"{amount(speed, total or done)}/s")
    if total >= BYTES_FROM:
        parts.insert(0, f"{amount(done, total)} of {amount(total, total)}")
    if eta is not None:
        parts.append(f"{duration(eta)} left")
    return " · ".join(parts)


def _short(name: str, most: int = 40) -> str:
    """The end of a long name, which tells the files of a model apart."""
    name = escaped(name)
    return name if len(name) <= most else f"…{name[1 - most :]}"
