"""Which replica is asked first."""

from __future__ import annotations

from llmctl.gateway.balance import BLOCK, REMEMBERED, Load, chain, ordered, weight

TEXT = "".join(chr(97 + i % 23) for i in range(5 * BLOCK))


def names(loads: list[Load], blocks: tuple[int, ...] = ()) -> list[str]:
    return [load.key for load in ordered(loads, blocks)]


def test_who_has_least_to_do_comes_first() -> None:
    assert names([Load("a", tokens=50), Load("b", tokens=10), Load("c", tokens=10, requests=2)]) == ["b", "c", "a"]


def test_who_must_load_first_comes_last() -> None:
    assert names([Load("a", warm=False), Load("b", tokens=90_000)]) == ["b", "a"]


def test_the_same_beginning_goes_where_it_was_read_while_that_one_is_not_overloaded() -> None:
    knows, idle = Load("a"), Load("b")
    knows.took(400, chain(TEXT))
    assert names([idle, knows], chain(TEXT + "and more")) == ["a", "b"]
    assert names([idle, knows], chain("x" + TEXT)) == ["b", "a"]
    knows.tokens = 5000
    assert names([idle, knows], chain(TEXT)) == ["b", "a"]
    idle.tokens = 4000
    assert names([idle, knows], chain(TEXT)) == ["a", "b"]


def test_of_two_who_know_it_the_one_that_knows_more() -> None:
    some, more = Load("a"), Load("b")
    some.took(1, chain(TEXT[: 2 * BLOCK]))
    more.took(1, chain(TEXT[: 4 * BLOCK]))
    assert some.knows(chain(TEXT)) == 2 and more.knows(chain(TEXT)) == 4
    assert names([some, more], chain(TEXT)) == ["b", "a"]


def test_a_beginning_that_differs_early_has_nothing_in_common() -> None:
    assert not set(chain(TEXT)) & set(chain("!" + TEXT[1:]))
    assert chain(TEXT[: BLOCK - 1]) == () and len(chain(TEXT)) == 5


def test_what_is_given_back_is_what_was_taken_and_memory_is_bounded() -> None:
    load = Load("a")
    for number in range(3000):
        load.took(7, chain(f"{number:08}" + TEXT[: 2 * BLOCK]))
    assert len(load.read) == REMEMBERED
    for _ in range(3000):
        load.gave(7)
    assert (load.tokens, load.requests) == (0, 0)


def test_what_a_request_is_taken_for() -> None:
    assert weight("x" * 400, 50) == 150 and weight("", None) == 256
