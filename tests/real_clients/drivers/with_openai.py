"""The `openai` library: chat, completions and responses."""

from __future__ import annotations

import json
from typing import Any, Literal

from cases import CUT, MANY, PARAMETERS, QUESTION, TOOL, WORDS, Setting, case, main
from openai import OpenAI
from pydantic import BaseModel

ASKED: Any = [{"role": "user", "content": QUESTION}]
GREEDY: Any = {"model": "tiny", "messages": ASKED, "temperature": 0, "max_completion_tokens": 96}
TOOLS: Any = [{"type": "function", "function": TOOL}]


class Painting(BaseModel):
    colour: Literal["red", "green"]
    count: Literal[1, 2, 3]


def at(url: str, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


@case
def text(setting: Setting) -> Any:
    found = at(setting.url).chat.completions.create(**GREEDY)
    choice, usage = found.choices[0], found.usage
    assert usage is not None
    return [choice.message.content, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens, found.model]


@case
def stream(setting: Setting) -> Any:
    found = at(setting.url).chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True})
    chunks = list(found)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    last = chunks[-1].usage
    assert last is not None
    return [pieces, chunks[-2].choices[0].finish_reason, last.prompt_tokens, last.completion_tokens]


@case
def stop(setting: Setting) -> Any:
    choice = at(setting.url).chat.completions.create(**GREEDY, stop=[CUT]).choices[0]
    return [choice.message.content, choice.finish_reason]


@case
def completions(setting: Setting) -> Any:
    found = at(setting.url).completions.create(model="tiny", prompt="A slot is", max_tokens=4, temperature=0)
    return [found.choices[0].text, found.choices[0].finish_reason]


@case
def responses(setting: Setting) -> Any:
    client = at(setting.url)
    whole = client.responses.create(model="tiny", input=QUESTION, temperature=0, max_output_tokens=32)
    with client.responses.stream(model="tiny", input=QUESTION, temperature=0, max_output_tokens=32) as events:
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
        final = events.get_final_response()
    return [whole.output_text, whole.status, pieces, final.output_text]


@case
def models(setting: Setting) -> Any:
    return [model.id for model in at(setting.url).models.list()]


@case
def tools(setting: Setting) -> Any:
    found = at(setting.url).chat.completions.create(**GREEDY, tools=TOOLS, tool_choice="required").choices[0]
    calls = found.message.tool_calls or []
    return [[[call.function.name, json.loads(call.function.arguments)] for call in calls], found.finish_reason]


@case
def tools_stream(setting: Setting) -> Any:
    strict: Any = [{"type": "function", "function": {**TOOL, "strict": True}}]
    with at(setting.url).chat.completions.stream(**GREEDY, tools=strict, tool_choice="required") as events:
        found = events.get_final_completion().choices[0]
    calls = found.message.tool_calls or []
    return [[[call.function.name, call.function.parsed_arguments] for call in calls], found.finish_reason]


@case
def tools_answered(setting: Setting) -> Any:
    """The call goes back to the model with its result."""
    client = at(setting.url)
    message = client.chat.completions.create(**GREEDY, tools=TOOLS, tool_choice="required").choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in message.tool_calls or []]
    history: Any = [*ASKED, message, *results]
    return client.chat.completions.create(**{**GREEDY, "messages": history}, tools=TOOLS).choices[0].finish_reason


@case
def schema(setting: Setting) -> Any:
    found = at(setting.url).chat.completions.parse(**GREEDY, response_format=Painting).choices[0].message.parsed
    return found and found.model_dump()


@case
def schema_plain(setting: Setting) -> Any:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "painting", "schema": PARAMETERS}}
    found = at(setting.url).chat.completions.create(**GREEDY, response_format=wanted).choices[0]
    return json.loads(found.message.content or "")


@case
def image(setting: Setting) -> Any:
    data = setting.picture()
    parts: Any = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": "What is in the picture?"},
    ]
    asked: Any = [{"role": "user", "content": parts}]
    return at(setting.seeing).chat.completions.create(**{**GREEDY, "messages": asked}).choices[0].message.content


@case
def image_to_a_text_model(setting: Setting) -> Any:
    parts: Any = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]
    return at(setting.url).chat.completions.create(**{**GREEDY, "messages": [{"role": "user", "content": parts}]})


@case
def embeddings(setting: Setting) -> Any:
    found = at(setting.embedding).embeddings.create(model="tiny", input=WORDS)
    return [row.embedding for row in found.data]


@case
def wrong_model(setting: Setting) -> Any:
    return at(setting.url).chat.completions.create(**{**GREEDY, "model": "org/other"})


@case
def wrong_field(setting: Setting) -> Any:
    return at(setting.url).chat.completions.create(**{**GREEDY, "temperature": 9})


@case
def too_long(setting: Setting) -> Any:
    asked: Any = [{"role": "user", "content": "too long " * 4000}]
    return at(setting.url).chat.completions.create(**{**GREEDY, "messages": asked})


@case
def wrong_key(setting: Setting) -> Any:
    return at(setting.endless, "wrong").chat.completions.create(**GREEDY)


@case
def cancel(setting: Setting) -> Any:
    before = setting.generated()
    more = {**GREEDY, "max_completion_tokens": MANY}
    with at(setting.endless, setting.key).chat.completions.create(**more, stream=True) as found:
        got = [next(found).id for _ in range(3)]
    return [len(got), setting.generated(at_rest=True) - before]


main()
