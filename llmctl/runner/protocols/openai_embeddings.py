"""OpenAI's embeddings: texts or token ids in, vectors out, as numbers or as base64."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from llmctl.domain import EMBED
from llmctl.errors import RequestError
from llmctl.runner import json_in
from llmctl.runner.exchange import JSON, Exchange
from llmctl.runner.protocols.asked import Handler
from llmctl.runner.protocols.checks import Field, array, choice, integer, read, string, token_ids, typed, wrong
from llmctl.runner.protocols.openai_tasks import IDS, INPUTS, MODEL, TEXT_LENGTH, ask, in_tasks, served
from llmctl.runner.service import Service

Input = str | Sequence[int]
Vector = Sequence[float]


def inputs(name: str, value: Any) -> list[Input]:
    """A string, an array of strings, of token ids, or of arrays of these."""
    if isinstance(value, list) and value and isinstance(value[0], (str, list)):
        kind = type(value[0])
        return [_input(f"{name}[{i}]", item, kind) for i, item in enumerate(array(name, value, INPUTS))]
    return [_input(name, value, (str, list))]


def _input(name: str, value: Any, wanted: type | tuple[type, ...]) -> Input:
    typed(name, value, wanted, "a string or an array of token ids, like those before it")
    if isinstance(value, str):
        return str(string(TEXT_LENGTH)(name, value))
    ids: Sequence[int] = token_ids(IDS)(name, value)
    if not ids:
        raise wrong(name, "is empty")
    return ids


EMBEDDED = MODEL | {
    "input": Field(inputs, "inputs", {"type": "string", "minLength": 1}),
    "encoding_format": Field(choice("float", "base64"), "encoding"),
    "dimensions": Field(integer(1), "dimensions"),
    "pooling": Field(choice("mean", "last", "cls"), "pooling"),
}


async def vectors(
    service: Service, inputs: Sequence[Input], pooling: str | None = None
) -> AsyncIterator[tuple[list[Vector], int]]:
    """(some of the inputs' vectors, the tokens of these), in order, until all are there."""
    for some in in_tasks(inputs):
        value = await ask(service, EMBED, {"inputs": some, "pooling": pooling})
        yield value["vectors"], value["tokens"]


def shortened(vector: Vector, dimensions: int | None) -> Vector:
    """The first `dimensions` of a vector, of length 1 again; all of it, untouched, without."""
    if dimensions is None:
        return vector
    if dimensions > len(vector):
        raise wrong("dimensions", f"must be at most {len(vector)}, which this model has")
    return unit(vector[:dimensions])


def unit(vector: Vector) -> Vector:
    """A vector at length 1."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector] if length else vector


def as_base64(vector: Vector) -> str:
    """float32, little endian."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def embedding(service: Service) -> Handler:
    """The handler of /v1/embeddings. Its JSON is made in pieces, between which others get their turn."""

    async def handler(exchange: Exchange) -> None:
        values = read(json_in.parse(await exchange.body()), EMBEDDED, ("user",), required=("input",))
        await exchange.while_connected(_answer(service, exchange, values))

    return handler


async def _answer(service: Service, exchange: Exchange, values: Mapping[str, Any]) -> None:
    service.check_model(values.get("model"))
    shown: list[str] = []
    tokens = 0
    async for some, more in vectors(service, values["inputs"], values.get("pooling")):
        tokens += more
        for vector in some:
            vector = shortened(vector, values.get("dimensions"))
            given = as_base64(vector) if values.get("encoding") == "base64" else vector
            shown.append(json.dumps({"object": "embedding", "index": len(shown), "embedding": given}))
    if len(shown) != len(values["inputs"]):
        raise RequestError("the engine did not embed every input", status=500, code="engine_error")
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    rest = json.dumps({"object": "list", "model": served(service), "usage": usage})
    await exchange.respond(200, JSON, f'{rest[:-1]}, "data": [{", ".join(shown)}]}}'.encode())
