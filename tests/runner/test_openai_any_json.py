"""Any JSON in any field of OpenAI's routes is taken or refused with a 400; nothing else is raised (hypothesis)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmctl.domain import GenerateRequest
from llmctl.errors import RequestError
from llmctl.runner.protocols.checks import Field, read
from llmctl.runner.protocols.openai_completions import COMPLETION, read_completion
from llmctl.runner.protocols.openai_embeddings import EMBEDDED
from llmctl.runner.protocols.openai_fields import CHAT, read_chat
from llmctl.runner.protocols.openai_responses import RESPONSE, read_response
from llmctl.runner.protocols.openai_tasks import DECIDED, DETOKENIZED, RERANKED, TOKENIZED

WORDS = [
    "type", "text", "function", "name", "arguments", "parameters", "role", "user", "assistant", "tool", "content",
    "tool_calls", "tool_call_id", "id", "call_id", "output", "image_url", "url", "data:image/png;base64,QUJD",
    "json_schema", "schema", "json_object", "regex", "choice", "format", "input_text", "input_image", "message", "{}",
    "function_call", "function_call_output", "reasoning", "summary", "auto", "required", "none", "detail", "effort",
]  # fmt: skip
WORD = st.sampled_from(WORDS) | st.text(max_size=5)
SIMPLE = st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats(allow_nan=False, allow_infinity=False) | WORD
JSON = st.recursive(
    SIMPLE, lambda one: st.lists(one, max_size=3) | st.dictionaries(WORD, one, max_size=4), max_leaves=8
)
SLOWLY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
Reader = Callable[[Mapping[str, Any], float], Any]
READERS: list[tuple[Reader, Mapping[str, Field], dict[str, Any]]] = [
    (read_chat, CHAT, {"messages": [{"role": "user", "content": "hi"}]}),
    (read_completion, COMPLETION, {"prompt": "hi"}),
    (read_response, RESPONSE, {"input": "hi"}),
]
TABLES = (EMBEDDED, RERANKED, TOKENIZED, DETOKENIZED, DECIDED)


@pytest.mark.parametrize(("reader", "fields", "good"), READERS)
@settings(SLOWLY, max_examples=100)
@given(data=st.data())
def test_a_request_is_taken_or_refused(
    reader: Reader, fields: Mapping[str, Field], good: dict[str, Any], data: st.DataObject
) -> None:
    wrong = data.draw(st.dictionaries(st.sampled_from(sorted(fields)), JSON, min_size=1, max_size=3))
    try:
        asked = reader({**good, **wrong}, 1.0)
    except RequestError as error:
        assert error.status == 400 and error.param and error.message
        assert error.param.split("[")[0].split(".")[0] in {*fields}
    else:
        head, tail = asked.request.to_wire()
        assert GenerateRequest.from_wire(head, tail) == asked.request


@pytest.mark.parametrize("fields", TABLES)
@settings(SLOWLY, max_examples=50)
@given(data=st.data())
def test_a_task_is_taken_or_refused(fields: Mapping[str, Field], data: st.DataObject) -> None:
    wrong = data.draw(st.dictionaries(st.sampled_from(sorted(fields)), JSON, min_size=1))
    try:
        read(wrong, fields)
    except RequestError as error:
        assert error.status == 400 and error.param and error.param.split("[")[0].split(".")[0] in fields
