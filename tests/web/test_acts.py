"""Changes that pages have set going: so many at once, and so many kept."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from llmctl.errors import Busy
from llmctl.web import acts
from llmctl.web.acts import Act, Acts
from tests.conftest import eventually


def act(port: int) -> Act:
    return Act("gpu1", port, "swap", "phi-4", 0.0)


def test_there_are_so_many_changes_at_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "AT_ONCE", 2)
    found, go = Acts(), threading.Event()

    def work(on_event: Any) -> dict[str, str]:
        go.wait(30)
        return {}

    for port in (1, 2):
        found.start(act(port), work)
    with pytest.raises(Busy, match="2 changes are under way"):
        found.start(act(3), work)
    go.set()
    eventually(lambda: all((one := found.of("gpu1", port)) and one.ended for port in (1, 2)))
    found.start(act(3), work)


def test_a_bug_ends_the_change_and_says_so() -> None:
    found = Acts()

    def work(on_event: Any) -> dict[str, str]:
        raise ZeroDivisionError("division by zero")

    found.start(act(1), work)
    ended = eventually(lambda: (one := found.of("gpu1", 1)) and one.ended and one)
    assert ended.error == "ZeroDivisionError: division by zero"


def test_so_many_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "KEPT", 3)
    found = Acts()
    for port in range(1, 7):
        found.start(act(port), lambda on_event: {})
        eventually(lambda port=port: found.of("gpu1", port).ended)  # type: ignore[misc, union-attr]
    assert [port for port in range(1, 7) if found.of("gpu1", port)] == [4, 5, 6]
