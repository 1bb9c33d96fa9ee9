"""How fast a server answers requests of one size: warmed up, measured again and again, beside another in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from llmctl.checks.bench_client import Prompt, Server, Timed, Way, same_model
from llmctl.checks.bench_prompts import Prompts
from llmctl.errors import UsageError

REQUESTS = 8
WARM_UPS = 2
WARM_TOKENS = 8
RATES = ("prompt_tokens_per_second", "generation_tokens_per_second", "tokens_per_second")
TIMES = ("first_token_p50", "first_token_p95")
FIGURES = (*RATES, *TIMES)


@dataclass(frozen=True)
class Load:
    """What is asked: `requests`, of them `streams` at once, each of `prompt` tokens and `new` more."""

    requests: int = REQUESTS
    prompt: int = 128
    new: int = 64
    streams: int = 1


@dataclass(frozen=True)
class Speed:
    """What was seen in one run.

    `prompt_tokens_per_second` is of prompts alone, from a request to its first text; `generation_tokens_per_second` is
    of one answer from there on (both are medians, None where nobody can tell); `tokens_per_second` is of all answers
    over the whole time, prompts and waiting included. First-token times are seconds. `counted`: the server told the
    tokens. `model` is what it called itself.
    """

    requests: int
    streams: int
    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    seconds: float
    prompt_tokens_per_second: float | None
    generation_tokens_per_second: float | None
    tokens_per_second: float
    first_token_p50: float
    first_token_p95: float
    counted: bool = True
    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def grid(streams: Sequence[int], prompts: Sequence[int], news: Sequence[int], requests: int | None) -> list[Load]:
    """Every combination, once. Without `requests` there are eight, or two for each stream where that is more."""
    loads = [
        Load(requests or max(REQUESTS, 2 * at_once), prompt, new, at_once)
        for at_once, prompt, new in product(*map(dict.fromkeys, (streams, prompts, news)))
    ]
    if requests and requests < max(streams):
        raise UsageError(
            f"{requests} requests cannot be {max(streams)} at once", hint=f"--requests {max(streams)}, or leave it out"
        )
    return loads


def turns(runs: int) -> list[int]:
    """Who is measured when, of two: 0 1 1 0 0 1 …, so that a machine that slows down slows both."""
    return [who for run in range(runs) for who in ((0, 1) if run % 2 == 0 else (1, 0))]


def warm_up(server: Server, prompts: Prompts, load: Load, way: Way) -> None:
    """As many requests at once as will be, short ones."""
    count = max(WARM_UPS, load.streams)
    _all(server, prompts.some(load.prompt, count), min(load.new, WARM_TOKENS), load.streams, way)


def measure(server: Server, prompts: Sequence[Prompt], load: Load, way: Way) -> Speed:
    """One run of `load` with these prompts."""
    began = time.perf_counter()
    answers = _all(server, prompts, load.new, load.streams, way)
    seconds = time.perf_counter() - began
    same_model(answers, server.name)
    return summed(answers, seconds, load)


def busy(server: Server, prompts: Prompts, load: Load, way: Way) -> None:
    """The same load without figures, for somebody who watches the engine."""
    _all(server, prompts.some(load.prompt, load.requests), load.new, load.streams, way)


def summed(answers: Sequence[Timed], seconds: float, load: Load) -> Speed:
    """The figures of what was seen in `seconds`."""
    first = sorted(one.first for one in answers)
    running = [(one.new - 1) / (one.seconds - one.first) for one in answers if one.new > 1 and one.seconds > one.first]
    prompts = [(one.prompt - one.cached) / one.first for one in answers if one.prompt and one.first]
    return Speed(
        requests=len(answers),
        streams=load.streams,
        prompt_tokens=sum(one.prompt for one in answers),
        cached_tokens=sum(one.cached for one in answers),
        new_tokens=sum(one.new for one in answers),
        seconds=seconds,
        prompt_tokens_per_second=statistics.median(prompts) if prompts else None,
        generation_tokens_per_second=statistics.median(running) if running else None,
        tokens_per_second=sum(one.new for one in answers) / seconds,
        first_token_p50=statistics.median(first),
        first_token_p95=first[max(0, -(-len(first) * 95 // 100) - 1)],
        counted=all(one.counted for one in answers),
        model=answers[0].model,
    )


def spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """Median, lowest and highest of several runs; None where one of them could not tell."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return {"median": statistics.median(known), "low": min(known), "high": max(known)}


def figures(runs: Sequence[Speed]) -> dict[str, dict[str, float] | None]:
    """Each figure over all runs."""
    return {name: spread([getattr(run, name) for run in runs]) for name in FIGURES}


def ratios(ours: Sequence[Speed], other: Sequence[Speed]) -> dict[str, dict[str, float] | None]:
    """Run by run, ours over the other's; above 1 ours is the faster, also where seconds are compared."""
    return {name: spread([_ratio(name, a, b) for a, b in zip(ours, other, strict=True)]) for name in FIGURES}


def _ratio(name: str, ours: Speed, other: Speed) -> float | None:
    top, bottom = getattr(ours, name), getattr(other, name)
    if name in TIMES:
        top, bottom = bottom, top
    return top / bottom if top is not None and bottom else None


def _all(server: Server, prompts: Sequence[Prompt], new: int, streams: int, way: Way) -> list[Timed]:
    """An answer to each, `streams` at once; the first error ends it, and nothing more is asked."""
    with ThreadPoolExecutor(streams, thread_name_prefix="bench") as pool:
        waiting = [pool.submit(server.timed, prompt, new, way) for prompt in prompts]
        try:
            return [one.result() for one in waiting]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
