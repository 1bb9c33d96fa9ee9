"""What an OpenAI text completion may ask: of one prompt, or of several at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmctl.runner.protocols.asked import Asked, new_id
from llmctl.runner.protocols.checks import Field, flag, integer, read, string, token_ids, typed, wrong
from llmctl.runner.protocols.openai_fields import ALTERNATIVES, COMMON, IGNORED, asked

PROMPTS = 64
SUFFIX = 2**20
DEFAULT_TOKENS = 16

Prompt = str | tuple[int, ...]


def prompts(name: str, value: Any) -> tuple[Prompt, ...]:
    """A string, an array of strings, of token ids, or of arrays of these."""
    if isinstance(value, list) and value and isinstance(value[0], (str, list)):
        if len(value) > PROMPTS:
            raise wrong(name, f"at most {PROMPTS} are taken")
        return tuple(_prompt(f"{name}[{i}]", item, type(value[0])) for i, item in enumerate(value))
    return (_prompt(name, value, (str, list)),)


def _prompt(name: str, value: Any, wanted: type | tuple[type, ...]) -> Prompt:
    typed(name, value, wanted, "a string or an array of token ids, like those before it")
    found: Prompt = value if isinstance(value, str) else token_ids()(name, value)
    if not found:
        raise wrong(name, "is empty")
    return found


COMPLETION = COMMON | {
    "prompt": Field(prompts, "prompts", {"type": "string", "minLength": 1}),
    "logprobs": Field(integer(0, ALTERNATIVES), "logprobs"),
    "echo": Field(flag, "echo"),
    "best_of": Field(integer(1, 1), ""),
    "suffix": Field(string(SUFFIX, 0), "suffix"),
}


def read_completion(body: Mapping[str, Any], time_cap: float) -> Asked:
    """The body of /v1/completions; RequestError 400 names the first field at fault.

    `options` are the requests, one a prompt; the first of them is `request`.
    """
    values = read(body, COMPLETION, IGNORED, required=("prompt",))
    values.setdefault("max_tokens", DEFAULT_TOKENS)
    values["suffix"] = values.get("suffix") or None
    given = asked(values, new_id("cmpl"), time_cap)
    requests = tuple(
        replace(given.request, id=f"{given.request.id}-{i}" if i else given.request.id, prompt=prompt)
        for i, prompt in enumerate(values["prompts"])
    )
    return replace(given, request=requests[0], options=requests)
