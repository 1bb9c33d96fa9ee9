"""What a request cost, read from the end of its answer, whatever its protocol; else counted by its events. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TAIL = 8192
"""Bytes of an answer's end that may tell what it cost."""
_SLOT = re.compile(rb"^: usage (\{[^{}]*\})$", re.MULTILINE)
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_COUNT = {
    name: re.compile(rb'"%b"\s*:\s*(\d{1,12})' % name.encode())
    for name in ("prompt_eval_count", "eval_count", "tokens_out", "input_tokens")
}
PROMPT, COMPLETION = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")


@dataclass(frozen=True)
class Usage:
    """Tokens of a prompt and of its answer; `estimated` where nobody counted them."""

    prompt: int = 0
    completion: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    def cost(self, price: tuple[float, float]) -> float:
        """By the prices of a million tokens."""
        return (self.prompt * price[0] + self.completion * price[1]) / 1e6


def of(head: bytes, tail: bytes, events: int, prompt: int) -> Usage:
    """Of an answer that began with `head` and ended with `tail`; `prompt` are the tokens that its prompt is taken for.
    A slot tells it in a comment, where the protocol has no place for it."""
    if found := _told(tail):
        if not found.prompt and (begun := _COUNT["input_tokens"].search(head)):  # Anthropic tells it at the beginning
            return Usage(int(begun[1]), found.completion)
        return found
    return Usage(prompt, max(0, events - 2), estimated=True)


def _told(tail: bytes) -> Usage | None:
    for said in [*_SLOT.findall(tail[-TAIL:]), *reversed(_USAGE.findall(tail[-TAIL:]))]:
        try:
            data = json.loads(said)
        except ValueError:
            continue
        if isinstance(data, dict):
            return Usage(_first(data, PROMPT), _first(data, COMPLETION))
    counts = {name: int(found[-1]) for name, form in _COUNT.items() if (found := form.findall(tail[-TAIL:]))}
    if "eval_count" in counts or "tokens_out" in counts:
        return Usage(counts.get("prompt_eval_count", 0), counts.get("eval_count", counts.get("tokens_out", 0)))
    return None


def _first(data: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return next((value for name in names if type(value := data.get(name)) is int), 0)
