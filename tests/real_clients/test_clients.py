"""The libraries that people use, as they come from PyPI, against live slots: what they give back, and raise."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.conftest import CONTEXT
from tests.real_clients.conftest import Driven

pytestmark = pytest.mark.models

OPENAI, ANTHROPIC, OLLAMA, LITELLM = "openai", "anthropic", "ollama", "litellm"
ALL = (OPENAI, ANTHROPIC, OLLAMA, LITELLM)
ANSWER = "A port on a host that holds at most one model."
CUT = "host"
MANY = 900
END = {OPENAI: "stop", ANTHROPIC: "end_turn", OLLAMA: "stop", LITELLM: "stop"}
CALLED = {OPENAI: "tool_calls", ANTHROPIC: "tool_use", LITELLM: "tool_calls"}
EVENTS = ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]

each = pytest.mark.parametrize("client", ALL)


def value(driven: Driven, client: str, case: str) -> Any:
    """What a case gave back."""
    found = driven(client)[case]
    assert "value" in found, found
    return found["value"]


def raised(driven: Driven, client: str, case: str) -> Any:
    """What a case raised: the names of its classes, its status, its message."""
    found = driven(client)[case]
    assert "raised" in found, found
    return found


@each
def test_text(driven: Driven, client: str) -> None:
    text, finish, prompt, made, model = value(driven, client, "text")
    assert (text, finish, model) == (ANSWER, END[client], "tiny")
    assert 0 < prompt < CONTEXT and 8 <= made <= 32


@each
def test_a_stream_is_the_same_in_pieces(driven: Driven, client: str) -> None:
    text, finish, prompt, made, _ = value(driven, client, "text")
    pieces, *rest = value(driven, client, "stream")
    assert "".join(pieces) == text and len([piece for piece in pieces if piece]) > 3
    assert rest == [finish, prompt, made]


@each
def test_stop(driven: Driven, client: str) -> None:
    text, finish, *matched = value(driven, client, "stop")
    assert text == ANSWER.partition(CUT)[0]
    assert (finish, matched) == (("stop_sequence", [CUT]) if client == ANTHROPIC else ("stop", []))


@pytest.mark.parametrize("client", [OPENAI, ANTHROPIC, LITELLM])
def test_a_required_tool_is_called_with_parsed_arguments(driven: Driven, client: str) -> None:
    calls, finish = value(driven, client, "tools")
    assert finish == CALLED[client] and calls
    for name, arguments in calls:
        assert name == "paint" and fits(arguments)
    if client != LITELLM:
        assert value(driven, client, "tools_stream") == [calls, finish]
        assert value(driven, client, "tools_answered") in (END[client], CALLED[client], "length", "max_tokens")


def fits(painting: Any) -> bool:
    """Whether it is what the tool's schema says."""
    return (
        set(painting) == {"colour", "count"} and painting["colour"] in ("red", "green") and 1 <= painting["count"] <= 9
    )


def test_ollama_s_tools_are_offered_and_answered(driven: Driven) -> None:
    calls, finish = value(driven, OLLAMA, "tools")
    assert finish in ("stop", "length") and all(name == "paint" for name, _ in calls)
    assert value(driven, OLLAMA, "tools_answered") in ("stop", "length")


@each
def test_an_answer_keeps_to_a_schema(driven: Driven, client: str) -> None:
    assert fits(value(driven, client, "schema"))


@each
def test_a_picture_is_described_right(driven: Driven, setting: dict[str, str], client: str) -> None:
    assert value(driven, client, "image") == setting["shows"]


@pytest.mark.parametrize("client", [OPENAI, OLLAMA, LITELLM])
def test_embeddings(driven: Driven, client: str) -> None:
    one, two = value(driven, client, "embeddings")
    assert len(one) == len(two) > 8 and one != two
    assert sum(x * x for x in one) == pytest.approx(1, abs=1e-3)
    assert [one, two] == [pytest.approx(row, abs=1e-4) for row in value(driven, OPENAI, "embeddings")]


