"""The mask of a request's answer: what its format, or a call that it must make, leaves of each next token."""

from __future__ import annotations

from llmctl.decoding.structured import GrammarMask, Masks, grammar
from llmctl.domain import GenerateRequest, Tokenizer


def mask_of(masks: Masks, tokenizer: Tokenizer, request: GenerateRequest, prompt: list[int]) -> GrammarMask | None:
    """A new mask for one sequence of the request; None when it may say anything."""
    if request.format is None:
        return None
    return masks.mask([grammar(request.format)], "response_format")
