"""How fast a slot answers: requests of one size over HTTP, each with a prompt that no other has."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from llmctl.checks.slot_http import SlotHttp, Timed
from llmctl.errors import UsageError

WORDS = (
    "harbour", "stone", "river", "lamp", "winter", "paper", "garden", "train", "silver", "window", "bread", "mountain",
    "yellow", "engine", "quiet", "letter", "orange", "bridge", "copper", "meadow", "signal", "velvet", "anchor",
    "thunder", "pocket", "marble", "candle", "forest", "ribbon", "saddle", "violin",
)  # fmt: skip
WARM_UPS = 2


@dataclass(frozen=True)
class Load:
    """What is asked: `requests`, of them `streams` at once, each of `prompt` tokens and `new` more."""

    requests: int = 8
    prompt: int = 128
    new: int = 64
    streams: int = 1


@dataclass(frozen=True)
class Speed:
    """What was seen.

    `prompt_tokens_per_second` is of prompts alone, from a request to its first text; `generation_tokens_per_second` is
    of one answer from there on (both are medians); `tokens_per_second` is of all answers over the whole time, prompts
    and waiting included. First-token times are seconds.
    """

    requests: int
    streams: int
    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    seconds: float
    prompt_tokens_per_second: float
    generation_tokens_per_second: float | None
    tokens_per_second: float
    first_token_p50: float
    first_token_p95: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(http: SlotHttp, load: Load) -> Speed:
    """Warm up, then measure. UsageError where the slot's prompts cannot be as long as asked."""
    prompts = _prompts(http, load.prompt, load.requests + WARM_UPS)
    for prompt in prompts[:WARM_UPS]:
        http.timed(prompt, min(load.new, 8))
    began = time.perf_counter()
    with ThreadPoolExecutor(load.streams, thread_name_prefix="bench") as pool:
        answers = list(pool.map(lambda prompt: http.timed(prompt, load.new), prompts[WARM_UPS:]))
    return summed(answers, time.perf_counter() - began, load)


def busy(http: SlotHttp, load: Load) -> None:
    """The same load without figures, for somebody who watches the engine."""
    prompts = _prompts(http, load.prompt, load.requests)
    with ThreadPoolExecutor(load.streams, thread_name_prefix="bench") as pool:
        list(pool.map(lambda prompt: http.timed(prompt, load.new), prompts))


def summed(answers: Sequence[Timed], seconds: float, load: Load) -> Speed:
    """The figures of what was seen in `seconds`."""
    first = sorted(one.first for one in answers)
    running = [(one.new - 1) / (one.seconds - one.first) for one in answers if one.new > 1 and one.seconds > one.first]
    return Speed(
        requests=len(answers),
        streams=load.streams,
        prompt_tokens=sum(one.prompt for one in answers),
        cached_tokens=sum(one.cached for one in answers),
        new_tokens=sum(one.new for one in answers),
        seconds=seconds,
        prompt_tokens_per_second=statistics.median((one.prompt - one.cached) / one.first for one in answers),
        generation_tokens_per_second=statistics.median(running) if running else None,
        tokens_per_second=sum(one.new for one in answers) / seconds,
        first_token_p50=statistics.median(first),
        first_token_p95=first[max(0, -(-len(first) * 95 // 100) - 1)],
    )


def _prompts(http: SlotHttp, tokens: int, count: int) -> list[list[int]]:
    """Prompts of exactly `tokens` ids, which differ from their beginning on, so that no cache shortens them."""
    found = []
    for number in range(count):
        salt = [WORDS[(number // len(WORDS) ** place + number * place) % len(WORDS)] for place in range(3)]
        words = salt + [WORDS[(at * (number + 1) + number) % len(WORDS)] for at in range(tokens)]
        found.append(http.tokenized(" ".join(words))[:tokens])
    if any(len(ids) < tokens for ids in found):
        raise UsageError(f"a prompt of {tokens} tokens cannot be made", hint="a smaller --prompt")
    return found
