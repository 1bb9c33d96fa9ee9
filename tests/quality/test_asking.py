"""One prompt to a server over HTTP, whatever it answers; and the tries of a prompt counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from llmctl.clients.openai import at
from llmctl.errors import LlmctlError
from llmctl.quality.asking import Handle
from llmctl.quality.checks import Call, Reply
from llmctl.quality.prompts import Prompt
from llmctl.quality.run import run
from tests.test_client import DONE, ERROR, LAST, PIECE, Serve, serve

__all__ = ["serve"]

PROMPT = Prompt("p", ({"role": "user", "content": "Who?"},))


def asked(port: int, prompt: Prompt = PROMPT, *, stream: bool = True) -> Reply:
    return Handle(at("127.0.0.1", port), "m", 30.0).ask(prompt, 7, stream=stream)


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return f"data: {json.dumps({'model': 'm', 'choices': [{'delta': delta, 'finish_reason': finish}]})}\n\n".encode()


def piece(index: int, **function: str) -> bytes:
    return event({"tool_calls": [{"index": index, "function": function}]})


def test_all_of_a_prompt_is_sent(serve: Serve) -> None:
    port, seen = serve(200, PIECE + LAST + DONE)
    tool = {"type": "function", "function": {"name": "weather"}}
    schema = {"type": "object"}
    asked(port, Prompt("p", PROMPT.messages, 9, 0.5, tools=(tool,), stop=("x",), schema=schema, forced=True))
    assert seen[0]["body"] == {
        "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 9, "temperature": 0.5, "seed": 7,
        "tools": [tool], "stop": ["x"], "stream": True, "model": "m",
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    }  # fmt: skip


def test_text_thoughts_and_calls_are_put_together(serve: Serve) -> None:
    pieces = [
        event({"reasoning_content": "hm"}),
        event({"reasoning": "m"}),
        event({"content": "He"}),
        event({"content": "y"}),
    ]
    calls = [piece(1, name="b", arguments="{}"), piece(0, name="a", arguments='{"x"'), piece(0, arguments=": 1}")]
    port, _ = serve(200, b"".join([*pieces, *calls, event({}, "tool_calls"), DONE]))
    found = asked(port)
    assert (found.text, found.reasoning, found.finish, found.model) == ("Hey", "hmm", "tool_calls", "m")
    assert found.calls == (Call("a", '{"x": 1}'), Call("b", "{}"))
    assert 0 < found.first <= found.seconds


def test_an_answer_in_one_piece(serve: Serve) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "a", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call, call]}
    body = {"model": "m", "choices": [{"message": message, "finish_reason": "tool_calls"}]}
    port, seen = serve(200, json.dumps(body).encode(), kind="application/json")
    found = asked(port, stream=False)
    assert (found.text, found.reasoning, found.calls) == ("", "hm", (Call("a", "{}"), Call("a", "{}")))
    assert seen[0]["body"]["stream"] is False


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (PIECE, "the answer ended before its end"),
        (PIECE + DONE, "the answer ended before its end"),
        (PIECE + ERROR, "it died"),
        (b"data: 5\n\n", "makes no sense"),
        (event({"content": 5}, "stop"), "makes no sense"),
        (event({"tool_calls": [{"index": "x"}]}, "stop"), "makes no sense"),
        (event({"tool_calls": 5}, "stop"), "makes no sense"),
        (event({"tool_calls": [{"function": {"name": 5}}]}, "stop"), "makes no sense"),
    ],
)
def test_what_is_no_answer(serve: Serve, body: bytes, wrong: str) -> None:
    port, _ = serve(200, body)
    with pytest.raises(LlmctlError, match=wrong):
        asked(port)


# ── tries ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Told:
    """Answers one after another; an error is raised."""

    def __init__(self, answers: Sequence[str | LlmctlError]) -> None:
        self.answers, self.seeds = list(answers), list[int]()

    def ask(self, prompt: Prompt, seed: int, *, stream: bool) -> Reply:
        self.seeds.append(seed)
        said = self.answers.pop(0)
        if isinstance(said, LlmctlError):
            raise said
        return Reply(said, first=float(len(self.seeds)), seconds=10.0 * len(self.seeds))


def test_a_row_of_tries() -> None:
    told = Told(["4", "5", LlmctlError("it is full"), "4", "6"])
    ((row,), _) = run(told, [Prompt("p", (), tries=5, need=2, number=4)])
    assert (row.hits, row.passed, row.first, row.seconds) == (2, True, 3.0, 30.0)
    assert row.failed == {"number": "it ends in 5, not 4", "answer": "it is full"}  # the first of each
    assert len(set(told.seeds)) == 5


def test_one_try_too_few() -> None:
    ((row,), _) = run(Told(["4", "5", "5"]), [Prompt("p", (), tries=3, need=2, number=4)])
    assert (row.passed, row.fault) == (False, False)


@pytest.mark.parametrize("answer", ["4 <|end|>", "4 STOP 4"])
def test_what_no_try_may_fail_fails_however_many_others_pass(answer: str) -> None:
    ((row,), _) = run(Told(["4", "4", answer]), [Prompt("p", (), tries=3, need=2, number=4, stop=("STOP",))])
    assert (row.hits, row.fault, row.passed) == (2, True, False)
