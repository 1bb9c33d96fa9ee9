"""The other hosts of a model, as one: started, told what to compute, kept in step, or the end of it all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from threading import Condition
from typing import Any

from llmctl.domain import ENGINE, Emit, EngineSpec, Failure
from llmctl.engines.jobs import as_error
from llmctl.engines.spread_calls import arguments
from llmctl.engines.spread_rank import Rank
from llmctl.errors import LlmctlError, LoadFailed
from llmctl.spread import Member

LOAD, TOGETHER, CLOSE = 600.0, 5.0, 2.0
"""Seconds that the ranks have to load; to fail where one failed; to end."""


class Crew:
    """The ranks 1, 2, … of a spread. When one is lost the engine ends: what the others hold is worth nothing then."""

    def __init__(self, spec: EngineSpec, members: Sequence[Member], words: Callable[[int], Sequence[str]], emit: Emit):
        self._emit = emit
        self._heard = Condition()
        self._places: dict[Rank, Any] = {}
        self._ready: set[Rank] = set()
        self._raised: dict[int, set[Rank]] = {}
        self._made = self._done = 0  # the numbers of the newest call, and of the newest that ended here
        self._failed: set[int] = set()  # those that ended here with an error
        first, *others = members
        self._ranks: list[Rank] = []
        for number, member in enumerate(others, 1):
            rank = Rank(member, first.host, words(number), self._told, self._lost)
            self._ranks.append(rank)
            own = asdict(replace(spec, path=member.path))
            rank.send({"t": "spec", "spec": own, "rank": number})

    def places(self) -> list[Any]:
        """Where each of them can be reached by the others, once all have said so."""
        self._wait(lambda: len(self._places) == len(self._ranks), "started")
        return [self._places[rank] for rank in self._ranks]

    def join(self, places: Sequence[Any]) -> None:
        """Tell all where all are, the first one too."""
        self._send({"t": "join", "places": list(places)})

    def ready(self) -> None:
        """Wait until all have loaded their part."""
        self._wait(lambda: len(self._ready) == len(self._ranks), "loaded its part")

    def tell(self, name: str, args: tuple[Any, ...], result: Any = None) -> None:
        """Have all make a call; one that is not computed together must give `result`."""
        self._made += 1
        call = {"t": "call", "n": self._made, "name": name, "args": arguments(name, args), "is": result}
        self._send(call)

    def ended(self, error: Exception | None = None) -> None:
        """The newest call has ended here. With an error: all must have failed at it, or they are out of step."""
        number = self._made
        with self._heard:
            self._done = number
            if error is None:
                self._raised.pop(number, None)
            else:
                self._failed.add(number)
            self._heard.notify_all()
            if error is not None and not self._heard.wait_for(lambda: self._all_failed(number), TOGETHER):
                self._end(as_error(error))

    def close(self) -> None:
        for rank in self._ranks:
            rank.close(CLOSE)

    # ── what they say ───────────────────────────────────────────────────────────────────────────────────────────────

    def _told(self, rank: Rank, head: Mapping[str, Any]) -> None:
        """An answer of a rank, in the thread that listens to it."""
        with self._heard:
            if head["t"] == "here":
                self._places[rank] = head["place"]
            elif head["t"] == "ready":
                self._ready.add(rank)
            elif head["t"] == "raised":
                number = head["n"]
                self._raised.setdefault(number, set()).add(rank)
                self._heard.notify_all()
                self._heard.wait_for(lambda: self._done >= number, TOGETHER)
                if number not in self._failed:
                    self._lost(rank, LlmctlError(str(head["error"]["message"])))
            self._heard.notify_all()

    def _lost(self, rank: Rank, error: LlmctlError) -> None:
        """A rank is gone, or out of step."""
        if rank.member.host not in error.message:
            error.message = f"{rank.member.host}: {error.message}"
        if len(self._ready) == len(self._ranks):
            error.message = f"a host of the model was lost: {error.message}"
        error.host = error.host or rank.member.host
        self._end(error)

    def _end(self, error: LlmctlError) -> None:
        self._emit(Failure(ENGINE, error.to_dict()))

    def _all_failed(self, number: int) -> bool:
        return len(self._raised.get(number, ())) == len(self._ranks)

    def _send(self, head: Mapping[str, Any]) -> None:
        for rank in self._ranks:
            rank.send(head)

    def _wait(self, what: Callable[[], bool], done: str) -> None:
        with self._heard:
            if not self._heard.wait_for(what, LOAD):
                raise LoadFailed(f"not every host of the spread had {done} within {LOAD:.0f} s")
