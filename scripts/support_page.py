"""docs/MODEL_SUPPORT.md: made of the proof bundles of test-models, which docs/model_support.json keeps."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
KEPT, PAGE = DOCS / "model_support.json", DOCS / "MODEL_SUPPORT.md"
HEAD = """\
# Which models run on which engines

Made by `scripts/model-support` from proof bundles of `llmctl test-models`, kept in `model_support.json`; do
not edit. Each cell was loaded by a slot of its own and asked: see [test-models](test-models.md) for what is checked.
`pass` and `fail` are what was seen; `skip` says why nothing was tried. What is not listed was never run.
"""
CELL = ("backend", "chip", "engine", "model", "format", "quantization")


def main(bundles: Sequence[Path]) -> int:
    """Read the bundles, write both files; the exit code."""
    if not bundles:
        print("error: no bundle was named\nhint: scripts/model-support ~/.llmctl/proof/test-models/*", file=sys.stderr)
        return 2
    try:
        kept = merged([read(bundle) for bundle in bundles])
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: this is no proof bundle of test-models: {error}", file=sys.stderr)
        return 1
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(kept), encoding="utf-8")
    return 0


def read(bundle: Path) -> dict[str, Any]:
    """The metadata of a bundle, and its rows, each with its date and the chip it ran on."""
    meta = json.loads((bundle / "metadata.json").read_text(encoding="utf-8"))
    first, *lines = (bundle / "rows.ndjson").read_text(encoding="utf-8").splitlines()
    if meta["type"] != "test-models" or json.loads(first)["_meta"] != "proof_bundle":
        raise ValueError(f"{bundle} is a bundle of {meta['type']}")
    rows = [json.loads(line) for line in lines]
    if any(not str(one["host"]).startswith("host-") for one in [*rows, *meta["subjects"]]):
        raise ValueError(f"{bundle} was made with --private")
    chips = {one["host"]: one["chip"] for one in meta["subjects"]}
    date = str(meta["began"])[:10]
    rows = [{**row, "chip": chips.get(row["host"], "unknown"), "date": date} for row in rows]
    return {"began": meta["began"], "date": date, "llmctl": meta["llmctl"], "subjects": meta["subjects"], "rows": rows}


def merged(bundles: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All bundles as one: of rows about the same cell the newest, and the engines that the newest ran on."""
    cells: dict[tuple[Any, ...], Any] = {}
    machines: dict[tuple[Any, ...], Any] = {}
    for bundle in sorted(bundles, key=lambda one: str(one["began"])):
        for one in bundle["subjects"]:
            said = {key: one[key] for key in ("backend", "chip", "engine", "versions")}
            machines[one["backend"], one["chip"], one["engine"]] = {**said, "date": bundle["date"]}
        for row in bundle["rows"]:
            cells[tuple(row[key] for key in CELL)] = {k: v for k, v in row.items() if k not in ("host", "seconds")}
    rows = sorted(cells.values(), key=lambda row: tuple(str(row[key]) for key in ("backend", "arch", *CELL)))
    return {"machines": [machines[key] for key in sorted(machines)], "rows": rows}


def page(kept: Mapping[str, Any]) -> str:
    """The page of what is kept."""
    lines = [HEAD, "## Machines", "", "| backend | machine | engine | versions | date |", "|---|---|---|---|---|"]
    for one in kept["machines"]:
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        lines.append(f"| {one['backend']} | {one['chip']} | {one['engine']} | {versions} | {one['date']} |")
    for backend, chip in dict.fromkeys((row["backend"], row["chip"]) for row in kept["rows"]):
        rows = [row for row in kept["rows"] if (row["backend"], row["chip"]) == (backend, chip)]
        lines += ["", f"## {backend}: {chip}", "", *_table(rows), "", "### Known issues", "", *_issues(rows)]
    return "\n".join([*lines, "", "## How to get them", "", *_pulls(kept["rows"])]) + "\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row for each model and format, a column for each engine."""
    engines = sorted({row["engine"] for row in rows})
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        found.setdefault((row["arch"], row["model"], told(row)), {})[row["engine"]] = row["status"]
    head = ["architecture", "model", "format", *engines]
    body = [[*key, *(statuses.get(engine, "·") for engine in engines)] for key, statuses in found.items()]
    return [f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *body]]


def _issues(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What failed or was skipped, and why."""
    found = [
        f"- {row['status']}: {row['model']} ({told(row)}) on {row['engine']}: {' '.join(row['why'].split())}"
        for row in rows
        if row["status"] != "pass"
    ]
    return found or ["None."]


def _pulls(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The command that brings each model."""
    from llmctl import catalog
    from llmctl.errors import UnknownName

    known, lines = catalog.load(), []
    for model, architecture in sorted({(row["model"], row["arch"]) for row in rows}):
        try:
            sources = any(artifact.source for artifact in known.resolve(model).artifacts)
        except UnknownName:
            sources = False
        command = f"llmctl pull {model}" if sources else "scripts/test-matrix"
        lines.append(f"- {model} ({architecture}): `{command}`")
    return lines


def told(row: Mapping[str, Any]) -> str:
    """A format, with its quantization."""
    return f"{row['format']} {row['quantization']}" if row["quantization"] else str(row["format"])
