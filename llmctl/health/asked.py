"""One slot asked for a short greedy answer, as a client asks it, with a deadline over the whole of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from llmctl.checks.slot_http import Said, SlotHttp
from llmctl.domain import TEXT, Probe
from llmctl.errors import LlmctlError
from llmctl.health.seen import Generation

ODD = 8
"""Characters of an answer from which on it may not be one character over and over."""
LEAST = 0.1
FULL = "queue_full"
ANYTHING = Probe().prompt


def generation(http: SlotHttp, probe: Probe) -> Generation:
    """What the slot answers to its model's probe, or why that is no answer; `http.timeout` is for all of it.

    `busy` is told of one that may have had no time for it.
    """
    began, patience = time.monotonic(), http.timeout

    def left() -> float:
        return max(LEAST, patience - (time.monotonic() - began))

    try:
        model, writes = http.models()[0], TEXT in http.modalities().get("output", (TEXT,))
        http.timeout = left()
        if not writes:
            why = "" if any(http.numbers(probe.prompt)) else "its numbers are all zero"
            return Generation(why, seconds=time.monotonic() - began, model=model)
        said = _said(http, probe)
    except LlmctlError as error:
        late = left() <= LEAST
        why = f"no answer within {patience:g} s" if late else error.message
        return Generation(why, seconds=time.monotonic() - began, busy=late or error.code == FULL)
    return Generation(fault(probe, said.text), said.first, said.rate, said.count, said.seconds, said.model or model)


def through(http: SlotHttp, handles: Sequence[str]) -> Generation:
    """One token of the first of `handles` that the gateway lists, asked through it; none of them: it lists what it has.

    What a token is like is its slot's own check. A slot that refuses the question has answered it, too.
    """
    began, patience, handle = time.monotonic(), http.timeout, None
    why, first = "", None
    try:
        listed = http.models()
        handle = next((name for name in handles if name in listed), None)
        if handle is not None:
            http.timeout = max(LEAST, patience - (time.monotonic() - began))
            first = _first(http, handle)
    except LlmctlError as error:
        why = error.message
    return Generation(why, first, seconds=time.monotonic() - began, model=handle)


def _first(http: SlotHttp, handle: str) -> float | None:
    """Seconds to the only token; None where the slot's model does not chat."""
    began = time.monotonic()
    try:
        http.streamed(ANYTHING, 1, model=handle)
    except LlmctlError as error:
        if error.details.get("status") not in (400, 422):
            raise
        return None
    return time.monotonic() - began


def fault(probe: Probe, text: str) -> str:
    """Why this is no answer of a working model; empty when it may be one. The text itself is not told."""
    if not text.strip():
        return "it generates nothing"
    if probe.expect is not None and probe.expect.casefold() not in text.casefold():
        return "it answers its own question wrong"
    if len(text) >= ODD and len(set(text.strip())) == 1:
        return "it repeats one character"
    return ""


def _said(http: SlotHttp, probe: Probe) -> Said:
    try:
        return http.streamed(probe.prompt, probe.max_tokens)
    except LlmctlError as error:
        http.without_chat(error)
    return http.streamed(probe.prompt, probe.max_tokens)
