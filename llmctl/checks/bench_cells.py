"""The cells of a measurement: one load each, over several runs, with what the machine could do at best beside it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl.backends import bandwidth
from llmctl.checks.bench import Load, Speed, figures, measure, ratios, spread, turns, warm_up
from llmctl.checks.bench_client import OWN, Server, Way, agreed
from llmctl.checks.bench_prompts import Prompts
from llmctl.errors import LlmctlError, Unsupported

Tell = Callable[[str], None]
Meter = Callable[[], Callable[[], float]]
"""Begins to measure energy; what it returns tells the joules since then. Unsupported where nobody can."""
PREFLIGHT = 16


@dataclass(frozen=True)
class Gauges:
    """What a run is held against: bytes that one token must read, the backend that reads them, a meter of joules. A
    text instead says why there is none."""

    weights: int | str
    backend: str
    energy: Meter | str


def cells(
    ours: Server, other: Server | None, loads: Sequence[Load], runs: int, gauges: Gauges, tell: Tell
) -> Iterator[dict[str, Any]]:
    """Measure each load; its figures as JSON: median, low and high of all runs. Raises where a server gives up."""
    prompts = Prompts(ours, texts=other is not None)
    way = agreed([ours, other], prompts.some(PREFLIGHT, 1)[0]) if other else OWN
    for load in loads:
        yield _cell(ours, other, prompts, load, runs, way, gauges, tell)


def _cell(
    ours: Server, other: Server | None, prompts: Prompts, load: Load, runs: int, way: Way, gauges: Gauges, tell: Tell
) -> dict[str, Any]:
    servers = [ours, other] if other else [ours]
    for server in servers:
        warm_up(server, prompts, load, way)
    seen: list[list[Speed]] = [[], []]
    rates, joules, made = [], [], prompts.some(load.prompt, load.requests)
    whys: dict[str, str] = {}
    for turn, who in enumerate(turns(runs) if other else [0] * runs):
        if turn and turn % len(servers) == 0:
            made = prompts.some(load.prompt, load.requests)  # two in turns get the same, and no one gets it twice
        if who == 0:
            tell(f"{load.streams} at once, {load.prompt} + {load.new} tokens: run {len(seen[0]) + 1} of {runs}")
            rates.append(_bandwidth(gauges, whys))
        stop = _meter(gauges, whys) if who == 0 else None
        seen[who].append(measure(servers[who], made, load, way))
        if stop:
            joules.append(_read(stop, whys))
    cell = {**_about(load, runs), **_seen(seen[0], load), **_physics(seen[0], rates, joules, gauges, whys)}
    if other:
        cell |= {"other": {"model": seen[1][0].model, **_seen(seen[1], load)}, "ratio": ratios(seen[0], seen[1])}
    return cell


def _about(load: Load, runs: int) -> dict[str, Any]:
    return {
        "streams": load.streams, "prompt": load.prompt, "new": load.new, "requests": load.requests, "runs": runs,
    }  # fmt: skip


def _seen(runs: Sequence[Speed], load: Load) -> dict[str, Any]:
    """The figures, and what must be known to believe them: tokens of a prompt as they were counted, how many were not
    computed again, whether answers were shorter than asked, and whether the server counted them."""
    return {
        **figures(runs),
        "prompt_tokens": round(statistics.median(run.prompt_tokens / run.requests for run in runs)),
        "cached_tokens": sum(run.cached_tokens for run in runs),
        "new_tokens": sum(run.new_tokens for run in runs),
        "short": any(run.new_tokens < run.requests * load.new for run in runs),
        "counted": all(run.counted for run in runs),
    }


def _physics(
    runs: Sequence[Speed], rates: Sequence[float | None], joules: Sequence[float | None], gauges: Gauges,
    whys: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Roofline and energy; None with the reason where there is none. Streams share one reading of the weights."""
    shares = [
        gauges.weights * run.generation_tokens_per_second / rate
        if rate and not isinstance(gauges.weights, str) and run.generation_tokens_per_second
        else None
        for run, rate in zip(runs, rates, strict=True)
    ]
    each = [used / run.new_tokens if used is not None else None for run, used in zip(runs, joules, strict=True)]
    share, energy = spread(shares), spread(each) if each else None
    return {
        "roofline_share": share,
        "bandwidth": spread(rates),
        "roofline_why": None if share else whys.get("roofline", "no answer has two tokens"),
        "joules_per_token": energy,
        "energy_why": None if energy else whys.get("energy"),
    }


def _bandwidth(gauges: Gauges, whys: dict[str, str]) -> float | None:
    if isinstance(gauges.weights, str):
        whys["roofline"] = gauges.weights
        return None
    try:
        return bandwidth.read(gauges.backend)
    except Unsupported as error:
        whys["roofline"] = error.message
        return None


def _meter(gauges: Gauges, whys: dict[str, str]) -> Callable[[], float]:
    def nothing() -> float:
        raise Unsupported(whys["energy"])

    if isinstance(gauges.energy, str):
        whys["energy"] = gauges.energy
        return nothing
    try:
        return gauges.energy()
    except LlmctlError as error:
        whys["energy"] = error.message
        return nothing


def _read(stop: Callable[[], float], whys: dict[str, str]) -> float | None:
    try:
        return stop()
    except LlmctlError as error:
        whys["energy"] = error.message
        return None


def measured(
    found: list[dict[str, Any]], ours: Server, other: Server | None, loads: Sequence[Load], runs: int, gauges: Gauges,
    tell: Tell,
) -> LlmctlError | None:  # fmt: skip
    """Add the cells to `found`; the error of a server that gave up after some were measured, else it is raised."""
    try:
        found.extend(cells(ours, other, loads, runs, gauges, tell))
    except LlmctlError as error:
        if not found:
            raise
        return error
    return None
