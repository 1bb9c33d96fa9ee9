"""Two kept measurements side by side, cell by cell; refused where they did not do the same work. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl.checks.bench import FIGURES, RATES, TIMES
from llmctl.errors import Refused

LOAD = ("streams", "prompt", "new", "requests")
HEAD = ("model", "engine", "format", "backend", "chip", "context", "parallel", "versions")

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Compared:
    """`rows` has a cell each: its load, and per figure {first, second, ratio, low, high}; ratios are the second over
    the first, and above 1 the second is faster. `differ` names what else is not the same, `slower` the rates below the
    limit."""

    first: Mapping[str, Any]
    second: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    differ: Sequence[str]
    slower: Sequence[str]


def compared(first: Mapping[str, Any], second: Mapping[str, Any], fail_below: float | None = None) -> Compared:
    """Refused where a load of one is missing in the other. With `fail_below`, prompt, generation and overall rates are
    held against that part of the first's; times to the first token are shown, and judge nothing."""
    ones, others = _by_load(first), _by_load(second)
    if ones.keys() != others.keys():
        only = [
            f"only {side['id']} has {', '.join(map(_told, alone))}"
            for side, alone in ((first, [*ones.keys() - others.keys()]), (second, [*others.keys() - ones.keys()]))
            if alone
        ]
        raise Refused(f"these are not the same load: {'; '.join(only)}", hint="llmctl bench run with the same lists")
    rows = [{**dict(zip(LOAD, load, strict=True)), **_row(ones[load], others[load])} for load in ones]
    slower = [
        f"{name} at {_told([row[key] for key in LOAD])}: {row[name]['ratio']:.3f}"
        for row in rows
        for name in RATES
        if fail_below is not None and row[name] and row[name]["ratio"] < fail_below
    ]
    return Compared(_head(first), _head(second), rows, _differ(first, second), slower)


def _row(one: Cell, other: Cell) -> dict[str, Any]:
    return {name: _figure(name, one[name], other[name]) for name in FIGURES}


def _figure(name: str, one: Cell | None, other: Cell | None) -> dict[str, float] | None:
    """The ratio of the medians, and the furthest that the ranges of both allow."""
    if not one or not other:
        return None
    top, bottom = (one, other) if name in TIMES else (other, one)
    if not all((bottom["median"], bottom["low"], bottom["high"])):
        return None
    return {
        "first": one["median"], "second": other["median"], "ratio": top["median"] / bottom["median"],
        "low": top["low"] / bottom["high"], "high": top["high"] / bottom["low"],
    }  # fmt: skip


def _by_load(data: Mapping[str, Any]) -> dict[tuple[int, ...], Cell]:
    return {tuple(cell[key] for key in LOAD): cell for cell in data["cells"]}


def _told(load: Sequence[int]) -> str:
    streams, prompt, new, requests = load
    return f"{requests} requests of {prompt} + {new} tokens, {streams} at once"


def _head(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: data.get(key) for key in ("id", "at", "model", "engine")}


def _differ(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: {first.get(key)} and {second.get(key)}"
        for key in HEAD
        if first.get(key) != second.get(key)
    ]  # fmt: skip
