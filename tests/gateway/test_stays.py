"""How long a model stays, as Ollama's clients say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import RequestError
from llmctl.gateway import asked, stays
from llmctl.gateway.stays import FOREVER, Stays


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, None), (0, 0.0), (300, 300.0), (1.5, 1.5), (-1, FOREVER), (-0.5, FOREVER), (10**400, FOREVER),
        ("0", 0.0), ("42", 42.0), ("-1", FOREVER), ("5m", 300.0), ("1h30m", 5400.0), ("1.5h", 5400.0),
        ("300ms", 0.3), ("2h45m30s", 9930.0), ("-1m", FOREVER), ("+5s", 5.0), ("100us", 1e-4), ("0s", 0.0),
    ],
)  # fmt: skip
def test_numbers_and_durations(said: Any, seconds: float | None) -> None:
    assert stays.seconds(said) == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize("said", ["", "soon", "5 minutes", "5d", "m", "1h-5m", "9" * 50, True, [], {}, float("nan")])
def test_anything_else_is_a_mistake_of_the_request(said: Any) -> None:
    with pytest.raises(RequestError, match="keep_alive must be") as caught:
        stays.seconds(said)
    assert caught.value.status == 400 and caught.value.hint


@given(st.text(max_size=60) | st.floats() | st.integers() | st.booleans())
def test_nothing_else_comes_of_any_word(said: Any) -> None:
    try:
        found = stays.seconds(said)
    except RequestError:
        return
    assert found is not None and found >= 0.0


def test_the_header_goes_before_the_body_which_only_ollamas_routes_have_it_in() -> None:
    body = asked.read(b'{"model": "a", "keep_alive": "5m"}')
    assert stays.wished("/api/chat", None, body) == 300.0
    assert stays.wished("/api/chat", b"7", body) == 7.0
    assert stays.wished("/v1/chat/completions", None, body) is None
    assert stays.wished("/v1/messages", b"-1", None) == FOREVER


def test_it_is_kept_over_the_process_and_nonsense_is_as_nothing(tmp_path: Path) -> None:
    one = Stays(tmp_path)
    one.save()
    assert not (tmp_path / "gateway").exists()
    one.said("h:1", 5.0)
    one.said("h:2", FOREVER)
    one.said("h:3", 9.0)
    one.said("h:3", None)
    one.save()
    two = Stays(tmp_path)
    assert [two.of(f"h:{n}", 7.0) for n in (1, 2, 3)] == [5.0, FOREVER, 7.0] and two.of("h:4", None) is None
    for nonsense in ("{", "[1]", '{"h:1": "x"}', '"x"'):
        (tmp_path / "gateway" / stays.NAME).write_text(nonsense)
        assert Stays(tmp_path).of("h:1", 7.0) == 7.0


def test_what_cannot_be_written_now_is_written_the_next_time(tmp_path: Path) -> None:
    one, place = Stays(tmp_path), tmp_path / "gateway" / stays.NAME
    one.said("h:1", 5.0)
    place.mkdir(parents=True)
    one.save()
    place.rmdir()
    one.save()
    assert Stays(tmp_path).of("h:1", None) == 5.0
