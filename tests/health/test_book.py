"""What a health run writes into the history of who was told."""

from __future__ import annotations

from pathlib import Path

from llmctl.health.book import Book
from llmctl.history import NAME
from llmctl.history.store import History


def notices(home: Path) -> list[tuple[str, str, str]]:
    with History.open(home / NAME) as history:
        return [(event.host, event.outcome, event.what) for event in history.events(kinds=("notify",))]


def test_who_could_not_be_told_is_kept_once_until_he_is(tmp_path: Path) -> None:
    for at in (1000.0, 1300.0, 1600.0):
        with Book(tmp_path) as book:
            book.not_told("page", "box:8101 is down", "it ended with 1", at)
            book.not_told("chat", "box:8101 is down", "nobody listens", at)
    with Book(tmp_path) as book:
        book.told("page", "box:8101 is down", 1900.0)
        book.not_told("page", "box:8101 is well again", "it ended with 1", 2200.0)
    assert notices(tmp_path) == [
        ("page", "failed", "box:8101 is down: it ended with 1"),
        ("chat", "failed", "box:8101 is down: nobody listens"),
        ("page", "ok", "box:8101 is down"),
        ("page", "failed", "box:8101 is well again: it ended with 1"),
    ]
