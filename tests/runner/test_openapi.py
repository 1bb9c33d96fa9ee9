"""The OpenAPI document of a slot: every route is in it, and what it says of requests and answers is so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmctl.runner.app import PROTOCOLS
from llmctl.runner.metrics import Metrics
from llmctl.runner.protocols.openai_fields import CHAT, read_chat
from llmctl.runner.protocols.openapi import document
from llmctl.runner.protocols.openapi_operations import OPERATIONS
from tests.runner.fake_slot import FakeService, FakeSlot, post, raw, serve


@pytest.fixture(scope="module")
def slot() -> Iterator[FakeSlot]:
    with serve() as slot:
        yield slot


@pytest.fixture(scope="module")
def found(slot: FakeSlot) -> dict[str, Any]:
    response = raw(slot.port, b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert response.status == 200 and response.headers["content-type"] == "application/json"
    shown: dict[str, Any] = response.json()
    return shown


def test_every_route_of_every_protocol_is_in_it(found: dict[str, Any]) -> None:
    served = {("/health", "get"), ("/ready", "get"), ("/metrics", "get"), ("/openapi.json", "get")}
    for module in PROTOCOLS:
        for path, methods in module.protocol(FakeService(), Metrics()).routes.items():
            served |= {(path, method.lower()) for method in methods}
    shown = {(path, method) for path, methods in found["paths"].items() for method in methods}
    filled = {(path.partition("{")[0], method) for path, method in shown}
    assert filled == served and len(shown) == len(served)


def test_it_is_an_openapi_document_whose_references_lead_somewhere(found: dict[str, Any]) -> None:
    assert found["openapi"].startswith("3.1") and found["info"]["title"] and found["info"]["version"]
    components = found["components"]
    for reference in set(_references(found)):
        _, section, kind, name = reference.split("/")
        assert section == "components" and components[kind][name]
    for path, methods in found["paths"].items():
        for operation in methods.values():
            names = [one["name"] for one in operation.get("parameters", [])]
            assert all("{" + name + "}" in path for name in names) and path.count("{") == len(names)
            assert {"200", "401", "500", "503"} <= set(operation["responses"])
            assert operation.get("security") == ([] if path == "/health" else None)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def test_the_limits_in_it_are_those_of_the_checks(found: dict[str, Any]) -> None:
    schema = found["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(CHAT) < set(schema["properties"]) and schema["additionalProperties"] is False
    good = {"messages": [{"role": "user", "content": "hi"}]}
    limited = 0
    for name, one in schema["properties"].items():
        for key, beyond in (("minimum", -1), ("maximum", 1)):
            if key in one and name != "top_logprobs":
                limited += 1
                read_chat({**good, name: one[key]}, 1.0)
                with pytest.raises(Exception, match=name):
                    read_chat({**good, name: one[key] + beyond}, 1.0)
    assert limited > 15


def test_the_smallest_request_that_it_allows_is_taken(found: dict[str, Any], slot: FakeSlot) -> None:
    slot.service.values = {
        "tokenize": {"ids": [1]}, "detokenize": {"text": "x"}, "embed": {"vectors": [[1.0]], "tokens": 1},
        "rerank": {"scores": [0.5], "tokens": 1}, "decide": {"answers": {}, "tokens": 1},
    }  # fmt: skip
    fill = {
        "model": "alpha", "messages": [{"role": "user", "content": "hi"}], "input": "hi", "prompt": "hi",
        "max_tokens": 4, "query": "hi", "documents": ["hi"], "state": "hi", "questions": {"a": {}}, "tokens": [1],
        "job_id": "1",
    }  # fmt: skip
    for path, methods in found["paths"].items():
        body = methods.get("post", {}).get("requestBody")
        if not body or path.rpartition("/")[2] in ("pull", "push", "create", "copy", "delete"):
            continue
        schema = body["content"]["application/json"]["schema"]
        given = {name: fill[name] for name in schema.get("required", [])}
        given = {"prompt": "hi"} if path == "/tokenize" else given
        response = raw(slot.port, post(path, json.dumps(given).encode()))
        assert response.status == 200, (path, response.body)
        content = methods["post"]["responses"]["200"]["content"]
        kind = response.headers["content-type"].partition(";")[0]
        assert kind in content, (path, kind)
        if kind == "application/json":
            assert set(content[kind]["schema"]["required"]) <= set(response.json()), path


def test_it_is_made_of_the_table() -> None:
    assert document(OPERATIONS[:1])["paths"].keys() == {"/health"}
