"""What routes a request is found in its body, and nothing else in it is touched."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import RequestError
from llmctl.gateway.asked import read

CHAT = {"model": "fast", "messages": [{"role": "user", "content": 'say "model": "x"'}], "stream": True}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_the_model_and_what_else_routes() -> None:
    asked = read(json.dumps({**CHAT, "max_tokens": 12, "top_p": 1}).encode())
    assert (asked.model, asked.streams, asked.tokens) == ("fast", True, 12)
    assert asked.fields == {"model": "fast", "stream": True, "max_tokens": 12}


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"max_completion_tokens": 5, "max_tokens": 9}, 5),
        ({"options": {"num_predict": 7}}, 7),
        ({"options": {"num_predict": -1}}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": "9"}, None),
        ({}, None),
    ],
)
def test_how_many_tokens_it_may_cost(fields: dict[str, object], tokens: int | None) -> None:
    assert read(json.dumps(fields).encode()).tokens == tokens


def test_another_name_changes_nothing_else() -> None:
    body = b'{ "stream" :true,\n"model"\t: "f\\u00e4st" , "messages":[{"model":"fast"}], "x": 1e5 }'
    asked = read(body)
    assert asked.model == "fäst"
    assert asked.named("deep") == body.replace(b'"f\\u00e4st"', b'"deep"')
    assert asked.named("fäst") == body


def test_an_object_without_anything_is_one() -> None:
    assert read(b" {\n} ").model is None


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=5), st.text(max_size=6))
def test_any_object_is_read_as_json_reads_it(fields: dict[str, object], model: str) -> None:
    fields = {**fields, "model": model}
    asked = read(json.dumps(fields).encode())
    assert asked.model == model
    assert json.loads(asked.named("other")) == {**fields, "model": "other"}


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"[]", b"1", b"null", b"{", b"{]", b"{}}", b"{,}",
     b'{"a":1,}', b'{"a" 1}', b'{"a":1}x', b"{1:2}", b'{"a":1 "b":2}',
     b'{"a":' * 100_000, b"\xff", b'{"a":"\xc3"}'],
)  # fmt: skip
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        read(body)
    assert caught.value.status == 400 and caught.value.code == "invalid_json"


def test_a_model_that_is_no_name_or_two_is_refused() -> None:
    for body in (b'{"model": 1}', b'{"model": ["a"]}'):
        with pytest.raises(RequestError, match="must be a string"):
            read(body)
    with pytest.raises(RequestError, match="there twice"):
        read(b'{"model": "a", "x": {"model": "c"}, "model": "b"}')
    assert read(b'{"model": null}').model is None
