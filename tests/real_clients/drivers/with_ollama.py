"""The `ollama` library: chat, generate, embeddings and what it asks about models."""

from __future__ import annotations

import json
from typing import Any

from cases import CUT, MANY, PARAMETERS, QUESTION, TOOL, WORDS, Setting, case, main
from ollama import Client

ASKED: Any = [{"role": "user", "content": QUESTION}]
GREEDY: Any = {"model": "tiny", "messages": ASKED, "options": {"temperature": 0, "num_predict": 96}}
TOOLS: Any = [{"type": "function", "function": TOOL}]


def at(url: str, key: str = "none") -> Client:
    return Client(host=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)


def called(found: Any) -> list[Any]:
    return [[call.function.name, dict(call.function.arguments)] for call in found.message.tool_calls or []]


@case
def text(setting: Setting) -> Any:
    found = at(setting.url).chat(**GREEDY)
    return [found.message.content, found.done_reason, found.prompt_eval_count, found.eval_count, found.model]


@case
def stream(setting: Setting) -> Any:
    parts = list(at(setting.url).chat(**GREEDY, stream=True))
    last = parts[-1]
    return [[part.message.content for part in parts], last.done_reason, last.prompt_eval_count, last.eval_count]


@case
def stop(setting: Setting) -> Any:
    found = at(setting.url).chat(**{**GREEDY, "options": {**GREEDY["options"], "stop": [CUT]}})
    return [found.message.content, found.done_reason]


@case
def generate(setting: Setting) -> Any:
    client, options = at(setting.url), GREEDY["options"]
    whole = client.generate(model="tiny", prompt=QUESTION, options=options)
    pieces = [part.response for part in client.generate(model="tiny", prompt=QUESTION, options=options, stream=True)]
    return [whole.response, pieces]


@case
def raw(setting: Setting) -> Any:
    options = {**GREEDY["options"], "num_predict": 4}
    found = at(setting.url).generate(model="tiny", prompt="A slot is", raw=True, options=options)
    return [found.response, found.done_reason, found.eval_count]


@case
def durations(setting: Setting) -> Any:
    found = at(setting.url).chat(**GREEDY)
    return [found.total_duration, found.load_duration, found.prompt_eval_duration, found.eval_duration]


@case
def load(setting: Setting) -> Any:
    found = at(setting.url).generate(model="tiny")
    return [found.response, found.done, found.done_reason]


@case
def latest(setting: Setting) -> Any:
    return at(setting.url).chat(**{**GREEDY, "model": "tiny:latest"}).model


@case
def models(setting: Setting) -> Any:
    return [model.model for model in at(setting.url).list().models]


@case
def show(setting: Setting) -> Any:
    found = at(setting.url).show("tiny")
    return [found.capabilities, found.modelinfo]


@case
def ps(setting: Setting) -> Any:
    return [[model.model, model.context_length] for model in at(setting.url).ps().models]


@case
def tools(setting: Setting) -> Any:
    """Ollama's clients cannot require a call; whether there is one is the model's affair."""
    found = at(setting.url).chat(**GREEDY, tools=TOOLS)
    return [called(found), found.done_reason]


@case
def tools_answered(setting: Setting) -> Any:
    history = [
        *ASKED,
        {
            "role": "assistant",
            "tool_calls": [{"function": {"name": "paint", "arguments": {"colour": "red", "count": 1}}}],
        },
        {"role": "tool", "tool_name": "paint", "content": "done"},
    ]
    return at(setting.url).chat(**{**GREEDY, "messages": history}, tools=TOOLS).done_reason


@case
def schema(setting: Setting) -> Any:
    return json.loads(at(setting.url).chat(**GREEDY, format=PARAMETERS).message.content or "")


@case
def schema_json(setting: Setting) -> Any:
    found = at(setting.url).chat(**{**GREEDY, "options": {"temperature": 0, "num_predict": 256}}, format="json")
    return [found.message.content, found.done_reason]


@case
def image(setting: Setting) -> Any:
    data = setting.picture()
    asked: Any = [{"role": "user", "content": "What is in the picture?", "images": [data]}]
    return at(setting.seeing).chat(**{**GREEDY, "messages": asked}).message.content


@case
def image_to_a_text_model(setting: Setting) -> Any:
    return at(setting.url).chat(**{**GREEDY, "messages": [{"role": "user", "images": ["iVBORw0KGgo="]}]})


@case
def embeddings(setting: Setting) -> Any:
    found = at(setting.embedding).embed(model="tiny", input=WORDS)
    return [list(row) for row in found.embeddings]


@case
def embeddings_old(setting: Setting) -> Any:
    return list(at(setting.embedding).embeddings(model="tiny", prompt=WORDS[0]).embedding)


@case
def wrong_model(setting: Setting) -> Any:
    return at(setting.url).chat(**{**GREEDY, "model": "org/other"})


@case
def wrong_field(setting: Setting) -> Any:
    return at(setting.url).chat(**{**GREEDY, "options": {"temperature": 9}})


@case
def wrong_field_stream(setting: Setting) -> Any:
    return list(at(setting.url).chat(**{**GREEDY, "options": {"temperature": 9}}, stream=True))


@case
def too_long(setting: Setting) -> Any:
    return at(setting.url).chat(**{**GREEDY, "messages": [{"role": "user", "content": "too long " * 4000}]})


@case
def pull(setting: Setting) -> Any:
    return at(setting.url).pull("tiny")


@case
def wrong_key(setting: Setting) -> Any:
    return at(setting.endless, "wrong").chat(**GREEDY)


@case
def cancel(setting: Setting) -> Any:
    before = setting.generated()
    more = {**GREEDY, "options": {"temperature": 0, "num_predict": MANY}}
    found = at(setting.endless, setting.key).chat(**more, stream=True)
    got = [next(found).model for _ in range(3)]
    found.close()
    return [len(got), setting.generated(at_rest=True) - before]


main()
