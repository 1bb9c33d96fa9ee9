"""A fleet that stands still: the same snapshot and clock whenever it is looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmctl import __version__
from llmctl.errors import Unreachable
from llmctl.top.app import Top
from llmctl.watch import view
from llmctl.watch.view import HostView, Snapshot

NOW = 1_800_000_000.0
GB = 10**9


def slot(port: int, model: str | None, state: str = "ready", **more: Any) -> dict[str, Any]:
    return {
        "port": port, "model": model, "state": state, "engine": "llamacpp" if model else None, "since": NOW - 8000,
        "memory_bytes": 5 * GB if model else 0, "pid": 4242 if model else None, "version": __version__, **more,
    }  # fmt: skip


def host(name: str, slots: list[dict[str, Any]], used: float = 0.5, **more: Any) -> HostView:
    """A host as it is after one look."""
    look = {
        "at": NOW, "version": __version__, "slots": slots, "load": 1.5, "shares": [], "events": [],
        "memory": {"free": int((1 - used) * 64 * GB), "total": 64 * GB}, "disk": {"free": 812 * GB, "total": 2000 * GB},
        **more,
    }  # fmt: skip
    return view.heard(HostView(name, since=NOW - 100), look, NOW)


def fleet() -> Snapshot:
    """Three hosts: one at work, one that loads, one that nobody can ask."""
    loading = {"stage": "weights", "done": 9 * GB, "total": 20 * GB, "elapsed": 12.0, "eta": 15.0}
    told = [
        {"id": "a", "at": NOW - 3000, "kind": "swap", "port": 8101, "model": "qwen2.5-7b", "outcome": "ok"},
        {"id": "b", "at": NOW - 60, "kind": "crash", "port": 8102, "model": "phi-4", "what": "killed by signal 9"},
    ]
    hosts = [
        host(
            "gpu1",
            [
                slot(8101, "qwen2.5-7b", tokens_per_second=83.42, active=3, queued=2, handles=["chat", "code"]),
                slot(8102, "phi-4", "crash-loop", why="its engine ended 5 times in ten minutes", pid=None),
            ],
            used=0.91, events=told,
        ),
        host(
            "mac",
            [
                slot(8101, "mistral-small-24b", "starting", operation="load", progress=loading, since=NOW - 12),
                slot(8102, None, "empty"),
            ],
            used=0.34,
        ),
    ]  # fmt: skip
    lost = view.in_state(
        host("attic", [slot(8101, "tinyllama-1.1b")]), view.UNKNOWN, "nothing was heard of it for 42 s",
        "llmctl status --host attic", NOW - 40,
    )  # fmt: skip
    return Snapshot(1, NOW, {view.name: view for view in [*hosts, lost]})


@dataclass
class Still:
    """A watch whose snapshot is what the test says."""

    now: Snapshot = field(default_factory=fleet)
    again: list[str] = field(default_factory=list)

    def snapshot(self) -> Snapshot:
        return self.now

    def retry(self, host: str) -> None:
        self.again.append(host)


@dataclass
class Lines:
    """A log of a few lines that goes on until it is cut."""

    over: threading.Event = field(default_factory=threading.Event)

    def lines(self) -> Iterator[str]:
        yield from (f"2027-01-15T09:00:0{second} engine: line \x1b[31m{second}\n" for second in range(3))
        self.over.wait(60)

    def cut(self) -> None:
        self.over.set()


@dataclass
class Noted:
    """Verbs that note what they were asked, and answer at once."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)
    logs: list[Lines] = field(default_factory=list)

    def models(self, host: str) -> list[str]:
        if host == "attic":
            raise Unreachable("attic: nobody answers", hint="llmctl hosts check attic")
        return ["phi-4", "qwen2.5-7b", "qwen2.5-14b", "smollm2-1.7b"]

    def change(
        self, verb: str, host: str, port: int | None, model: str | None, on_event: Callable[[dict[str, Any]], None]
    ) -> Mapping[str, Any]:
        self.asked.append((verb, host, port, model))
        on_event({"event": "note", "message": "it begins"})
        return {
            "host": host, "port": port or 8105, "model": model, "previous": "qwen2.5-7b", "engine": "llamacpp",
            "order": "new-first", "seconds": 3.2, "load_seconds": 3.0, "cut": 0, "state": "ready",
        }  # fmt: skip

    def follow(self, host: str, port: int, most: int) -> Lines:
        self.logs.append(Lines())
        return self.logs[-1]


def top(watch: Still | None = None, verbs: Any = None) -> Top:
    """The live view of it."""
    return Top(watch or Still(), verbs or Noted(), now=lambda: NOW)
