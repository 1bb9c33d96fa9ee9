"""States as colours: what nobody knows is not shown as what is down."""

from __future__ import annotations

import pytest

from llmctl.web import texts
from tests.web.fixed import fleet, host, slot


@pytest.mark.parametrize(
    ("state", "tone"),
    [
        ("ready", "ok"),
        ("crash-loop", "down"),
        ("unknown", "busy"),
        ("swapping", "busy"),
        ("sleeping", "rest"),
        ("x", "rest"),
    ],
)
def test_f9_a_host_that_cannot_be_asked_is_not_shown_as_down(state: str, tone: str) -> None:
    assert texts.tone(state) == tone


def test_a_host_looks_as_its_worst_slot_does() -> None:
    assert texts.worst(host("a", [slot(1, "x"), slot(2, "y", "crash-loop")])) == "down"
    assert texts.worst(host("a", [slot(1, "x"), slot(2, None, "empty")])) == "ok"
    assert texts.worst(fleet().hosts["attic"]) == "busy"


def test_a_host_of_any_name_has_an_address_and_an_id() -> None:
    assert texts.slot_path("a/../b c", 1) == "/slots/a%2F..%2Fb%20c/1"
    assert texts.part_id("gpu 1") == "host-gpu_201"
