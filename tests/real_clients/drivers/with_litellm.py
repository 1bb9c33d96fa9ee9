"""`litellm` as a library, by each of the three protocols it can speak to a slot."""

from __future__ import annotations

import json
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches prices from the internet when imported

import litellm
from cases import CUT, MANY, PARAMETERS, QUESTION, TOOL, WORDS, Setting, case, main

GREEDY: Any = {
    "messages": [{"role": "user", "content": QUESTION}],
    "temperature": 0,
    "max_tokens": 96,
    "max_retries": 0,
}
TOOLS: Any = [{"type": "function", "function": TOOL}]


def openai(url: str, key: str = "none") -> dict[str, Any]:
    return {"model": "openai/tiny", "api_base": f"{url}/v1", "api_key": key}


def ask(route: dict[str, Any], **more: Any) -> Any:
    return litellm.completion(**{**GREEDY, **route, **more})


@case
def text(setting: Setting) -> Any:
    found = ask(openai(setting.url))
    choice, usage = found.choices[0], found.usage
    return [choice.message.content, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens, found.model]


@case
def text_by_anthropic(setting: Setting) -> Any:
    found = ask({"model": "anthropic/tiny", "api_base": setting.url, "api_key": "none"})
    return [found.choices[0].message.content, found.choices[0].finish_reason]


@case
def text_by_ollama(setting: Setting) -> Any:
    found = ask({"model": "ollama_chat/tiny", "api_base": setting.url})
    return [found.choices[0].message.content, found.choices[0].finish_reason]


@case
def stream(setting: Setting) -> Any:
    chunks = list(ask(openai(setting.url), stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    finish = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    usage = chunks[-1].usage
    return [pieces, finish[-1], usage.prompt_tokens, usage.completion_tokens]


@case
def stop(setting: Setting) -> Any:
    choice = ask(openai(setting.url), stop=[CUT]).choices[0]
    return [choice.message.content, choice.finish_reason]


@case
def tools(setting: Setting) -> Any:
    choice = ask(openai(setting.url), tools=TOOLS, tool_choice="required").choices[0]
    calls = choice.message.tool_calls or []
    return [[[call.function.name, json.loads(call.function.arguments)] for call in calls], choice.finish_reason]


@case
def schema(setting: Setting) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "painting", "schema": PARAMETERS}}
    return json.loads(ask(openai(setting.url), response_format=wanted).choices[0].message.content)


@case
def image(setting: Setting) -> Any:
    data = setting.picture()
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": "What is in the picture?"},
    ]
    return ask(openai(setting.seeing), messages=[{"role": "user", "content": parts}]).choices[0].message.content


@case
def embeddings(setting: Setting) -> Any:
    found = litellm.embedding(**openai(setting.embedding), input=WORDS, encoding_format="float")
    return [row["embedding"] for row in found.data]


@case
def wrong_model(setting: Setting) -> Any:
    return ask({**openai(setting.url), "model": "openai/other"})


@case
def wrong_field(setting: Setting) -> Any:
    return ask(openai(setting.url), temperature=9)


@case
def too_long(setting: Setting) -> Any:
    return ask(openai(setting.url), messages=[{"role": "user", "content": "too long " * 4000}])


@case
def wrong_key(setting: Setting) -> Any:
    return ask(openai(setting.endless, "wrong"))


@case
def cancel(setting: Setting) -> Any:
    before = setting.generated()
    found = ask(openai(setting.endless, setting.key), stream=True, max_tokens=MANY)
    got = [next(found).id for _ in range(3)]
    found.completion_stream.close()
    return [len(got), setting.generated(at_rest=True) - before]


main()
