"""A fleet that stands still, and pages of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmctl.clients.talk import Piece, Said, Talk
from llmctl.errors import LlmctlError
from llmctl.watch.view import Snapshot
from llmctl.web.app import Door, Web
from llmctl.web.verbs import Talking
from tests.top import fixed
from tests.top.fixed import Lines, fleet, host, slot

__all__ = ["Fleet", "Said", "Script", "Verbs", "fleet", "host", "slot", "web_of"]

HOST, PORT = "gpu1", 8101


class Fleet:
    """A watch whose snapshot changes when the test says so."""

    def __init__(self, now: Snapshot | None = None) -> None:
        self._now = now or fleet()
        self._changed = threading.Condition()

    def snapshot(self) -> Snapshot:
        return self._now

    def wait(self, number: int, timeout: float) -> Snapshot:
        with self._changed:
            self._changed.wait_for(lambda: self._now.number != number, timeout)
            return self._now

    def now(self, *hosts: Any) -> None:
        """These hosts are as they are given from now on."""
        with self._changed:
            known = {**self._now.hosts, **{one.name: one for one in hosts}}
            self._now = replace(self._now, number=self._now.number + 1, hosts=known)
            self._changed.notify_all()


@dataclass
class Script:
    """A model that says its pieces, then waits for `go` where it is given one."""

    pieces: Sequence[Piece] = (Piece("Hm.", reasoning=True), Piece("I am "), Piece("alpha."))
    fails: LlmctlError | None = None
    go: threading.Event | None = None
    asked: list[Any] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def ask(self, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Talk:
        self.asked.append(list(messages))
        try:
            yield from self.pieces
            if self.go:
                self.go.wait(30)
            if self.fails:
                raise self.fails
            return Said("alpha", "I am alpha.", "Hm.", "stop", {"completion_tokens": 3}, 0.1)
        finally:
            self.ended.set()

    def models(self) -> list[str]:
        return ["alpha"]

    def close(self) -> None:
        pass


@dataclass
class Verbs(fixed.Noted):
    """Verbs that note what they were asked; `work` is what a change does."""

    model: Script = field(default_factory=Script)
    keyed: list[bool] = field(default_factory=list)
    open: bool = True
    work: Callable[..., Mapping[str, Any]] | None = None
    cuts: int = 0

    def known(self) -> list[str]:
        return ["qwen2.5-7b", "qwen2.5-14b"]

    def change(
        self, verb: str, host: str, port: int | None, model: str | None, on_event: Callable[[dict[str, Any]], None]
    ) -> Mapping[str, Any]:
        found = super().change(verb, host, port, model, on_event)
        return self.work(on_event) if self.work else found

    def last_lines(self, host: str, port: int, most: int) -> list[str]:
        return [line.rstrip("\n") for line in self._log()]

    def _log(self) -> Iterator[str]:
        log = Lines()
        log.cut()
        return log.lines()

    def talk(self, host: str, port: int, keyed: bool) -> Talking:
        self.keyed.append(keyed)

        def cut() -> None:
            self.cuts += 1
            if self.model.go:
                self.model.go.set()

        return Talking(self.model, cut)

    def open_to_all(self, host: str) -> bool:
        return self.open


def web_of(home: Path, door: Door | None = None, watch: Any = None, verbs: Any = None) -> Web:
    return Web(home, door or Door(), watch or Fleet(), verbs or Verbs())
