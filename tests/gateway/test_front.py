"""The gateway's edge keeps all the rules of a slot's: the same tests, over the same slot, with a gate between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmctl.gateway import front
from tests.gateway.fake_gate import serve
from tests.runner import test_edge as edges
from tests.runner.fake_slot import FakeService
from tests.runner.test_edge import QUICK

LIKE_A_SLOT = [
    name
    for name in vars(edges)
    if name.startswith("test_")
    and name
    not in (
        "test_a_refused_client_that_is_gone_raises_nothing",  # of uvicorn's protocol
        "test_a_body_that_stops_after_its_answer_ends_the_connection",  # a slot answers before the body, we behind it
    )
]
globals().update({name: vars(edges)[name] for name in LIKE_A_SLOT})


@pytest.fixture
def slot() -> Iterator[Any]:
    with serve(FakeService(QUICK)) as found:
        yield found


@pytest.fixture(autouse=True)
def _with_a_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "serve", serve)
    monkeypatch.setattr(front, "SPARE", 3)