@pytest.mark.parametrize(
    ("client", "case", "kind", "status", "says"),
    [
        (OPENAI, "wrong_model", "NotFoundError", 404, "this slot serves tiny"),
        (OPENAI, "wrong_field", "BadRequestError", 400, "temperature: must be at least 0 and at most 2"),
        (OPENAI, "too_long", "BadRequestError", 400, str(CONTEXT)),
        (OPENAI, "wrong_key", "AuthenticationError", 401, "a valid key is needed"),
        (OPENAI, "image_to_a_text_model", "BadRequestError", 400, "image"),
        (ANTHROPIC, "wrong_model", "NotFoundError", 404, "this slot serves tiny"),
        (ANTHROPIC, "wrong_field", "BadRequestError", 400, "temperature: must be at least 0 and at most 1"),
        (ANTHROPIC, "too_long", "BadRequestError", 400, str(CONTEXT)),
        (ANTHROPIC, "wrong_key", "AuthenticationError", 401, "a valid key is needed"),
        (ANTHROPIC, "image_to_a_text_model", "BadRequestError", 400, "image"),
        (OLLAMA, "wrong_model", "ResponseError", 404, "this slot serves tiny"),
        (OLLAMA, "wrong_field", "ResponseError", 400, "options.temperature: must be at least 0 and at most 2"),
        (OLLAMA, "wrong_field_stream", "ResponseError", 400, "options.temperature"),
        (OLLAMA, "too_long", "ResponseError", 400, str(CONTEXT)),
        (OLLAMA, "wrong_key", "ResponseError", 401, "a valid key is needed"),
        (OLLAMA, "image_to_a_text_model", "ResponseError", 400, "image"),
        (OLLAMA, "pull", "ResponseError", 501, "llmctl pull"),
        (LITELLM, "wrong_model", "NotFoundError", 404, "this slot serves tiny"),
        (LITELLM, "wrong_field", "BadRequestError", 400, "temperature: must be at least 0 and at most 2"),
        (LITELLM, "too_long", "ContextWindowExceededError", 400, str(CONTEXT)),
        (LITELLM, "wrong_key", "AuthenticationError", 401, "a valid key is needed"),
    ],
)
def test_errors_are_the_library_s_own(
    driven: Driven, client: str, case: str, kind: str, status: int, says: str
) -> None:
    found = raised(driven, client, case)
    assert kind in found["raised"] and found["status"] == status and says in found["message"], found


@each
def test_a_closed_stream_frees_the_engine(driven: Driven, client: str) -> None:
    got, generated = value(driven, client, "cancel")
    assert got in (3, 5) and 0 < generated < MANY


# ── what one library alone has ──────────────────────────────────────────────────────────────────────────────────────


def test_openai_s_other_routes(driven: Driven) -> None:
    assert "tiny" in value(driven, OPENAI, "models")
    text, finish = value(driven, OPENAI, "completions")
    assert text and finish in ("length", "stop")
    text, status, pieces, final = value(driven, OPENAI, "responses")
    assert text == ANSWER == final == "".join(pieces) and status == "completed"
    assert fits(value(driven, OPENAI, "schema_plain"))


def test_anthropic_s_events_come_in_order(driven: Driven) -> None:
    kinds = value(driven, ANTHROPIC, "events")
    assert [kind for kind in kinds if kind != "content_block_delta"] == EVENTS
    assert kinds.count("content_block_delta") > 3 and kinds[2] == "content_block_delta"


def test_anthropic_s_other_features(driven: Driven) -> None:
    assert "tiny" in value(driven, ANTHROPIC, "models")
    assert value(driven, ANTHROPIC, "prefill") == ANSWER.removeprefix("A port on")
    counted, longer, used = value(driven, ANTHROPIC, "count")
    assert counted == used < longer
    assert value(driven, ANTHROPIC, "bearer") == "max_tokens"


def test_ollama_s_other_routes(driven: Driven) -> None:
    assert value(driven, OLLAMA, "models") == ["tiny"] and value(driven, OLLAMA, "ps") == [["tiny", CONTEXT]]
    capabilities, info = value(driven, OLLAMA, "show")
    assert "completion" in capabilities and info[f"{info['general.architecture']}.context_length"] == CONTEXT
    assert value(driven, OLLAMA, "latest") == "tiny"
    assert value(driven, OLLAMA, "load") == ["", True, "load"]
    text, pieces = value(driven, OLLAMA, "generate")
    assert text == ANSWER == "".join(pieces)
    text, finish, made = value(driven, OLLAMA, "raw")
    assert text and (finish, made) in (("length", 4), ("stop", made))
    old = value(driven, OLLAMA, "embeddings_old")
    assert old == pytest.approx(value(driven, OLLAMA, "embeddings")[0], abs=1e-4)


def test_ollama_s_durations_are_nanoseconds_that_add_up(driven: Driven) -> None:
    total, *parts = value(driven, OLLAMA, "durations")
    assert all(part >= 0 for part in parts) and sum(parts) == total and 10**6 < total < 600 * 10**9


def test_litellm_by_the_other_protocols(driven: Driven) -> None:
    for case in ("text_by_anthropic", "text_by_ollama"):
        assert value(driven, LITELLM, case) == [ANSWER, "stop"]
