"""What `llmctl bench` shows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from llmctl.render.text import Table, View, duration, escaped, plain_table

Cell = Mapping[str, Any]
SHORT = {
    "prompt_tokens_per_second": "prompt t/s",
    "generation_tokens_per_second": "answer t/s",
    "tokens_per_second": "all t/s",
    "first_token_p50": "first p50",
    "first_token_p95": "first p95",
}


def _run(data: Mapping[str, Any]) -> str:
    where = f"{data['host']}:{data['port']}" + (" (scratch)" if data["scratch"] else "")
    runs = data["cells"][0]["runs"]
    about = f"{where}  {data['model']} · {data['engine']} · medians of {runs} runs, lowest to highest"
    lines = [about, "", plain_table(_cells(data["cells"]))]
    if data["other"]:
        lines += ["", f"compared with {_named(data)}; above 1 {data['host']}:{data['port']} is the faster:"]
        lines += ["", plain_table(_ratios(data["cells"]))]
    lines += ["", *_notes(data)] if _notes(data) else []
    lines += _profile(data["profile"]) if data["profile"] else []
    return "\n".join([*lines, *([f"→ {data['id']}"] if data.get("id") else [])])


def _named(data: Mapping[str, Any]) -> str:
    model = data["cells"][0]["other"]["model"]
    return escaped(f"{data['other']} ({model})" if model else str(data["other"]))


def _cells(cells: Sequence[Cell]) -> Table:
    headers = [*_LOAD, *(name.upper() for name in SHORT.values()), "ROOFLINE", "J/TOKEN"]
    rows = [
        [
            *_load(cell), *(_spread(cell[name], "first" in name) for name in SHORT),
            _share(cell["roofline_share"]), _spread(cell["joules_per_token"], False),
        ]
        for cell in cells
    ]  # fmt: skip
    return Table(headers, rows, headers)


_LOAD = ("STREAMS", "PROMPT", "NEW", "REQUESTS")


def _load(cell: Cell) -> list[str]:
    return [str(cell[key]) for key in ("streams", "prompt", "new", "requests")]


def _ratios(cells: Sequence[Cell]) -> Table:
    headers = [*_LOAD[:3], *(name.upper().replace(" T/S", "") for name in SHORT.values())]
    rows = [[*_load(cell)[:3], *(_spread(cell["ratio"][name], False, 2) for name in SHORT)] for cell in cells]
    return Table(headers, rows, headers)


def _spread(found: Mapping[str, float] | None, seconds: bool, digits: int = 1) -> str:
    """The median with its range; times in milliseconds."""
    if not found:
        return "-"
    scale, digits = (1000, 0) if seconds else (1, digits)
    middle, low, high = (f"{found[key] * scale:.{digits}f}" for key in ("median", "low", "high"))
    unit = " ms" if seconds else ""
    return f"{middle}{unit}" if low == high else f"{middle}{unit} ({low}–{high})"


def _share(found: Mapping[str, float] | None) -> str:
    return f"{found['median']:.0%} ({found['low']:.0%}–{found['high']:.0%})" if found else "-"


def _notes(data: Mapping[str, Any]) -> list[str]:
    """What must be known to believe the figures, each once."""
    notes = [*_of_side(data["cells"], "")]
    first = data["cells"][0]
    if first["bandwidth"]:
        rates = [cell["bandwidth"]["median"] for cell in data["cells"] if cell["bandwidth"]]
        notes.append(
            f"roofline: {data['weights_bytes'] / 1e6:.1f} MB of weights, {max(rates) / 1e9:.1f} GB/s of memory"
        )
    notes += [f"no roofline: {first['roofline_why']}"] if first["roofline_why"] else []
    notes += [f"no energy: {first['energy_why']}"] if first["energy_why"] else []
    notes += [f"not in the history: {data['history']}"] if data.get("history") else []
    if data["other"]:
        notes += _of_side([cell["other"] for cell in data["cells"]], "the other: ")
        if first["other"]["model"] not in ("", data["model"]):
            notes.append(f"the other calls its model {escaped(first['other']['model'])}")
        ours, its = first["prompt_tokens"], first["other"]["prompt_tokens"]
        if its and abs(ours - its) > 2:
            notes.append(f"the same prompt is {ours} tokens here and {its} there: compare seconds, not tokens")
    return notes


def _of_side(cells: Sequence[Cell], who: str) -> list[str]:
    notes = []
    if cached := sum(cell["cached_tokens"] for cell in cells):
        notes.append(f"{who}{cached} prompt tokens were not computed again")
    if not all(cell["counted"] for cell in cells):
        notes.append(f"{who}the server counts no tokens: pieces of text were counted instead")
    if any(cell["short"] for cell in cells):
        notes.append(f"{who}some answers were shorter than asked")
    return notes


def _profile(found: Mapping[str, Any]) -> list[str]:
    idle = "" if found["idle"] is None else f", {found['idle']:.0%} of it without work"
    rows = [f"{row['seconds']:9.3f} s  {row['share']:4.0%}  {escaped(row['name'])}" for row in found["top"]]
    return ["", f"by {found['way']}, {found['seconds']:.1f} s{idle}:", *rows, f"→ {found['path']}"]


def _list(data: Mapping[str, Any]) -> str | Table:
    if not data["results"]:
        return "nothing was measured yet"
    headers = ["ID", "AGE", "HOST", "PORT", "MODEL", "ENGINE", "STREAMS", "PROMPT", "NEW", "BESIDE"]
    rows = [
        [
            row["id"], duration(max(0.0, time.time() - row["at"])), row["host"], str(row["port"]), row["model"],
            row["engine"], *(_some(row["loads"], key) for key in ("streams", "prompt", "new")),
            escaped(row["other"] or "-"),
        ]
        for row in data["results"]
    ]  # fmt: skip
    return Table(headers, rows, ["AGE", "PORT"])


def _some(loads: Sequence[Mapping[str, Any]], key: str) -> str:
    return ",".join(dict.fromkeys(str(load[key]) for load in loads))


def _compare(data: Mapping[str, Any]) -> str:
    one, two = data["first"], data["second"]
    headers = [*_LOAD[:3], "FIGURE", one["id"], two["id"], "RATIO", "RANGE"]
    rows = []
    for row in data["rows"]:
        for name, short in SHORT.items():
            if found := row[name]:
                unit = (1000, 0) if "first" in name else (1, 1)
                values = [f"{found[key] * unit[0]:.{unit[1]}f}" for key in ("first", "second")]
                ratio = f"{found['ratio']:.3f}"
                rows.append([*_load(row)[:3], short, *values, ratio, f"{found['low']:.2f}–{found['high']:.2f}"])
    table = Table(headers, rows, [*_LOAD[:3], *headers[4:]])
    lines = [plain_table(table), "", "above 1 the second is the faster; times are in ms"]
    lines += [f"not the same: {text}" for text in data["differ"]]
    return "\n".join([*lines, *(f"too slow: {text}" for text in data["slower"])])


VIEWS: dict[str, View] = {"bench run": _run, "bench show": _run, "bench list": _list, "bench compare": _compare}
