"""The `anthropic` library: messages."""

from __future__ import annotations

from typing import Any, Literal

from anthropic import Anthropic
from cases import CUT, MANY, PARAMETERS, QUESTION, TOOL, Setting, case, main
from pydantic import BaseModel

ASKED: Any = [{"role": "user", "content": QUESTION}]
# top_k 1 and not temperature: the library has fields only for what Anthropic's newest models take
GREEDY: Any = {"model": "tiny", "messages": ASKED, "max_tokens": 96, "extra_body": {"top_k": 1}}
TOOLS: Any = [{"name": TOOL["name"], "description": TOOL["description"], "input_schema": PARAMETERS}]
ANY: Any = {"type": "any"}


class Painting(BaseModel):
    colour: Literal["red", "green"]
    count: Literal[1, 2, 3]


def at(url: str, key: str = "none", **options: Any) -> Anthropic:
    return Anthropic(base_url=url, api_key=key, max_retries=0, timeout=60, **options)


def said(found: Any) -> str:
    return "".join(block.text for block in found.content if block.type == "text")


def called(found: Any) -> list[Any]:
    return [[block.name, block.input] for block in found.content if block.type == "tool_use"]


@case
def text(setting: Setting) -> Any:
    found = at(setting.url).messages.create(**GREEDY)
    return [said(found), found.stop_reason, found.usage.input_tokens, found.usage.output_tokens, found.model]


@case
def stream(setting: Setting) -> Any:
    with at(setting.url).messages.stream(**GREEDY) as events:
        pieces = list(events.text_stream)
        found = events.get_final_message()
    return [pieces, found.stop_reason, found.usage.input_tokens, found.usage.output_tokens]


@case
def events(setting: Setting) -> Any:
    return [event.type for event in at(setting.url).messages.create(**GREEDY, stream=True)]


@case
def stop(setting: Setting) -> Any:
    found = at(setting.url).messages.create(**GREEDY, stop_sequences=[CUT])
    return [said(found), found.stop_reason, found.stop_sequence]


@case
def prefill(setting: Setting) -> Any:
    """The answer goes on where the client's beginning of it ends."""
    asked: Any = [*ASKED, {"role": "assistant", "content": "A port on"}]
    return said(at(setting.url).messages.create(**{**GREEDY, "messages": asked}))


@case
def count(setting: Setting) -> Any:
    client = at(setting.url)
    counted = client.messages.count_tokens(model="tiny", messages=ASKED).input_tokens
    longer = client.messages.count_tokens(model="tiny", messages=ASKED, system="Answer briefly. " * 10).input_tokens
    used = client.messages.create(**GREEDY).usage
    return [counted, longer, used.input_tokens + (used.cache_read_input_tokens or 0)]


@case
def models(setting: Setting) -> Any:
    return [model.id for model in at(setting.url).models.list()]


@case
def tools(setting: Setting) -> Any:
    found = at(setting.url).messages.create(**GREEDY, tools=TOOLS, tool_choice=ANY)
    return [called(found), found.stop_reason]


@case
def tools_stream(setting: Setting) -> Any:
    with at(setting.url).messages.stream(**GREEDY, tools=TOOLS, tool_choice=ANY) as events:
        found = events.get_final_message()
    return [called(found), found.stop_reason]


@case
def tools_answered(setting: Setting) -> Any:
    """The call goes back to the model with its result."""
    client = at(setting.url)
    content = client.messages.create(**GREEDY, tools=TOOLS, tool_choice=ANY).content
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "done"}
        for block in content
        if block.type == "tool_use"
    ]
    history: Any = [*ASKED, {"role": "assistant", "content": content}, {"role": "user", "content": results}]
    return client.messages.create(**{**GREEDY, "messages": history}, tools=TOOLS).stop_reason


@case
def schema(setting: Setting) -> Any:
    found = at(setting.url).messages.parse(**GREEDY, output_format=Painting).parsed_output
    return found and found.model_dump()


@case
def image(setting: Setting) -> Any:
    data = setting.picture()
    parts: Any = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {"type": "text", "text": "What is in the picture?"},
    ]
    return said(at(setting.seeing).messages.create(**{**GREEDY, "messages": [{"role": "user", "content": parts}]}))


@case
def image_to_a_text_model(setting: Setting) -> Any:
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    asked: Any = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    return at(setting.url).messages.create(**{**GREEDY, "messages": asked})


@case
def wrong_model(setting: Setting) -> Any:
    return at(setting.url).messages.create(**{**GREEDY, "model": "org/other"})


@case
def wrong_field(setting: Setting) -> Any:
    return at(setting.url).messages.create(**{**GREEDY, "extra_body": {"temperature": 9}})


@case
def too_long(setting: Setting) -> Any:
    asked: Any = [{"role": "user", "content": "too long " * 4000}]
    return at(setting.url).messages.create(**{**GREEDY, "messages": asked})


@case
def wrong_key(setting: Setting) -> Any:
    return at(setting.endless, "wrong").messages.create(**GREEDY)


@case
def bearer(setting: Setting) -> Any:
    """The key as Authorization: Bearer, as Claude Code sends an auth token."""
    client = Anthropic(base_url=setting.endless, api_key=None, auth_token=setting.key, max_retries=0)
    return client.messages.create(**{**GREEDY, "max_tokens": 2}).stop_reason


@case
def cancel(setting: Setting) -> Any:
    before = setting.generated()
    more = {**GREEDY, "max_tokens": MANY}
    with at(setting.endless, setting.key).messages.create(**more, stream=True) as found:
        got = [next(found).type for _ in range(5)]
    return [len(got), setting.generated(at_rest=True) - before]


main()
