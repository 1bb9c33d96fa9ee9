"""Bad input to a running slot (reliability.md, A): a 4xx in the OpenAI error shape, and nothing else happens."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import EngineSpec, Limits, Probe, SlotSpec
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot
from tests.gateway.conftest import Fronted, gateway, handle
from tests.runner.fake_slot import Response, connect, post, raw

__all__ = ["gateway"]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi"}]
SOON = 5.0  # seconds; a refusal takes milliseconds


@contextlib.contextmanager
def unharmed(slot: RunningSlot) -> Iterator[None]:
    """Afterwards the slot has the same engine, no traceback in its log, and answers."""
    pid = slot.engine_pid()
    yield
    good = raw(slot.port, chat(max_tokens=2))
    assert good.status == 200 and good.json()["object"] == "chat.completion"
    assert slot.engine_pid() == pid and pid is not None
    assert "Traceback" not in slot.log()


@pytest.fixture(params=["slot", "gateway"])
def slot(request: pytest.FixtureRequest, scripted_slot: RunningSlot) -> Iterator[RunningSlot]:
    """A running slot, unharmed by the test; and the same through a gateway."""
    found: Any = scripted_slot
    if request.param == "gateway":
        gateway = request.getfixturevalue("gateway")
        found = Fronted(scripted_slot, gateway(handle("alpha", scripted_slot, names=("first",))))
    with unharmed(found):
        yield found


def chat(**fields: Any) -> bytes:
    return post(CHAT, json.dumps({"messages": HI, **fields}).encode())


def refused(response: Response, status: int = 400, param: str | None = None, says: str = "") -> None:
    """The response is an OpenAI error of that status, about that field."""
    assert response.status == status, (response.status, response.body)
    error = response.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["message"] and error["code"] and isinstance(error["type"], str)
    if param:
        assert error["param"] == param or error["param"].startswith(f"{param}["), error
    assert says in error["message"], error


def refuses(slot: RunningSlot, path: str, fields: dict[str, Any], **expected: Any) -> None:
    """A body is refused, and with `stream: true` in the same way."""
    base = {"messages": HI} if path == CHAT else {"prompt": "hi"}
    given = {k: v for k, v in {**base, **fields}.items() if v is not MISSING}
    for body in (given, {**given, "stream": True}):
        began = time.monotonic()
        response = raw(slot.port, post(path, json.dumps(body).encode()))
        assert time.monotonic() - began < SOON
        refused(response, **expected)


def refuses_bytes(slot: RunningSlot, body: bytes, *headers: str, **expected: Any) -> None:
    refused(raw(slot.port, post(CHAT, body, *headers)), **expected)


MISSING = object()


# ── A01–A12: HTTP and JSON ──────────────────────────────────────────────────────────────────────────────────────────


def test_a01_not_json(slot: RunningSlot) -> None:
    for body in (b"hello", b"{", b'{"messages": [}', b'{"a": 1} {"b": 2}', b"{'a': 1}", b"\x00", b'{"a": NaN}'):
        refuses_bytes(slot, body)


def test_a02_empty_body(slot: RunningSlot) -> None:
    for body in (b"", b"  \n"):
        refuses_bytes(slot, body, says="empty")


def test_a03_root_is_no_object(slot: RunningSlot) -> None:
    for body in (b"[]", b'"x"', b"1", b"null", b"true"):
        refuses_bytes(slot, body, says="object")


def test_a04_content_length_bad_negative_or_beside_te(slot: RunningSlot) -> None:
    for headers in [
        ["Content-Length: x"],
        ["Content-Length: -5"],
        ["Content-Length: +5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 6"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 999999999999999999999999"],
    ]:
        response = raw(slot.port, post(CHAT, b"{}   ", *headers))
        refused(response)
        assert response.closed


def test_a04_unknown_transfer_encoding(slot: RunningSlot) -> None:
    response = raw(slot.port, post(CHAT, b"0\r\n\r\n", "Transfer-Encoding: gzip, chunked"))
    refused(response, status=501)
    assert response.closed


def test_a05_body_shorter_than_declared(slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec]) -> None:
    slot = slots(script("alpha"), Launch(limits=Limits(body_timeout=1.0, header_timeout=1.0, drain=5.0)))
    response = raw(slot.port, post(CHAT, b'{"mess', "Content-Length: 500"))
    refused(response, status=408)
    assert response.closed
    response = raw(slot.port, b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc")
    refused(response, status=408)
    assert raw(slot.port, chat()).status == 200


def test_a06_compressed_body(slot: RunningSlot) -> None:
    for encoding in ["gzip", "deflate", "br", "zstd"]:
        refuses_bytes(slot, b"\x1f\x8b\x08", f"Content-Encoding: {encoding}", status=415)


def test_a07_huge_header(slot: RunningSlot) -> None:
    for size in (70_000, 200_000, 1_000_000):
        response = raw(slot.port, post(CHAT, b"{}", f"X-Big: {'x' * size}"))
        refused(response, status=431)
        assert response.closed


def test_a07_many_headers_and_a_long_target(slot: RunningSlot) -> None:
    many = [f"X-{i}: {'y' * 10}" for i in range(20_000)]
    refuses_bytes(slot, b"{}", *many, status=431)
    refused(raw(slot.port, b"GET /" + b"z" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"), status=431)


def test_a08_huge_body_by_its_length(slot: RunningSlot) -> None:
    before = _peak(slot)
    response = raw(slot.port, post(CHAT, b"x" * 2**20, "Content-Length: 10000000000"))
    refused(response, status=413)
    assert response.closed
    assert _peak(slot) - before < 8 * 2**20


def test_a08_huge_body_in_chunks(slot: RunningSlot) -> None:
    before = _peak(slot)
    piece = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    response = raw(slot.port, post(CHAT, b"", "Transfer-Encoding: chunked"), *[piece] * 1600)
    refused(response, status=413)
    assert response.closed
    assert _peak(slot) - before < 80 * 2**20


def _peak(slot: RunningSlot) -> int:
    """The most memory that the slot server ever had, in bytes."""
    lines = Path(f"/proc/{slot.server_pid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def test_a09_nesting_of_200k(slot: RunningSlot) -> None:
    deep = b"[" * 200_000
    for body in (deep, b'{"messages": ' + deep + b"]" * 200_000 + b"}", b'{"a":' * 200_000):
        refuses_bytes(slot, body)
    for depth, says in ((120, "unknown field"), (140, "nested"), (900, "nested")):
        refuses_bytes(slot, b'{"a": ' + b"[" * depth + b"]" * depth + b"}", says=says)


def test_a10_invalid_utf8(slot: RunningSlot) -> None:
    for text in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"):
        refuses_bytes(slot, b'{"messages": [{"role": "user", "content": "' + text + b'"}]}', says="UTF-8")
    refuses_bytes(slot, b'\xef\xbb\xbf{"messages": []}', says="byte order mark")
    refuses_bytes(slot, '{"messages": []}'.encode("utf-16"))


def test_a11_lone_surrogate(slot: RunningSlot) -> None:
    for text in (r"\ud800", r"\udc00", r"\uDBFF x", r"\udc00\ud800"):
        refuses_bytes(slot, b'{"messages": [{"role": "user", "content": "%b"}]}' % text.encode(), says="surrogate")
    refuses_bytes(slot, rb'{"\ud800": 1}')
    whole = rb'{"messages": [{"role": "user", "content": "\ud83d\ude00 and \\ud800"}]}'
    assert raw(slot.port, post(CHAT, whole)).status == 200


def test_a12_duplicate_keys(slot: RunningSlot) -> None:
    refuses_bytes(slot, b'{"model": "alpha", "messages": [], "model": "beta"}', says="'model'")
    refuses_bytes(slot, b'{"messages": [{"role": "user", "role": "system", "content": "x"}]}', says="'role'")


# ── A13–A18: messages and prompts ───────────────────────────────────────────────────────────────────────────────────


def test_a13_messages_missing_or_empty(slot: RunningSlot) -> None:
    for messages in [MISSING, None, [], {}, "hi", [[]], ["hi"], [{}], 7, [None]]:
        refuses(slot, CHAT, {"messages": messages}, param="messages")


def test_a14_unknown_role(slot: RunningSlot) -> None:
    for role in [MISSING, None, "", "User", "robot", 1, ["user"], "\u0000"]:
        message = {k: v for k, v in {"role": role, "content": "x"}.items() if v is not MISSING}
        refuses(slot, CHAT, {"messages": [message]}, param="messages[0].role")


def test_a15_role_the_template_rejects(slot: RunningSlot) -> None:
    refuses(slot, CHAT, {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, param="messages")


def test_a16_content_of_a_wrong_type(slot: RunningSlot) -> None:
    for content in [
        1, True, {}, None, [], [1], [{}], ["x"],
        [{"type": "text"}], [{"type": "text", "text": 1}], [{"type": "text", "text": "x", "txet": "y"}],
        [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
        [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}],
        [{"type": "video", "text": "x"}],
    ]:  # fmt: skip
        refuses(slot, CHAT, {"messages": [{"role": "user", "content": content}]}, param="messages[0].content")


def test_a16_message_fields(slot: RunningSlot) -> None:
    for extra in (
        {"nmae": "x"}, {"name": 1}, {"name": "x" * 257}, {"tool_call_id": []}, {"reasoning_content": 1},
        {"audio": {"id": 1}}, {"function_call": {"name": "x", "arguments": "{}"}}, {"tool_calls": {}},
        {"tool_calls": [1]},
    ):  # fmt: skip
        message = {"role": "assistant", "content": "x", **extra}
        refuses(slot, CHAT, {"messages": [message]}, param=f"messages[0].{next(iter(extra))}")
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for role, extra in (("user", {"tool_calls": [call]}), ("user", {"reasoning_content": "x"}), ("tool", {})):
        refuses(
            slot,
            CHAT,
            {"messages": [{"role": role, "content": "x", **extra}]},
            param=f"messages[0].{next(iter(extra), 'tool_call_id')}",
        )


def test_a17_empty_prompt(slot: RunningSlot) -> None:
    for prompt in [MISSING, None, "", [], [""], 1, True, {}, [[]], [["a"]], [1, "a"], [1.5]]:
        refuses(slot, COMPLETIONS, {"prompt": prompt}, param="prompt")
    for several in (["a", ""], ["a", 1], ["a", [1]], [[1], []], [[1], "a"], ["a"] * 65):
        refuses(slot, COMPLETIONS, {"prompt": several}, param="prompt")


def test_a18_token_ids_out_of_vocabulary(slot: RunningSlot) -> None:
    for ids in [[-1], [1, -(2**70)], [10**9], [2**70], [1, True]]:
        refuses(slot, COMPLETIONS, {"prompt": ids}, param="prompt")


# ── A19–A28: ranges and knobs ───────────────────────────────────────────────────────────────────────────────────────


def test_a19_prompt_longer_than_the_context(slot: RunningSlot) -> None:
    for stream in (False, True):
        response = raw(slot.port, chat(messages=[{"role": "user", "content": "word " * 5000}], stream=stream))
        refused(response)
        error = response.json()["error"]
        assert error["code"] == "context_length_exceeded"
        asked, context = sorted((int(number) for number in re.findall(r"\d+", error["message"])), reverse=True)[:2]
        assert asked > 4000 > context >= 64


def test_a20_max_tokens(slot: RunningSlot) -> None:
    for path in [CHAT, COMPLETIONS]:
        for value in [0, -1, 10**9, 2**70, "10", 1.5, True, [], 1e9]:
            refuses(slot, path, {"max_tokens": value}, param="max_tokens")


def test_a20_max_completion_tokens(slot: RunningSlot) -> None:
    for value in (0, -1, "10", 1.5, True):
        refuses(slot, CHAT, {"max_completion_tokens": value}, param="max_completion_tokens")


def test_a21_temperature(slot: RunningSlot) -> None:
    for text in ["NaN", "1e999", "-1e999", "Infinity", "-0.1", "2.1", '"1"', "true", "[]", "1" * 5000]:
        for stream in ("false", "true"):
            body = f'{{"messages": [{{"role": "user", "content": "x"}}], "temperature": {text}, "stream": {stream}}}'
            refuses_bytes(slot, body.encode())


def test_a21_numbers_that_json_does_not_have_are_refused_anywhere(slot: RunningSlot) -> None:
    for number, says in (("NaN", "NaN"), ("-Infinity", "Infinity"), ("1e999", "too large"), ("1" * 5000, "digits")):
        body = f'{{"messages": [{{"role": "user", "content": "x"}}], "metadata": {{"a": {number}}}}}'
        refuses_bytes(slot, body.encode(), says=says)


OUT_OF_RANGE = {
    "top_p": [0, -0.1, 1.1, "1", True],
    "top_k": [-2, 1.5, "1", True, 2**40],
    "min_p": [-0.1, 1.1, "0"],
    "repetition_penalty": [0, -1, 11, "1"],
    "presence_penalty": [-2.1, 2.1, "0"],
    "frequency_penalty": [-2.1, 2.1, "0"],
}


def test_a22_sampling_out_of_range(slot: RunningSlot) -> None:
    for name in OUT_OF_RANGE:
        for value in OUT_OF_RANGE[name]:
            refuses(slot, CHAT, {name: value}, param=name)


def test_a23_n(slot: RunningSlot) -> None:
    for n in [0, -1, 17, 16384, "1", 1.0, True]:
        refuses(slot, CHAT, {"n": n}, param="n")


def test_a24_seed(slot: RunningSlot) -> None:
    for seed in [2**70, -(2**70), 2**64, -(2**63) - 1, 1.5, "1", True]:
        refuses(slot, CHAT, {"seed": seed}, param="seed")


def test_a25_stop(slot: RunningSlot) -> None:
    for stop in ["", [""], "x" * 2**20, ["x"] * 100, ["a", 1], {}, 1, True]:
        refuses(slot, CHAT, {"stop": stop}, param="stop")


def test_a26_logit_bias(slot: RunningSlot) -> None:
    for bias in [
        {"99999999": 1}, {"-1": 1}, {"x": 1}, {"1.5": 1}, {"": 1}, {"١": 1}, {"1": 101}, {"1": "1"}, {"1": True},
        {str(i): 1 for i in range(2000)}, [], "x",
    ]:  # fmt: skip
        refuses(slot, CHAT, {"logit_bias": bias}, param="logit_bias")


def test_a26_stop_token_ids(slot: RunningSlot) -> None:
    for ids in [[-1], [10**9], [2**70], ["1"], 1, [True], [1] * 2000]:
        refuses(slot, CHAT, {"stop_token_ids": ids})


def test_a27_logprobs(slot: RunningSlot) -> None:
    for value in (10**6, -1, 21, "1", True, 1.5):
        refuses(slot, COMPLETIONS, {"logprobs": value}, param="logprobs")
        refuses(slot, CHAT, {"logprobs": True, "top_logprobs": value}, param="top_logprobs")
    for other in (1, "true", []):
        refuses(slot, CHAT, {"logprobs": other}, param="logprobs")
    refuses(slot, CHAT, {"top_logprobs": 3}, param="top_logprobs")


def test_a28_unknown_engine_knobs(slot: RunningSlot) -> None:
    for knob in ("mirostat", "n_gpu_layers", "typical_p", "adapter_path", "__proto__", "model_file", "", "x" * 10**5):
        refuses(slot, CHAT, {knob: 1}, says="unknown field")
    assert len(raw(slot.port, chat(**{"x" * 10**5: 1})).body) < 1000
    refuses(slot, CHAT, {"temprature": 1}, param="temprature", says="did you mean 'temperature'")
    refuses(slot, CHAT, {"repeat_penalty": 1}, says="did you mean 'repetition_penalty'")
    refuses(slot, CHAT, {"prompt": "x"}, param="prompt", says="unknown field")
    refuses(slot, COMPLETIONS, {"messages": HI}, param="messages", says="unknown field")
    refuses(slot, CHAT, {"stream_options": {"include_usgae": True}}, says="include_usage")


def test_a28_stream_of_a_wrong_type(slot: RunningSlot) -> None:
    for value in (1, "true", []):
        refused(raw(slot.port, chat(stream=value)), param="stream")


# ── A33–A36 ─────────────────────────────────────────────────────────────────────────────────────────────────────────


A_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
BAD_FORMATS: dict[str, list[Any]] = {
    "response_format": [
        "text", [], {}, {"type": "xml"}, {"type": "text", "x": 1}, {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": {}}}, {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": "{}"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"title": "y" * 2**18}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": 1}},
    ],
    "structured_outputs": [
        "x", {"xml": "x"}, {"regex": 1}, {"regex": ""}, {"choice": []}, {"regex": "a", "choice": ["b"]},
    ],
    "guided_json": [1, "", []],
    "guided_regex": [1, "", "a" * (2**18 + 1)],
    "guided_choice": ["a", [], [1], ["a"] * 1025],
    "guided_grammar": [{}, "", "a" * 2**20],
}  # fmt: skip


def test_a29_formats_that_are_none(slot: RunningSlot) -> None:
    for name, values in BAD_FORMATS.items():
        for value in values:
            for path in (CHAT, COMPLETIONS):
                refuses(slot, path, {name: value}, says=name)
    for second in ({"guided_regex": "a"}, {"structured_outputs": {"regex": "a"}}):
        both = {"response_format": {"type": "json_object"}, **second}
        refuses(slot, CHAT, both, param=next(iter(second)), says="beside response_format")


BAD_TOOLS = [
    "f", {}, [1], [{}], [{"type": "web_search"}], [{"type": "function"}], [{"type": "function", "function": "f"}],
    [{**A_TOOL, "x": 1}], [A_TOOL, A_TOOL], [A_TOOL] * 10_000,
    *(
        [{"type": "function", "function": {"name": "f", **bad}}]
        for bad in (
            {"name": ""}, {"name": "a b"}, {"name": "x" * 65}, {"name": 1}, {"name": None}, {"description": 1},
            {"description": "x" * 2**17}, {"parameters": "{}"}, {"parameters": []}, {"strict": "yes"}, {"code": "x"},
        )
    ),
]  # fmt: skip


def test_a32_tools_that_are_none(slot: RunningSlot) -> None:
    for tools in BAD_TOOLS:
        refuses(slot, CHAT, {"tools": tools}, says="tools")
    many = [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]
    refuses(slot, CHAT, {"tools": many}, param="tools", says="1 to 128")
    refuses(slot, CHAT, {"tools": [A_TOOL], "parallel_tool_calls": 1}, param="parallel_tool_calls")


def test_a32_a_choice_of_no_tool(slot: RunningSlot) -> None:
    for choice in (
        "maybe", 1, [], {}, {"type": "function"}, {"type": "tool", "name": "f"}, {"type": "function", "function": "f"},
        {"type": "function", "function": {"name": "g"}}, {"type": "function", "function": {"name": 1}},
    ):  # fmt: skip
        refuses(slot, CHAT, {"tools": [A_TOOL], "tool_choice": choice}, says="tool_choice")
    refuses(slot, CHAT, {"tool_choice": "required"}, param="tool_choice", says="no tools")


def test_a32_what_is_not_supported_is_named(slot: RunningSlot) -> None:
    for name, value in {"modalities": ["audio"], "audio": {"voice": "x"}, "web_search_options": {"a": 1}}.items():
        refuses(slot, CHAT, {name: value}, param=name)
    for name in ("functions", "function_call"):
        refuses(slot, CHAT, {name: [A_TOOL["function"]]}, param=name, says="tools")


def test_a33_client_sent_chat_template(slot: RunningSlot) -> None:
    refuses(slot, CHAT, {"chat_template": "{{ 7 * 7 }}"}, param="chat_template")
    for arguments in ("x", {"x": 1}, {"enable_thinking": "{{ 1 }}"}, {"reasoning_effort": "{{ 1 }}"}, {"thinking": 1}):
        refuses(slot, CHAT, {"chat_template_kwargs": arguments}, says="chat_template_kwargs")
    refuses(slot, CHAT, {"reasoning_effort": "enormous"}, param="reasoning_effort")
    refuses(slot, CHAT, {"enable_thinking": "yes"}, param="enable_thinking")
    refuses(slot, CHAT, {"continue_final_message": True}, param="continue_final_message")


def test_a34_arguments_of_a_call_that_are_no_object(slot: RunningSlot) -> None:
    for arguments in (
        "{",
        "[]",
        "1",
        "null",
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        "[" * 200_000,
        {},
        1,
        None,
        "x" * 10**5,
    ):
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        history = [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}]
        refuses(slot, CHAT, {"messages": history}, param="messages[1].tool_calls[0].function.arguments")
    for call in (
        {"type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": 1, "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "1", "type": "custom", "function": {"name": "f", "arguments": "{}"}},
        {"id": "1", "type": "function", "function": {"arguments": "{}"}}, {"id": "1"}, {"id": "1", "function": "f"},
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}", "x": 1}},
    ):  # fmt: skip
        refuses(slot, CHAT, {"messages": [*HI, {"role": "assistant", "tool_calls": [call]}]}, says="tool_calls[0]")


def test_a35_special_tokens_are_text(slot: RunningSlot) -> None:
    for text in ("<|im_end|>", "</s>", "<|endoftext|>", "[INST]", "<end_of_turn>", "\x00\x07"):
        assert raw(slot.port, chat(messages=[{"role": "user", "content": text}], max_tokens=2)).status == 200


def test_a36_a_foreign_model_is_404_and_loads_nothing(slot: RunningSlot) -> None:
    for model in [
        "/etc/passwd", "../../etc/passwd", "https://example.com/model", "org/other-model", "alpha\u0000",
        "alpha/../beta", "file:///models/alpha", "-alpha", " alpha", "x" * 10**5, "beta", "\u202ealpha",
    ]:  # fmt: skip
        refuses(slot, CHAT, {"model": model}, status=404, param="model")
        refuses(slot, COMPLETIONS, {"model": model}, status=404, param="model")
        assert slot.status().model == "alpha"


def test_a36_model_of_a_wrong_type(slot: RunningSlot) -> None:
    for model in (1, [], {}, True):
        refuses(slot, CHAT, {"model": model}, param="model")


def refuses_formats(slot: RunningSlot) -> None:
    """Formats that are wrong or too much are a 400, soon, and /health answers all the while; a good one is kept to."""
    loop = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    wrong: list[dict[str, Any]] = [
        {"guided_json": {"type": "nonsense"}}, {"guided_json": loop}, {"guided_json": {"$ref": "https://example.com/x"}},
        {"guided_regex": "("}, {"guided_regex": "((((a{999}){999}){999}){999}){999}"},
        {"guided_grammar": "start: ("}, {"guided_grammar": "start: " + '"a" ' * 60_000 + "x"},
    ]  # fmt: skip
    stop, seen = threading.Event(), []
    watch = threading.Thread(target=lambda: [seen.append(health(slot)) for _ in iter(stop.is_set, True)])
    watch.start()
    try:
        for fields in wrong:
            refused(raw(slot.port, chat(max_tokens=8, **fields)))
        whole = raw(slot.port, chat(max_tokens=8, guided_regex="(a+)+$")).json()
        assert set(whole["choices"][0]["message"]["content"]) == {"a"}
    finally:
        stop.set()
        watch.join()
    assert len(seen) > len(wrong) and set(seen) == {200}
    good = raw(slot.port, chat(max_tokens=16, guided_choice=["a port", "a host"])).json()
    assert good["choices"][0]["message"]["content"] in ("a port", "a host")


def health(slot: RunningSlot) -> int:
    return raw(slot.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").status


@pytest.mark.models
@pytest.mark.parametrize(("engine", "name"), [("torch", "tiny-llama"), ("llamacpp", "tiny-llama-gguf")])
def test_a15_a18_a19_a26_a29_a30_a31_a35_on_a_real_model(
    slots: Callable[..., RunningSlot], tiny_models: dict[str, Path], engine: str, name: str
) -> None:
    """The rows that a model's own template, vocabulary and context decide."""
    path = tiny_models[name]
    spec = EngineSpec(engine, name, str(path), "gguf" if engine == "llamacpp" else "safetensors", context=512)
    slot = slots(SlotSpec(spec, probe=Probe("What is a slot?", "A port", 24), needed_bytes=2**30))
    with unharmed(slot):
        refuses(slot, CHAT, {"messages": [{"role": "assistant", "content": "x"}]}, param="messages")
        test_a18_token_ids_out_of_vocabulary(slot)
        test_a19_prompt_longer_than_the_context(slot)
        test_a20_max_tokens(slot)
        test_a26_logit_bias(slot)
        test_a26_stop_token_ids(slot)
        refuses_formats(slot)
        test_a35_special_tokens_are_text(slot)


def test_known_fields_that_change_nothing_are_taken(slot: RunningSlot) -> None:
    fields = {
        "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "parallel_tool_calls": True,
        "prompt_cache_key": "k", "safety_identifier": "s", "reasoning_effort": "low", "tools": [],
        "tool_choice": "auto", "stop": None, "logit_bias": {}, "response_format": {"type": "text"}, "seed": -1,
        "top_k": -1, "n": 1, "model": "default", "max_completion_tokens": 4, "temperature": 0, "logprobs": False,
        "top_logprobs": 0,
    }  # fmt: skip
    assert raw(slot.port, chat(**fields)).status == 200
    again = [*HI, {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None}, *HI]
    assert raw(slot.port, chat(messages=again)).status == 200


def test_many_at_once_leave_the_slot_well(slot: RunningSlot) -> None:
    """Half a request on each of fifty connections, all dropped."""
    with contextlib.ExitStack() as stack:
        for i in range(50):
            stack.enter_context(connect(slot.port)).sendall(chat()[: 20 + i * 2])
        assert raw(slot.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200
