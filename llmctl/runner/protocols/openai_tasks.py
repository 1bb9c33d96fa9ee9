"""What is asked of a model besides text: tokens, the order of documents, typed decisions.

The shapes are those of vLLM (/tokenize, /detokenize), Cohere and Jina (/v1/rerank) and System One (/v1/systemone).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from llmctl.domain import DECIDE, DETOKENIZE, RERANK, TOKENIZE, Task
from llmctl.runner import json_in
from llmctl.runner.exchange import Exchange
from llmctl.runner.media.gather import gathered
from llmctl.runner.media.source import Source, of_base64
from llmctl.runner.protocols.asked import Handler, check_inputs, new_id
from llmctl.runner.protocols.checks import (
    Field,
    array,
    choice,
    flag,
    integer,
    object_,
    read,
    string,
    text,
    token_ids,
    typed,
    wrong,
)
from llmctl.runner.protocols.openai_messages import SCHEMA as MESSAGES_SCHEMA
from llmctl.runner.protocols.openai_messages import conversation
from llmctl.runner.protocols.openai_tools import TOOLS_SCHEMA, tools
from llmctl.runner.service import Service

INPUTS = 2048
TEXT_LENGTH = 4 * 2**20
A_TASK = 32  # inputs of one task: reading and writing a larger answer would hold up the others' events
IDS = 2**20
QUESTIONS = 64
ASSETS = 4

T = TypeVar("T")
Answering = Callable[[Service, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
MODEL = {"model": Field(text, "model")}


def asking(service: Service, answer: Answering) -> Handler:
    """The handler of a route that generates nothing; a client that goes away ends its tasks."""

    async def handler(exchange: Exchange) -> None:
        body = json_in.parse(await exchange.body())

        async def work() -> None:
            await exchange.json(await answer(service, body))

        await exchange.while_connected(work())

    return handler


async def ask(service: Service, verb: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The engine's answer to one task."""
    return await service.ask(Task(new_id(verb), verb, arguments))


def served(service: Service) -> str:
    """What the model that answers is called."""
    return next(iter(service.served_names()), "")


