"""The verdict of a soak, and docs/soak.md made of it (docs/soak.json keeps the runs)."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmctl.logs import LARGEST, LONGEST_LINE
from scripts.soaking.look import Sample
from scripts.soaking.traffic import IMAGE, PLAIN, STREAM, Outcome
from scripts.soaking.trend import BROKEN, UNDECIDED, Row, at_most, blocks, drift, flat, memory, percentile

DOCS = Path(__file__).parents[2] / "docs"
MARKS = ("<!-- results: made by scripts/soak -->\n", "<!-- end -->\n")
WARM = 900.0
"""Seconds after which everything that is made once has been made; of a short run a third."""
BLOCK = 60.0
FEWEST = 50
"""Answers below which a 99th of 100 says nothing."""
LOG = (LARGEST + 2 * LONGEST_LINE) / 1e6
COUNTS = {
    "descriptors": "open descriptors of the slot server", "threads": "its threads", "children": "processes below it",
    "temporary": "temporary files", "series": "series of /metrics",
}  # fmt: skip


@dataclass(frozen=True)
class Soak:
    """One run. `swap_every` and `minutes` are what was asked; `failed` tells swaps that failed or cut an
    answer, and what ended the run early."""

    engine: str
    minutes: float
    rate: float
    swap_every: float
    swaps: int
    failed: Sequence[str]
    outcomes: Sequence[Outcome] = field(repr=False)
    samples: Sequence[Sample] = field(repr=False)
    looked: int = 0

    @property
    def warm(self) -> float:
        return min(WARM, self.minutes * 60 / 3)


def judged(run: Soak) -> list[Row]:
    """Row K, figure by figure."""
    lost = [one for one in run.outcomes if one.lost]
    warm = [sample for sample in run.samples if sample.at >= run.warm and sample.steady]
    found = [
        at_most("requests lost", len(lost), 0),
        at_most("swaps that failed or cut an answer, and other mishaps", len(run.failed), 0),
        at_most("engines that died", max((sample.crashes for sample in run.samples), default=0), 0),
        at_most("zombies that stayed", len(zombies(run.samples)), 0),
        at_most("largest log file", max((sample.log for sample in run.samples), default=0) / 1e6, round(LOG, 2), " MB"),
    ]
    if not warm:
        return [*found, Row("everything else", "the run was too short for one look", "", UNDECIDED)]
    found.append(memory("memory of the slot server", blocks([(s.at, s.memory) for s in warm], BLOCK)))
    for model, points in sorted(lives(warm, run.swap_every).items()):
        found.append(memory(f"memory of {model}'s engines, each at its end", points))
    for name, what in COUNTS.items():
        found.append(flat(what, blocks([(s.at, getattr(s, name)) for s in warm], BLOCK)))
    return [*found, *late(run)]


def zombies(samples: Sequence[Sample]) -> set[int]:
    """Those that were seen in two looks, one after the other: every child is one for a moment."""
    return {pid for one, two in itertools.pairwise(samples) for pid in one.zombies & two.zombies}


def lives(samples: Sequence[Sample], swap_every: float) -> dict[str, list[tuple[float, float]]]:
    """The last memory of each engine that lived at least half of its time, by model."""
    ends: dict[tuple[str, int], list[Sample]] = {}
    for sample in samples:
        if sample.model and sample.engine and sample.engine_memory:
            ends.setdefault((sample.model, sample.engine), []).append(sample)
    found: dict[str, list[tuple[float, float]]] = {}
    for (model, _), seen in ends.items():
        if seen[-1].at - seen[0].at >= swap_every / 2:
            found.setdefault(model, []).append((seen[-1].at, float(seen[-1].engine_memory)))
    return found


def late(run: Soak) -> list[Row]:
    """How long answers took at the 99th of 100, block by block between swaps, and whether that became worse."""
    points = []
    for block, seconds in sorted(_blocks(run, (STREAM, PLAIN)).items()):
        models = [s.model for s in run.samples if s.model and s.at // run.swap_every == block]
        if len(seconds) >= FEWEST and models:
            points.append(((block + 0.5) * run.swap_every, percentile(seconds, 0.99), statistics.mode(models)))
    rows = [drift("p99 of text, from when it was due", points)] if points else []
    if pictures := [seconds for found in _blocks(run, (IMAGE,)).values() for seconds in found]:
        rows.append(Row("p99 of pictures", f"{percentile(pictures, 0.99) * 1000:.0f} ms", "told", "told"))
    return rows


def _blocks(run: Soak, kinds: Iterable[str]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for one in run.outcomes:
        if one.kind in kinds and not one.lost and one.at >= run.warm:
            found.setdefault(int(one.at // run.swap_every), []).append(one.seconds)
    return found


def result(run: Soak, rows: Sequence[Row], date: str, machine: str, counts: dict[str, int]) -> dict[str, Any]:
    """As JSON."""
    return {
        "date": date, "machine": machine, "engine": run.engine, "minutes": run.minutes, "rate": run.rate,
        "swap_every": run.swap_every, "swaps": run.swaps, "requests": counts, "looked": run.looked,
        "warm_up": run.warm, "rows": [asdict(row) for row in rows],
        "lost": [one.lost for one in run.outcomes if one.lost][:20], "failed": list(run.failed)[:20],
    }  # fmt: skip


def broken(rows: Sequence[Row]) -> bool:
    """Whether a limit did not hold."""
    return any(row.verdict == BROKEN for row in rows)


def text(found: dict[str, Any]) -> str:
    """One run as Markdown."""
    requests = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found["requests"].items()))
    swaps, every = found["swaps"], found["swap_every"]
    lines = [
        f"### {found['engine']}, {found['minutes']:g} minutes", "", f"{found['date']} · {found['machine']}", "",
        f"{found['rate']:g} requests/s ({requests}; {found['looked']:,} pictures were looked at), {swaps} swaps, one "
        f"every {every:g} s; figures are of the time after the first {found['warm_up'] / 60:.3g} minutes.", "",
        "| what | seen | limit | |", "|---|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {row['what']} | {row['seen']} | {row['limit']} | {_mark(row['verdict'])} |" for row in found["rows"]]
    told = [*found["lost"], *found["failed"]]
    return "\n".join([*lines, *([""] if told else []), *(f"- `{line[:200]}`" for line in told)]) + "\n"


def _mark(verdict: str) -> str:
    return f"**{verdict}**" if verdict == BROKEN else verdict


def write(found: dict[str, Any], docs: Path = DOCS) -> None:
    """Keep a run, the last of its engine and length, and make the page's section anew."""
    path, page = docs / "soak.json", docs / "soak.md"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept[f"{found['engine']} {found['minutes']:g}"] = found
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    before, begin, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise ValueError(f"{page} has no place for the results: {MARKS[0].strip()} … {MARKS[1].strip()}")
    page.write_text(before + begin + "\n".join(text(one) for one in kept.values()) + end + after, encoding="utf-8")
