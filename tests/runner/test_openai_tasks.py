"""What is asked of a model besides text: vectors, order, tokens and typed decisions; over a slot without an engine."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import DECIDE, DETOKENIZE, EMBED, RERANK, TOKENIZE, EngineSpec, Probe, SlotSpec, Task
from llmctl.errors import RequestError
from llmctl.runner.protocols.openai_tasks import A_TASK
from tests.clients import get
from tests.clients import post as ask
from tests.conftest import RunningSlot
from tests.runner.fake_slot import FakeSlot, Response, post, raw, serve

EMBEDDINGS, RERANKS, DECISIONS = "/v1/embeddings", "/v1/rerank", "/v1/systemone"
QUESTION = {"type": "noul", "instructions": "Is it spam?"}


@pytest.fixture
def slot() -> Iterator[FakeSlot]:
    with serve() as slot:
        slot.service.values = {
            EMBED: lambda task: {"vectors": [[3.0, 4.0, 12.0] for _ in task.arguments["inputs"]], "tokens": 2},
            RERANK: lambda task: {"scores": [float(len(one)) for one in task.arguments["documents"]], "tokens": 5},
            TOKENIZE: {"ids": [5, 6, 7]},
            DETOKENIZE: {"text": "hi"},
            DECIDE: {"answers": {"spam": {"type": "noul", "true": 0.75}}, "tokens": 9},
        }
        yield slot


def call(slot: FakeSlot, path: str, **body: Any) -> Response:
    return raw(slot.port, post(path, json.dumps(body).encode()))


def arguments(slot: FakeSlot) -> dict[str, Any]:
    return dict(slot.service.tasks[-1].arguments)


# ── embeddings ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_embeddings_as_numbers(slot: FakeSlot) -> None:
    answer = call(slot, EMBEDDINGS, input=["a", "b"], model="alpha", user="me").json()
    assert answer == {
        "object": "list",
        "model": "alpha",
        "data": [{"object": "embedding", "index": i, "embedding": [3.0, 4.0, 12.0]} for i in range(2)],
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }
    assert arguments(slot) == {"inputs": ["a", "b"], "pooling": None}


@pytest.mark.parametrize(
    ("given", "inputs"),
    [("a", ["a"]), (["a"], ["a"]), ([1, 2], [(1, 2)]), ([[1, 2], [3]], [(1, 2), (3,)])],
)
def test_every_shape_of_input(slot: FakeSlot, given: Any, inputs: list[Any]) -> None:
    assert call(slot, EMBEDDINGS, input=given, pooling="mean").status == 200
    assert arguments(slot) == {"inputs": inputs, "pooling": "mean"}


def test_embeddings_as_base64_are_little_endian_float32(slot: FakeSlot) -> None:
    (item,) = call(slot, EMBEDDINGS, input="a", encoding_format="base64").json()["data"]
    assert struct.unpack("<3f", base64.b64decode(item["embedding"])) == (3.0, 4.0, 12.0)


def test_fewer_dimensions_are_of_length_one_again(slot: FakeSlot) -> None:
    (item,) = call(slot, EMBEDDINGS, input="a", dimensions=2).json()["data"]
    assert item["embedding"] == [0.6, 0.8]
    (all_of_them,) = call(slot, EMBEDDINGS, input="a", dimensions=3).json()["data"]
    assert math.isclose(math.hypot(*all_of_them["embedding"]), 1.0)
    too_many = call(slot, EMBEDDINGS, input="a", dimensions=4)
    assert too_many.status == 400 and too_many.json()["error"]["param"] == "dimensions"


def test_many_inputs_go_in_several_tasks_and_come_back_in_order(slot: FakeSlot) -> None:
    def numbered(task: Task) -> dict[str, Any]:
        return {"vectors": [[float(one)] for one in task.arguments["inputs"]], "tokens": len(task.arguments["inputs"])}

    slot.service.values[EMBED] = numbered
    count = 2 * A_TASK + 3
    answer = call(slot, EMBEDDINGS, input=[str(i) for i in range(count)]).json()
    assert [len(task.arguments["inputs"]) for task in slot.service.tasks] == [A_TASK, A_TASK, 3]
    assert [item["embedding"] for item in answer["data"]] == [[float(i)] for i in range(count)]
    assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}


def test_an_engine_that_forgets_an_input_is_an_error(slot: FakeSlot) -> None:
    slot.service.values[EMBED] = {"vectors": [], "tokens": 0}
    assert call(slot, EMBEDDINGS, input="a").json()["error"]["code"] == "engine_error"


# ── rerank ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_documents_come_back_the_best_first(slot: FakeSlot) -> None:
    documents = ["aa", {"text": "aaaa"}, "a"]
    answer = call(slot, RERANKS, query="q", documents=documents, return_documents=True).json()
    assert [(one["index"], one["relevance_score"], one["document"]) for one in answer["results"]] == [
        (1, 4.0, {"text": "aaaa"}),
        (0, 2.0, {"text": "aa"}),
        (2, 1.0, {"text": "a"}),
    ]
    assert answer["model"] == "alpha" and answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert arguments(slot) == {"query": "q", "documents": ["aa", "aaaa", "a"]}
    best = call(slot, RERANKS, query="q", documents=documents, top_n=1).json()["results"]
    assert best == [{"index": 1, "relevance_score": 4.0}]


def test_many_documents_keep_their_places(slot: FakeSlot) -> None:
    documents = ["a" * (i + 1) for i in range(A_TASK + 2)]
    results = call(slot, RERANKS, query="q", documents=documents).json()["results"]
    assert [one["index"] for one in results] == list(reversed(range(A_TASK + 2))) and len(slot.service.tasks) == 2


# ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": "hi"}, {"text": "hi"}),
        ({"content": "hi", "add_special": False}, {"text": "hi", "bos": False}),
        (
            {"prompt": "", "add_special_tokens": True, "parse_special": False},
            {"text": "", "bos": True, "special": False},
        ),
        (
            {
                "messages": [{"role": "user", "content": "hi"}],
                "tools": [{"type": "function", "function": {"name": "f"}}],
            },
            {
                "messages": ({"role": "user", "content": "hi"},),
                "tools": ({"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}},),
            },
        ),
    ],
)
def test_tokenize(slot: FakeSlot, body: dict[str, Any], expected: dict[str, Any]) -> None:
    assert call(slot, "/tokenize", **body).json() == {"tokens": [5, 6, 7], "count": 3, "max_model_len": 1024}
    assert arguments(slot) == expected


def test_detokenize(slot: FakeSlot) -> None:
    assert call(slot, "/detokenize", tokens=[5, 6]).json() == {"prompt": "hi", "content": "hi"}
    assert arguments(slot) == {"ids": (5, 6)}


# ── typed decisions ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_decisions_are_passed_through(slot: FakeSlot) -> None:
    answer = call(slot, DECISIONS, model="alpha", state={"text": "buy"}, questions={"spam": QUESTION}).json()
    assert answer == {
        "model": "alpha",
        "answers": {"spam": {"type": "noul", "true": 0.75}},
        "usage": {"input_tokens": 9, "output_tokens": 0},
    }
    assert arguments(slot) == {"state": {"text": "buy"}, "questions": {"spam": QUESTION}, "assets": {}}


def test_an_image_of_a_decision_needs_a_model_that_sees(slot: FakeSlot) -> None:
    asset = {"type": "image", "format": "png", "data_base64": "QUJD"}
    refused = call(slot, DECISIONS, state="<a>", questions={"spam": QUESTION}, assets={"<a>": asset})
    error = refused.json()["error"]
    assert (refused.status, error["code"]) == (400, "unsupported_content") and "assets.<a>.data_base64" in error[
        "param"
    ]
    assert slot.service.tasks == []


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────

BAD: list[tuple[str, dict[str, Any], str]] = [
    *((EMBEDDINGS, {"input": value}, "input") for value in (
        None, "", [], [""], {}, 1, [[]], ["a", 1], ["a", [1]], [[1], "a"], ["a", ""], [1.5], [True], ["a"] * 2049,
    )),
    (EMBEDDINGS, {}, "input"),
    (EMBEDDINGS, {"input": "a", "encoding_format": "int8"}, "encoding_format"),
    (EMBEDDINGS, {"input": "a", "dimensions": 0}, "dimensions"),
    (EMBEDDINGS, {"input": "a", "pooling": "max"}, "pooling"),
    (EMBEDDINGS, {"input": "a", "stream": True}, "stream"),
    (RERANKS, {"documents": ["a"]}, "query"),
    (RERANKS, {"query": "", "documents": ["a"]}, "query"),
    *((RERANKS, {"query": "q", "documents": value}, "documents") for value in (
        None, "a", [], [1], [""], [{}], [{"text": 1}], [{"text": "a", "title": "b"}], ["a"] * 2049,
    )),
    (RERANKS, {"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
    ("/tokenize", {}, "prompt"),
    ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
    ("/tokenize", {"prompt": 1}, "prompt"),
    ("/tokenize", {"messages": []}, "messages"),
    ("/tokenize", {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]}]}, "messages[0].content[0]"),
    ("/detokenize", {}, "tokens"),
    *(("/detokenize", {"tokens": value}, "tokens") for value in ("1", [1.0], ["1"], [True], {})),
    (DECISIONS, {"questions": {"a": QUESTION}}, "state"),
    (DECISIONS, {"state": 1, "questions": {"a": QUESTION}}, "state"),
    *((DECISIONS, {"state": "x", "questions": value}, "questions") for value in (
        None, [], {}, {"a": 1}, {str(i): {} for i in range(65)},
    )),
    *((DECISIONS, {"state": "x", "questions": {"a": {}}, "assets": value}, "assets") for value in (
        [], {"a": 1}, {"a": {"type": "image"}}, {"a": {"type": "image", "url": "file:///etc/passwd"}},
        {"a": {"type": "audio", "data_base64": "QUJD"}}, {str(i): {} for i in range(5)},
    )),
]  # fmt: skip


def test_a13_to_a18_of_tasks_are_400_and_name_the_field(slot: FakeSlot) -> None:
    for path, body, param in BAD:
        response = call(slot, path, **body)
        assert response.status == 400, (path, body, response.body)
        found = response.json()["error"]["param"]
        assert found == param or found.startswith((f"{param}.", f"{param}[")), (path, body, found)
    assert slot.service.tasks == []


def test_another_model_and_an_engine_that_cannot(slot: FakeSlot) -> None:
    good: dict[str, dict[str, Any]] = {
        EMBEDDINGS: {"input": "a"}, RERANKS: {"query": "q", "documents": ["a"]}, "/tokenize": {"prompt": "a"},
        "/detokenize": {"tokens": [1]}, DECISIONS: {"state": "a", "questions": {"a": {}}},
    }  # fmt: skip
    for path, body in good.items():
        assert call(slot, path, **body, model="other").json()["error"]["code"] == "model_not_found"
    slot.service.refusal = RequestError("alpha cannot", code="unsupported_task")
    for path, body in good.items():
        refused = call(slot, path, **body)
        assert (refused.status, refused.json()["error"]["code"]) == (400, "unsupported_task")


# ── a real engine ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.models
def test_tokens_of_a_real_model(slots: Any, tiny_models: dict[str, Path]) -> None:
    engine, name = "llamacpp", "tiny-llama-gguf"
    spec = EngineSpec(engine, name, str(tiny_models[name]), "gguf", context=512)
    slot: RunningSlot = slots(SlotSpec(spec, probe=Probe("What is a slot?", "A port", 24), needed_bytes=2**30))
    text = "What is a slot? ünïcödé"
    _, _, found = ask(slot.port, "/tokenize", {"prompt": text})
    assert found["count"] == len(found["tokens"]) > 3 and found["max_model_len"] == 512
    _, _, bare = ask(slot.port, "/tokenize", {"content": text, "add_special": False})
    assert found["tokens"][-len(bare["tokens"]) :] == bare["tokens"]
    _, _, back = ask(slot.port, "/detokenize", {"tokens": bare["tokens"]})
    assert back["prompt"].strip() == text
    chat = [{"role": "user", "content": "What is a slot?"}]
    _, _, counted = ask(slot.port, "/tokenize", {"messages": chat})
    _, _, answer = ask(slot.port, "/v1/chat/completions", {"messages": chat, "max_tokens": 1})
    assert counted["count"] == answer["usage"]["prompt_tokens"]
    _, _, echoed = ask(slot.port, "/v1/completions", {"prompt": [bare["tokens"]] * 2, "max_tokens": 2, "echo": True})
    assert [choice["index"] for choice in echoed["choices"]] == [0, 1]
    assert all("What is a slot?" in choice["text"] for choice in echoed["choices"])
    for ids in ([10**9], [-1]):
        status, _, refused = ask(slot.port, "/detokenize", {"tokens": ids})
        assert (status, refused["error"]["param"]) == (400, "tokens")
    for path, body in ((RERANKS, {"query": "q", "documents": ["a"]}), (EMBEDDINGS, {"input": "a"})):
        status, _, refused = ask(slot.port, path, body)
        assert (status, refused["error"]["code"]) == (400, "unsupported_task"), path
    (shown,) = get(slot.port, "/v1/models")[2]["data"]
    assert (shown["context_length"], shown["engine"], shown["modalities"]["input"]) == (512, engine, ["text"])
    assert "logprobs" in shown["capabilities"]


@pytest.mark.models
def test_vectors_of_a_real_model(slots: Any, embed_model: dict[str, Path]) -> None:
    spec = EngineSpec("llamacpp", "tiny-embed", str(embed_model["tiny-embed-gguf"]), "gguf", context=256)
    slot: RunningSlot = slots(SlotSpec(spec, needed_bytes=2**29))
    texts = [f"What is slot {i}?" for i in range(A_TASK + 2)]
    _, _, found = ask(slot.port, EMBEDDINGS, {"input": texts})
    _, _, alone = ask(slot.port, EMBEDDINGS, {"input": texts[-1]})
    vectors = [item["embedding"] for item in found["data"]]
    assert len(vectors) == len(texts) and [item["index"] for item in found["data"]] == list(range(len(texts)))
    assert vectors[-1] == pytest.approx(alone["data"][0]["embedding"], abs=1e-5) and vectors[0] != vectors[1]
    _, _, short = ask(slot.port, EMBEDDINGS, {"input": texts[0], "dimensions": 4, "encoding_format": "base64"})
    four = struct.unpack("<4f", base64.b64decode(short["data"][0]["embedding"]))
    length = math.hypot(*vectors[0][:4])
    assert four == pytest.approx([x / length for x in vectors[0][:4]], abs=1e-6)
    _, _, ids = ask(slot.port, "/tokenize", {"prompt": texts[0]})
    _, _, of_ids = ask(slot.port, EMBEDDINGS, {"input": [ids["tokens"], ids["tokens"]]})
    assert len(of_ids["data"]) == 2 and len(of_ids["data"][0]["embedding"]) == len(vectors[0])
    assert of_ids["usage"]["prompt_tokens"] == 2 * ids["count"]
    status, _, refused = ask(slot.port, "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
    assert (status, refused["error"]["code"]) == (400, "unsupported_task")
    for wrong, param in ((["a " * 5000], "input"), ([[10**6]], "input")):
        status, _, refused = ask(slot.port, EMBEDDINGS, {"input": wrong})
        assert status == 400 and refused["error"]["param"] == param


@pytest.mark.models
def test_the_order_of_a_real_reranker(slots: Any, embed_model: dict[str, Path]) -> None:
    spec = EngineSpec("llamacpp", "tiny-rerank", str(embed_model["tiny-rerank-gguf"]), "gguf", context=256)
    slot: RunningSlot = slots(SlotSpec(spec, needed_bytes=2**29))
    documents = ["A slot is a port on a host.", "hello", "The new engine must load."]
    _, _, found = ask(
        slot.port, RERANKS, {"query": "What is a slot?", "documents": documents, "return_documents": True}
    )
    scores = [one["relevance_score"] for one in found["results"]]
    assert scores == sorted(scores, reverse=True) and sorted(one["index"] for one in found["results"]) == [0, 1, 2]
    assert all(one["document"]["text"] == documents[one["index"]] for one in found["results"])
    for one in found["results"]:
        _, _, alone = ask(slot.port, RERANKS, {"query": "What is a slot?", "documents": [documents[one["index"]]]})
        assert alone["results"][0]["relevance_score"] == pytest.approx(one["relevance_score"], abs=1e-5)


@pytest.mark.models
def test_decisions_and_pooled_vectors_of_a_real_model(slots: Any, tiny_models: dict[str, Path]) -> None:
    spec = EngineSpec("torch", "tiny-qwen2", str(tiny_models["tiny-qwen2"]), "safetensors", context=512)
    slot: RunningSlot = slots(SlotSpec(spec, probe=Probe("What is a slot?", "A port", 24), needed_bytes=2**30))
    questions = {
        "spam": QUESTION,
        "tone": {"type": "choice", "instructions": "How is it?", "criteria": {"calm": None, "angry": None}},
    }
    _, _, found = ask(slot.port, DECISIONS, {"state": "Buy this now!", "questions": questions})
    assert 0 <= found["answers"]["spam"]["noul"] <= 1 and found["usage"]["input_tokens"] > 10
    tone = found["answers"]["tone"]["probabilities"]
    assert set(tone) == {"calm", "angry"} and sum(tone.values()) == pytest.approx(1, abs=1e-4)
    status, _, refused = ask(slot.port, DECISIONS, {"state": "x", "questions": {"a": {"type": "nope"}}})
    assert (status, refused["error"]["param"]) == (400, "questions")
    status, _, refused = ask(slot.port, EMBEDDINGS, {"input": "a"})
    assert (status, refused["error"]["param"], refused["error"]["code"]) == (400, "pooling", "unsupported_task")
    _, _, pooled = ask(slot.port, EMBEDDINGS, {"input": "a", "pooling": "mean", "dimensions": 8})
    assert math.hypot(*pooled["data"][0]["embedding"]) == pytest.approx(1)
    status, _, refused = ask(slot.port, "/v1/completions", {"prompt": "a", "suffix": "b"})
    assert (status, refused["error"]["param"]) == (400, "suffix")
