"""What the live view shows of a fleet that stands still, compared with the screens beside (see tests.top.scenes)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.top.scenes import SCENES, SNAPSHOTS, in_utc, picture, words


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    in_utc()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("name", SCENES)
def test_the_screen_is_as_it_was(name: str) -> None:
    assert words(SCENES[name]) == (SNAPSHOTS / f"{name}.txt").read_text(), "renew it: python -m tests.top.scenes"


def test_every_snapshot_has_its_scene() -> None:
    assert {path.stem for path in SNAPSHOTS.iterdir()} == set(SCENES)


def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def colours() -> set[str]:
        return set(re.findall(r"fill: (#\w+)", picture(SCENES["fleet"])))

    assert len(colours()) > 5
    monkeypatch.setenv("NO_COLOR", "1")
    assert len(colours()) <= 3, "text, what is reversed, what is dim"
