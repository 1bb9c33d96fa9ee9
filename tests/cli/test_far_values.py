"""What goes to other hosts and comes back, as values: hints, events, exit codes, the homes of a profile."""

from __future__ import annotations

from typing import Any

import pytest

from llmctl.cli import far, reach
from llmctl.config import Config, Host
from llmctl.errors import LlmctlError, UsageError
from llmctl.profiles import homes


@pytest.mark.parametrize(
    ("there", "here"),
    [
        (None, None),
        ("llmctl swap 8101 beta", "llmctl swap gpu1:8101 beta"),
        ("see it: llmctl logs 8101", "see it: llmctl logs gpu1:8101"),
        ("llmctl load 8101 MODEL", "llmctl load gpu1:8101 MODEL"),
        ("llmctl pull qwen2-0.5b --revision 1", "llmctl pull qwen2-0.5b --revision 1 --host gpu1"),
        ("llmctl jobs show 3 · llmctl jobs list", "llmctl jobs show 3 --host gpu1 · llmctl jobs list --host gpu1"),
        ("run it again: llmctl convert m --to mlx", "run it again: llmctl convert m --to mlx --host gpu1"),
        ("llmctl deploy gpu1", "llmctl deploy gpu1"),
        ("wait for it with --lock-wait 60", "wait for it with --lock-wait 60"),
    ],
)  # fmt: skip
def test_a_hint_of_a_host_is_what_must_be_typed_here(there: str | None, here: str | None) -> None:
    assert reach.typed_here(there, "gpu1") == here


@pytest.mark.parametrize("event", [
    {"event": "stage"}, {"event": "note"}, {"event": "note", "message": 3}, {"event": "stage", "stage": None},
    {"event": "surprise"}, {"event": []},
])  # fmt: skip
def test_an_event_that_cannot_be_shown_is_left_out(event: dict[str, Any]) -> None:
    seen: list[dict[str, Any]] = []
    show = reach.sound(seen.append)
    assert show
    show(event)
    assert seen == []


def test_what_an_event_lacks_is_filled_in_and_what_is_wrong_in_it_is_left_out() -> None:
    seen: list[dict[str, Any]] = []
    show = reach.sound(seen.append)
    assert show
    show({"event": "stage", "stage": "load", "done": 3, "total": "many", "eta": [], "parts": {"a": [1, 2], "b": 3}})
    show({"event": "note", "message": "hello", "more": object()})
    assert seen == [
        {"event": "stage", "stage": "load", "done": 3, "total": 0, "elapsed": 0.0, "eta": None, "parts": {"a": [1, 2]}},
        {"event": "note", "message": "hello"},
    ]


@pytest.mark.parametrize(
    ("codes", "code"), [([0, 0], 0), ([4, 4], 4), ([1, 1], 1), ([0, 4], 3), ([1, 4], 3), ([3, 3], 3), ([0, 1], 3)]
)
def test_the_exit_code_of_several_is_theirs_or_partial(codes: list[int], code: int) -> None:
    assert far.exit_code(codes) == code


@pytest.mark.parametrize(
    ("text", "found"),
    [("8101", (None, "8101")), ("h1:8101", ("h1", "8101")), ("auto", (None, "auto")), ("h:auto", ("h", "auto"))],
)  # fmt: skip
def test_a_port_is_a_number_or_auto(text: str, found: tuple[str | None, str]) -> None:
    assert reach.split(text) == found


@pytest.mark.parametrize("text", ["", ":", "h1:", "0", "65536", "1e3", "-1", "٣", "h1: 8101", "8101 ", "Auto"])
def test_what_is_no_port_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="is not a port"):
        reach.split(text)


def test_the_homes_of_a_profile() -> None:
    config = Config(None, {"a": Host("a", profiles=("p",)), "b": Host("b", profiles=("p", "q"))}, "a")
    assert homes(config, "p") == ["a", "b"]
    assert homes(config, "other") == []
    assert homes(config, "other", named=True) == ["a"]
    assert homes(Config(None, {"a": Host("a"), "b": Host("b")}, "b"), "p") == ["b"]


def test_an_error_of_this_machine_passes_the_envelope_like_any_other() -> None:
    from llmctl.cli.session import Session

    def fails(session: Session) -> Any:
        raise LlmctlError("no", port=8101, details={"numbers": (1, 2)})

    reply = reach.Reach(Session()).call(Host("h1"), ["status"], fails)
    assert (reply.exit_code, reply.errors[0].host, reply.errors[0].details) == (1, "h1", {"numbers": [1, 2]})
