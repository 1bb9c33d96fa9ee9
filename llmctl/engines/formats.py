"""What an answer may be made of: the parser that tells its pieces apart, and the mask that it has to keep."""

from __future__ import annotations

import json

from llmctl.decoding.grammars import LARGEST, grammar, refused
from llmctl.decoding.pieces import Parser
from llmctl.decoding.structured import GrammarMask, Masks
from llmctl.decoding.thinking import CLOSE, OPEN
from llmctl.domain import GenerateRequest, Tokenizer
from llmctl.engines.requests import offered

TAIL = 16
"""Tokens at the end of a prompt among which an open thought begins: a marker, and white space behind it."""


def parser_of(request: GenerateRequest, tokenizer: Tokenizer, prompt: list[int]) -> Parser | None:
    """A new parser for one sequence of a chat; None when its answer is all text."""
    if request.messages is None:
        return None
    found: Parser | None = tokenizer.speech.parser(
        offered(request), opened=in_thought(request, tokenizer, prompt) is True
    )
    return found


def mask_of(masks: Masks, tokenizer: Tokenizer, request: GenerateRequest, prompt: list[int]) -> GrammarMask | None:
    """A new mask for one sequence of the request; None when it may say anything."""
    speech, tools = tokenizer.speech, offered(request)
    if tools and request.tool_choice == "required":
        size = len(json.dumps(tools))
        if size > LARGEST:
            raise refused(f"the tools have {size} characters, over the limit of {LARGEST}", "tools")
        opened = in_thought(request, tokenizer, prompt)
        return masks.mask(speech.required(tools, opened=opened, several=request.parallel_tools), "tools")
    if request.format is None:
        return None
    answer = grammar(request.format)
    if request.messages is None:
        return masks.mask([answer], "response_format")
    return masks.mask(speech.answering(answer, opened=in_thought(request, tokenizer, prompt)), "response_format")


def in_thought(request: GenerateRequest, tokenizer: Tokenizer, prompt: list[int]) -> bool | None:
    """Whether the prompt ends inside a thought; None where the model may still begin one.

    Templates open thoughts, or close an empty one when there is to be none; and so may an answer that is to go on.
    """
    if request.continue_last and request.messages:
        said = str(request.messages[-1].get("content") or "")
        return said.rfind(OPEN) > said.rfind(CLOSE) if said else None
    texts = (tokenizer.specials.get(id, "").encode() or tokenizer.token_bytes(id) for id in prompt[-TAIL:])
    tail = b"".join(texts).rstrip()
    return True if tail.endswith(OPEN.encode()) else False if tail.endswith(CLOSE.encode()) else None
