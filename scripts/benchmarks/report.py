"""What a measurement is, and docs/benchmarks.md made of all of them (docs/benchmarks.json keeps them between runs)."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
LIBRARIES = ("torch", "transformers", "xllamacpp", "openvino-genai", "mlx-lm", "uvicorn", "typer")


@dataclass(frozen=True)
class Row:
    """One figure: its median over `runs`, the lowest and highest seen, and the goal it is held against."""

    what: str
    value: float
    low: float
    high: float
    runs: int
    goal: str
    met: bool
    how: str

    def line(self) -> str:
        """For the terminal."""
        verdict = f"; goal {self.goal}: {'met' if self.met else 'NOT met'}" if self.goal else ""
        return f"{self.what}: {show(self.value)} ({show(self.low)} to {show(self.high)}, {self.runs} runs){verdict}"


def row(what: str, values: Sequence[float], goal: str, how: str) -> Row:
    """A Row of `values`; `goal` is "≤ 1.15", "≥ 0.95" or "0.85 – 1.15", met by the median, or "": just told."""
    middle = statistics.median(values)
    return Row(what, middle, min(values), max(values), len(values), goal, reached(goal, middle), how)


def reached(goal: str, value: float) -> bool:
    """Whether `value` is within `goal`."""
    if not goal:
        return True
    first, second, *rest = goal.split()
    if second == "–":
        return float(first) <= value <= float(rest[0])
    return value <= float(second) if first == "≤" else value >= float(second)


def show(value: float) -> str:
    """Three figures, whole above a thousand."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def write(name: str, rows: Sequence[Row]) -> None:
    """Keep the rows of benchmark `name` and write the page anew."""
    path = DOCS / "benchmarks.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[name] = {"date": datetime.date.today().isoformat(), "machine": machine(), "rows": [asdict(r) for r in rows]}
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    (DOCS / "benchmarks.md").write_text(page(kept))


def page(kept: dict[str, dict[str, object]]) -> str:
    """The Markdown page."""
    lines = [
        "# Benchmarks",
        "",
        "Made by `scripts/bench`; do not edit. Each figure is a median with the lowest and highest run. What is",
        "compared runs alternately, in one session, under the same client load, on a shared two-core machine without",
        "an accelerator: read the ratios, not the absolute figures. Rows without a goal are told for their own sake.",
    ]
    if "cuda" not in kept:
        lines += ["", "No CUDA GPU was there; `python -m scripts.benchmarks.cuda` is for the torch engine on one."]
    for name, part in kept.items():
        lines += ["", f"## {name}", "", f"{part['date']} · {part['machine']}", ""]
        lines += ["| what | goal | seen | range | runs | met |", "|---|---|---|---|---|---|"]
        rows = [Row(**r) for r in part["rows"]]  # type: ignore[attr-defined]
        for r in rows:
            met = ("yes" if r.met else "**no**") if r.goal else ""
            lines.append(
                f"| {r.what} | {r.goal} | {show(r.value)} | {show(r.low)} – {show(r.high)} | {r.runs} | {met} |"
            )
        lines += ["", *(f"- {r.what}: {r.how}" for r in rows)]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """The machine in public terms: chip, cores, memory, system and versions; no names, no addresses."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    chip = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    stack = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"{chip}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python " \
        f"{platform.python_version()}, {stack}"  # fmt: skip
