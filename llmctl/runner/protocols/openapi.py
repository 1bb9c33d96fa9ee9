"""An OpenAPI 3.1 document of a slot's HTTP routes, made of one table and the tables of fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl import __version__
from llmctl.runner.exchange import JSON, Exchange
from llmctl.runner.protocols.asked import Routes
from llmctl.runner.protocols.checks import Field, schema_of

Schema = Mapping[str, Any]

EVENTS, NDJSON, TEXT = "text/event-stream", "application/x-ndjson", "text/plain"
ERRORS = {
    400: "The request is wrong; the error names the field.",
    401: "The key is missing or wrong.",
    403: "The Host header or the Origin is foreign.",
    404: "There is no such model or route.",
    405: "The route has other methods.",
    408: "The request, or the reading of its answer, took too long.",
    413: "The body is too large.",
    415: "The body is compressed.",
    429: "The queue is full; Retry-After tells when to come again.",
    431: "The header is too large.",
    500: "The engine failed.",
    503: "No engine is there, or none was free in time; Retry-After tells when to come again.",
    504: "An image could not be had in time.",
}
WITHOUT_BODY = (400, 401, 403, 404, 405, 431, 500, 503)


@dataclass(frozen=True)
class Operation:
    """One method of one route. `body` is the JSON schema of what it takes, None for nothing.

    `answer` are keys that its whole answer has, `types` what else than JSON it may answer with, `key` whether it needs
    the slot's key. A part of the path in braces is the client's to fill. `fails` are statuses of its own.
    """

    method: str
    path: str
    summary: str
    body: Schema | None = None
    answer: Sequence[str] = ()
    types: Sequence[str] = ()
    key: bool = True
    json: bool = True
    fails: Sequence[int] = ()


def body(
    fields: Mapping[str, Field],
    required: Sequence[str] = (),
    ignored: Iterable[str] = (),
    also: Mapping[str, Schema] | None = None,
) -> Schema:
    """The schema of a request from its table of fields; `also` says more than the table does of some of them."""
    properties = {name: schema_of(field) for name, field in fields.items()}
    return {
        "type": "object",
        "properties": {**properties, **{name: {} for name in ignored}, **(also or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The document of all `operations`."""
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "llmctl slot", "version": __version__},
        "paths": paths,
        "security": [{"bearer": []}, {"header": []}],
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": {"Error": ERROR},
            "responses": {str(status): _error(why) for status, why in ERRORS.items()},
        },
    }


ERROR: Schema = {
    "type": "object",
    "description": "OpenAI's error object; /v1/messages, /api and /execute have those of their own protocols.",
}


def _operation(one: Operation) -> dict[str, Any]:
    shown: dict[str, Any] = {"summary": one.summary, "responses": _responses(one)}
    if names := re.findall(r"\{(\w+)\}", one.path):
        shown["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if one.body is not None:
        shown["requestBody"] = {"required": True, "content": {"application/json": {"schema": one.body}}}
    if not one.key:
        shown["security"] = []
    return shown


def _responses(one: Operation) -> dict[str, Any]:
    whole: Schema = {"type": "object", "required": list(one.answer)}
    content: dict[str, Any] = {"application/json": {"schema": whole}} if one.json else {}
    content |= {type_: {} if type_ == EVENTS else {"schema": {"type": "string"}} for type_ in one.types}
    statuses = ERRORS if one.body is not None else WITHOUT_BODY
    failed = {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}
    own = {str(status): {"description": "See docs/http.md."} for status in one.fails}
    return {"200": {"description": "The answer.", "content": content}, **failed, **own}


def _error(why: str) -> dict[str, Any]:
    return {"description": why, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}


def openapi_routes(operations: Iterable[Operation]) -> Routes:
    """/openapi.json, made when it is first asked for."""
    made: list[bytes] = []

    async def openapi(exchange: Exchange) -> None:
        if not made:
            made.append(json.dumps(document(operations)).encode())
        await exchange.respond(200, JSON, made[0])

    return {"/openapi.json": {"GET": openapi}}