def in_tasks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items in as many pieces as there are tasks of them."""
    return (items[at : at + A_TASK] for at in range(0, len(items), A_TASK))


# ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────────────────

TOKENIZED = MODEL | {
    "prompt": Field(string(TEXT_LENGTH, 0), "text"),
    "content": Field(string(TEXT_LENGTH, 0), "text"),
    "messages": Field(conversation, "conversation", MESSAGES_SCHEMA),
    "tools": Field(tools, "tools", TOOLS_SCHEMA),
    "add_special_tokens": Field(flag, "bos"),
    "add_special": Field(flag, "bos"),
    "parse_special": Field(flag, "special"),
}
DETOKENIZED = MODEL | {"tokens": Field(token_ids(IDS), "ids")}


async def tokenize(service: Service, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """/tokenize: {prompt | content | messages} → {tokens, count, max_model_len}; a text is tokenized as a prompt is."""
    values = read(body, TOKENIZED)
    service.check_model(values.pop("model", None))
    if ("text" in values) == ("conversation" in values):
        raise wrong("prompt", "or messages must be there, and not both", code="missing_field")
    if "conversation" in values:
        messages, sources = values.pop("conversation")
        if sources:
            raise wrong(sources[0].at, "an image's tokens are not counted here", code="unsupported_content")
        values = {"messages": messages, "tools": values.get("tools", ())}
    ids = (await ask(service, TOKENIZE, values))["ids"]
    model = service.identity()
    return {"tokens": ids, "count": len(ids), "max_model_len": model.context if model else None}


async def detokenize(service: Service, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """/detokenize: {tokens} → {prompt, content}, the same text under vLLM's name and llama.cpp's."""
    values = read(body, DETOKENIZED, required=("tokens",))
    service.check_model(values.get("model"))
    said = (await ask(service, DETOKENIZE, {"ids": values["ids"]}))["text"]
    return {"prompt": said, "content": said}


# ── order ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def documents(name: str, value: Any) -> list[str]:
    """Strings, or objects with a `text`."""
    found, one = [], string(TEXT_LENGTH)
    for i, item in enumerate(array(name, value, INPUTS)):
        at = f"{name}[{i}]"
        if isinstance(item, dict):
            item = read(item, {"text": Field(one, "text")}, at=at, required=("text",))["text"]
        found.append(one(at, item))
    return found


RERANKED = MODEL | {
    "query": Field(string(TEXT_LENGTH), "query"),
    "documents": Field(documents, "documents", {"type": "array", "items": {"type": "string"}, "minItems": 1}),
    "top_n": Field(integer(1), "top_n"),
    "return_documents": Field(flag, "return_documents"),
}


async def rerank(service: Service, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """/v1/rerank: the documents by how well they answer the query, the best first."""
    values = read(body, RERANKED, required=("query", "documents"))
    service.check_model(values.get("model"))
    scores: list[float] = []
    tokens = 0
    for some in in_tasks(values["documents"]):
        value = await ask(service, RERANK, {"query": values["query"], "documents": some})
        scores += value["scores"]
        tokens += value["tokens"]
    best = sorted(range(len(scores)), key=lambda i: -scores[i])[: values.get("top_n")]
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": scores[i]} for i in best]
    if values.get("return_documents"):
        results = [{**result, "document": {"text": values["documents"][result["index"]]}} for result in results]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"id": new_id("rerank"), "model": served(service), "results": results, "usage": usage}


# ── typed decisions ─────────────────────────────────────────────────────────────────────────────────────────────────


def state(name: str, value: Any) -> Any:
    """What is to be decided about: a string, an object or an array."""
    return typed(name, value, (str, dict, list), "a string, an object or an array")


def questions(name: str, value: Any) -> dict[str, Any]:
    """{name: question}; the engine's library says whether a question is one."""
    return {key: object_(at, one) for at, key, one in entries(name, value, 1, QUESTIONS)}


ASSET = {
    "type": Field(choice("image"), "type"),
    "format": Field(string(64), "format"),
    "data_base64": Field(of_base64, "source"),
}


def assets(name: str, value: Any) -> tuple[Source, ...]:
    """{placeholder: {"type": "image", "format", "data_base64"}}: data, and never an address."""
    return tuple(
        read(object_(at, one), ASSET, at=at, required=("type", "data_base64"))["source"]
        for at, _, one in entries(name, value, 0, ASSETS)
    )


def entries(name: str, value: Any, fewest: int, most: int) -> list[tuple[str, str, Any]]:
    """(the entry's name, its key, its value) of an object with neither too few of them nor too many."""
    if not fewest <= len(object_(name, value)) <= most:
        raise wrong(name, f"must have {fewest} to {most} entries")
    return [(f"{name}.{ascii(key[:64])[1:-1]}", key, one) for key, one in value.items()]


DECIDED = MODEL | {
    "state": Field(state, "state", {"type": "string"}),
    "questions": Field(questions, "questions", {"type": "object", "minProperties": 1}),
    "assets": Field(assets, "sources", {"type": "object", "maxProperties": 0}),
}


async def decide(service: Service, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """/v1/systemone: typed questions about a state, each answer with a probability for all that is allowed."""
    values = read(body, DECIDED, required=("state", "questions"))
    service.check_model(values.get("model"))
    given = {"state": values["state"], "questions": values["questions"], "assets": body.get("assets") or {}}
    sources = values.get("sources", ())
    check_inputs(service, sources)
    async with gathered(sources, service.media):  # the same checks that every image goes through
        value = await ask(service, DECIDE, given)
    usage = {"input_tokens": value["tokens"], "output_tokens": 0}
    return {"model": served(service), "answers": value["answers"], "usage": usage}
