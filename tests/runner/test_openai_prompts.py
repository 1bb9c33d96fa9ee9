"""Several prompts of one completion: one answer, one order, one end for all; and the prompt that is echoed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import Chunk, EngineSpec, GenerateRequest, Probe, SlotSpec, TokenLogprob, Usage
from llmctl.errors import RequestError
from llmctl.runner.protocols.asked import Asked
from llmctl.runner.protocols.openai_completion_answer import CompletionAnswer
from llmctl.runner.protocols.openai_completions import read_completion
from tests.clients import get, sse
from tests.clients import post as ask
from tests.conftest import RunningSlot, eventually
from tests.runner.fake_slot import FakeService, FakeSlot, FakeStream, Response, connect, dechunk, post, raw, serve

COMPLETIONS = "/v1/completions"


@dataclass
class Telling(FakeService):
    """Answers each prompt with its own words; those in `refused` not at all."""

    refused: tuple[str, ...] = ()
    streams: list[FakeStream] = field(default_factory=list)

    async def generate(self, request: GenerateRequest) -> FakeStream:
        if request.prompt in self.refused:
            raise RequestError("too long", param="prompt", code="context_length_exceeded")
        self.streams.append(await super().generate(request))
        return self.streams[-1]


@pytest.fixture
def slot() -> Iterator[FakeSlot]:
    with serve(Telling(words=("one", " two"))) as slot:
        yield slot


def complete(slot: FakeSlot, **fields: Any) -> Response:
    return raw(slot.port, post(COMPLETIONS, json.dumps(fields).encode()))


def test_prompts_become_requests_of_their_own() -> None:
    asked = read_completion({"prompt": ["a", "b"], "n": 2, "seed": 7, "suffix": "z"}, 1.0)
    first, second = asked.options
    assert (first.prompt, second.prompt) == ("a", "b") and first.id != second.id and asked.request is first
    assert first.sampling == second.sampling and (second.n, second.suffix) == (2, "z")
    assert read_completion({"prompt": "a", "suffix": ""}, 1.0).request.suffix is None
    (only,) = read_completion({"prompt": [[1, 2]]}, 1.0).options
    assert only.prompt == (1, 2)


def test_choices_are_in_openai_s_order(slot: FakeSlot) -> None:
    answer = complete(slot, prompt=["a", "b", "c"], n=2).json()
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert {choice["text"] for choice in answer["choices"]} == {"one two"}
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["stop", "length"] * 3
    assert answer["usage"]["prompt_tokens"] == 9 and answer["usage"]["completion_tokens"] == 12
    assert [request.prompt for request in slot.service.seen] == ["a", "b", "c"] and slot.service.active == 0


def test_they_are_one_stream(slot: FakeSlot) -> None:
    body = {"prompt": ["a", "b"], "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    *events, usage, done = sse(dechunk(complete(slot, **body).body).decode())
    assert done == "[DONE]" and usage["usage"]["completion_tokens"] == 8 and len({e["id"] for e in events}) == 1
    for index in range(4):
        mine = [e["choices"][0] for e in events if e["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in mine) == "one two"
        assert [choice["finish_reason"] for choice in mine].count(None) == len(mine) - 1


@pytest.mark.parametrize("streamed", [False, True])
def test_one_that_is_refused_refuses_all(streamed: bool) -> None:
    with serve(Telling(words=["x"] * 1000, pause=0.1, refused=("b",))) as slot:
        response = complete(slot, prompt=["a", "b", "c"], stream=streamed)
        assert response.status == 400 and response.json()["error"]["code"] == "context_length_exceeded"
        eventually(lambda: slot.service.active == 0)
        assert all(stream.closed for stream in slot.service.streams)


def test_one_that_fails_in_the_middle_ends_all(slot: FakeSlot) -> None:
    slot.service.fail_at = 1
    *_, error, done = sse(dechunk(complete(slot, prompt=["a", "b"], stream=True).body).decode())
    assert done == "[DONE]" and error["error"]["code"] == "engine_died"
    eventually(lambda: slot.service.active == 0)
    assert complete(slot, prompt=["a", "b"]).status == 500
    eventually(lambda: slot.service.active == 0)


@pytest.mark.parametrize("streamed", [False, True])
def test_l03_a_client_that_leaves_ends_all_of_its_prompts(streamed: bool) -> None:
    with serve(Telling(words=["x"] * 1000, pause=0.1)) as slot:
        with connect(slot.port) as sock:
            sock.sendall(post(COMPLETIONS, json.dumps({"prompt": ["a", "b", "c"], "stream": streamed}).encode()))
            eventually(lambda: slot.service.active == 3)
        eventually(lambda: slot.service.active == 0)
        eventually(lambda: not slot.server.server_state.tasks)


def test_the_tokens_of_every_prompt_are_counted(slot: FakeSlot) -> None:
    complete(slot, prompt=["a", "b", "c"])
    shown = raw(slot.port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").body.decode()
    assert "llmctl_prompt_tokens_total 9.0" in shown and "llmctl_generated_tokens_total 6.0" in shown


def test_more_prompts_than_the_engine_has_room_for(
    slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec]
) -> None:
    prompts = [f"question {i}" for i in range(12)]
    slot = slots(script("alpha", parallel=2, answers={prompt: f"answer {prompt}" for prompt in prompts}))
    for streamed in (False, True):
        status, _, answer = ask(slot.port, COMPLETIONS, {"prompt": prompts, "max_tokens": 32, "stream": streamed})
        assert status == 200
        texts = [""] * 12
        for event in [answer] if not streamed else sse(answer)[:-1]:
            for choice in event["choices"]:
                texts[choice["index"]] += choice["text"]
        assert texts == [f"answer {prompt}" for prompt in prompts]


# ── the prompt that is echoed ───────────────────────────────────────────────────────────────────────────────────────


def echoed(chunks: list[Chunk], stream: bool) -> list[Any]:
    request = GenerateRequest("x", prompt="Hi", echo=True, logprobs=0)
    answer = CompletionAnswer(Asked(request, stream=stream), "alpha", 1)
    if stream:
        return [event["choices"][0]["logprobs"] for event in sse(answer.events(chunks).decode())]
    answer.add(chunks)
    return [answer.whole(Usage())["choices"][0]["logprobs"]]


def test_an_echoed_prompt_is_one_token_without_a_logprob() -> None:
    chunks = [Chunk("x", text="Hi"), Chunk("x", text=" you", logprobs=(TokenLogprob(" you", 7, -0.5),))]
    (whole,) = echoed(chunks, stream=False)
    assert whole == {
        "tokens": ["Hi", " you"], "token_logprobs": [None, -0.5], "top_logprobs": [None, None], "text_offset": [0, 2],
    }  # fmt: skip
    first, second = echoed(chunks, stream=True)
    assert first["token_logprobs"] == [None] and second["text_offset"] == [2]


def test_prompt_logprobs_that_an_engine_knows_are_told() -> None:
    chunks = [Chunk("x", text="Hi", logprobs=(TokenLogprob("Hi", 3, -1.5),)), Chunk("x", text="!")]
    (whole,) = echoed(chunks, stream=False)
    assert whole["tokens"] == ["Hi"] and whole["token_logprobs"] == [-1.5]


@pytest.mark.models
def test_prompts_on_a_real_model(slots: Callable[..., RunningSlot], tiny_models: dict[str, Path]) -> None:
    name = "tiny-llama-gguf"
    spec = EngineSpec("llamacpp", name, str(tiny_models[name]), "gguf", context=512, parallel=2)
    slot = slots(SlotSpec(spec, probe=Probe("What is a slot?", "A port", 24), needed_bytes=2**30))
    prompts = ["What is", "A slot is", "A port"]
    body = {"temperature": 0, "max_tokens": 8, "echo": True, "logprobs": 1}
    alone = [ask(slot.port, COMPLETIONS, {**body, "prompt": prompt})[2]["choices"][0] for prompt in prompts]
    _, _, together = ask(slot.port, COMPLETIONS, {**body, "prompt": prompts})
    assert [choice["text"] for choice in together["choices"]] == [choice["text"] for choice in alone]
    for prompt, choice in zip(prompts, together["choices"], strict=True):
        shown = choice["logprobs"]
        assert shown["tokens"][0] == prompt and shown["token_logprobs"][0] is None
        assert len(shown["tokens"]) == len(shown["text_offset"]) > 1 and all(
            p <= 0 for p in shown["token_logprobs"][1:]
        )
    assert get(slot.port, "/health")[2]["active"] == 0
