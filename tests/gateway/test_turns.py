"""Turns of models that do not lie together, played through against a clock of our own."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from llmctl.gateway.turns import Turns

SECONDS, REQUESTS, REST, LOAD = 10, 5, 2, 3


def test_a_turn_ends_with_its_time_or_its_number_and_only_where_somebody_waits() -> None:
    turns = Turns(10.0, 2)
    turns.sent("a")
    assert turns.may("a", 1e9)
    turns.waits("b", "a", 100.0)
    assert turns.may("a", 109.9) and not turns.may("a", 110.0) and turns.may("b", 110.0)
    turns.sent("a")
    assert turns.may("a", 101.0), "what was sent before anybody waited is not counted"
    turns.sent("a")
    assert not turns.may("a", 101.0)
    turns.waits("b", "a", 105.0)
    assert not turns.may("a", 110.0), "who waits goes on waiting from when it began"
    turns.waits("c", "a", 106.0)
    turns.waits_no_more("b")
    assert turns.behind("a") == ["c"] and not turns.may("a", 107.0)
    turns.waits_no_more("c")
    assert turns.may("a", 1e9)
    turns.waits("b", "a", 200.0)
    assert turns.may("a", 201.0), "a new turn has its whole number"
    turns.waits("b", "c", 205.0)
    assert turns.may("a", 1e9) and turns.may("c", 214.9) and not turns.may("c", 215.0)


def test_no_turn_at_all_is_for_who_waits_alone() -> None:
    turns = Turns(0.0, 1)
    assert turns.may("a", 5.0)
    turns.waits("b", "a", 5.0)
    assert not turns.may("a", 5.0)


@dataclass
class Room:
    """One place for a model, and those who ask for two: each second is a step."""

    turns: Turns = field(default_factory=lambda: Turns(SECONDS, REQUESTS))
    there: str = "a"
    rests: int = REST  # seconds without a request
    coming: str | None = None  # that is being loaded
    left: int = 0
    waiting: dict[str, list[int]] = field(default_factory=lambda: {"a": [], "b": []})
    waited: list[int] = field(default_factory=list)
    loads: int = 0

    def step(self, now: int, asked: list[str]) -> None:
        for name in asked:
            if name == self.there and self.coming is None and self.turns.may(name, now):
                self.turns.sent(name)
                self.waited.append(0)
                self.rests = -1
            else:
                self.waiting[name].append(now)
        self.rests += 1
        other = "b" if self.there == "a" else "a"
        if self.coming:
            self.left -= 1
            if not self.left:
                self.arrive(now)
        elif self.waiting[other]:
            self.turns.waits(other, self.there, now)
            if self.rests >= REST:
                self.coming, self.left = other, LOAD
                self.loads += 1

    def arrive(self, now: int) -> None:
        assert self.coming
        self.there, self.coming, self.rests = self.coming, None, 0
        self.turns.waits_no_more(self.there)
        self.waited += [now - since for since in self.waiting[self.there]]
        self.waiting[self.there] = []


@given(st.lists(st.lists(st.sampled_from("ab"), max_size=4), max_size=120))
def test_everybody_is_answered_in_time_and_loads_are_few(arrivals: list[list[str]]) -> None:
    room = Room()
    ends = len(arrivals) + 4 * (SECONDS + REST + LOAD)
    for now in range(ends):
        room.step(now, arrivals[now] if now < len(arrivals) else [])
    assert not any(room.waiting.values()), "nobody is left behind"
    assert len(room.waited) == sum(map(len, arrivals))
    assert max(room.waited, default=0) <= 2 * (SECONDS + REST + LOAD)
    assert room.loads <= 1 + ends // (REST + LOAD)


@given(st.integers(1, 4))
def test_under_steady_load_a_load_serves_a_whole_turn(rate: int) -> None:
    room, seconds = Room(), 300
    for now in range(seconds):
        room.step(now, ["a", "b"] * rate)
    turn = min(SECONDS, REQUESTS / rate)
    assert 2 <= room.loads <= 1 + seconds / (turn + REST + LOAD)
