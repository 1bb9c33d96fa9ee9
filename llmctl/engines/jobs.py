"""What the batch loop has in hand: a request, a prompt being computed, a sequence that gets tokens, an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmctl.domain import GenerateRequest, Usage
from llmctl.engines.sequence import Sequence
from llmctl.errors import LlmctlError


@dataclass(eq=False)
class Job:
    """One accepted request. `waiting` are its sequences that have not begun, `left` counts the unfinished."""

    request: GenerateRequest
    prompt: list[int]
    waiting: list[Sequence]
    left: int
    handle: int | None  # opened when the request was checked; its first prefill takes it over
    seen: Any = None  # what the engine made of the request's media
    completion: int = 0
    cached: int | None = None  # not known before its first sequence begins
    drafted: int = 0
    agreed: int = 0
    deadline: float | None = None

    @property
    def usage(self) -> Usage:
        return Usage(len(self.prompt), self.completion, self.cached or 0, self.drafted, self.agreed)


@dataclass(eq=False)
class Prefill:
    """A prompt being computed, `done` tokens of it, for the first of `sequences`; the others will be forked."""

    job: Job
    sequences: list[Sequence]
    handle: int | None
    done: int = 0


@dataclass(eq=False)
class Piece:
    """The next tokens of a prompt, which one pass computes."""

    work: Prefill
    handle: int
    tokens: list[int]


@dataclass(eq=False)
class Running:
    """A sequence that gets a token with every step; `history` are its tokens with the prompt's, where drafts are made
    for it."""

    job: Job
    sequence: Sequence
    handle: int
    history: list[int] | None = None


def as_error(error: Exception) -> LlmctlError:
    """A typed error stays; running out of memory and all else get a code of their own."""
    if isinstance(error, LlmctlError):
        return error
    memory = isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)
    typed = LlmctlError(f"{type(error).__name__}: {error}")
    typed.code = "out_of_memory" if memory else "engine_failed"
    return typed


def reason(error: Exception) -> str:
    """What a library said, in a line; that there was no memory is raised as such instead."""
    if (typed := as_error(error)).code == "out_of_memory":
        raise typed from error
    return " ".join(str(error).split()) or type(error).__name__
