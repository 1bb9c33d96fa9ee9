"""What a model can take: a request's prompt as token ids, and every limit that depends on the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmctl.domain import GenerateRequest, Identity, Tokenizer
from llmctl.engines.fim import fill
from llmctl.engines.tokenizer import strings
from llmctl.errors import RequestError

EXCEEDS = "exceeds the available context size of"  # words by which clients know that they must shorten a prompt
LONGEST_TOKEN = 256  # characters; vocabularies have runs of spaces and dashes of up to 128


def prompt_ids(request: GenerateRequest, tokenizer: Tokenizer, model: Identity) -> list[int]:
    """The prompt's tokens. A plain prompt is the client's own, special tokens included; a chat's content is text."""
    bounded(request, model)
    try:
        if request.messages is not None:
            return tokenizer.chat(
                request.messages,
                tools=offered(request),
                continue_last=request.continue_last,
                arguments=template_arguments(request),
            )
        if request.suffix is not None:
            return fill(request, tokenizer)
        if isinstance(request.prompt, str):
            return tokenizer.encode(request.prompt, special=True)
    except (TypeError, ValueError) as error:  # a lone surrogate, say
        raise RequestError(f"this is no text that can be tokenized: {error}", param=field_of(request)) from error
    return list(request.prompt or ())


def bounded(request: GenerateRequest, model: Identity) -> None:
    """Refuse a text far over the context before it is tokenized: megabytes would hold up everyone else's tokens."""
    said = [request.messages, offered(request)] if request.messages is not None else [request.prompt, request.suffix]
    size = sum(map(len, strings(said)))
    if size > LONGEST_TOKEN * model.context:
        at_least = f"the prompt has at least {size // LONGEST_TOKEN} tokens: it {EXCEEDS} {model.context}"
        raise too_long(at_least, field_of(request), max_context=model.context)


def offered(request: GenerateRequest) -> tuple[Mapping[str, Any], ...]:
    """The tools that the template is told of."""
    return request.tools if request.tool_choice != "none" else ()


def template_arguments(request: GenerateRequest) -> dict[str, Any]:
    """What a request says of thinking, under the names that chat templates know."""
    wanted = {"enable_thinking": request.thinking, "thinking": request.thinking, "reasoning_effort": request.effort}
    return {name: value for name, value in wanted.items() if value is not None}


def field_of(request: GenerateRequest) -> str:
    """The name of the field that holds the prompt."""
    return "messages" if request.messages is not None else "prompt"


def validate(request: GenerateRequest, prompt: Sequence[int], model: Identity) -> None:
    """RequestError, naming the field, for what this model cannot take."""
    field = field_of(request)
    if not prompt:
        raise RequestError("the prompt is empty", param=field)
    in_vocabulary(prompt, field, model)
    in_vocabulary(request.stop_ids, "stop_token_ids", model)
    in_vocabulary([id for id, _ in request.sampling.logit_bias], "logit_bias", model)
    if len(prompt) >= model.context:
        message = f"the prompt has {len(prompt)} tokens: with an answer it {EXCEEDS} {model.context}"
        raise too_long(message, field, max_context=model.context, input_length=len(prompt))
    if request.max_tokens is not None and request.max_tokens > model.context:
        raise too_long(f"max_tokens is {request.max_tokens}; the context is {model.context}", "max_tokens")
    if request.sampling.repetition_penalty <= 0:
        raise RequestError("repetition_penalty must be greater than 0", param="repetition_penalty")


def budget(request: GenerateRequest, prompt: Sequence[int], model: Identity) -> int:
    """How many tokens each sequence may generate: what was asked for, at most what the context leaves."""
    room = model.context - len(prompt)
    return room if request.max_tokens is None else min(request.max_tokens, room)


def in_vocabulary(ids: Sequence[int], param: str, model: Identity) -> None:
    """RequestError, naming the field, for an id that is no token of this model."""
    for id in ids:
        if not 0 <= id < model.vocab:
            raise RequestError(f"token id {id} is not in the vocabulary of {model.vocab}", param=param)


def too_long(message: str, param: str, **numbers: int) -> RequestError:
    """The error for more tokens than the context has; `message` has both numbers, `numbers` are for programs."""
    return RequestError(message, param=param, code="context_length_exceeded", details=numbers)
