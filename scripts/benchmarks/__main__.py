"""Run benchmarks by name and write docs/benchmarks.md: python -m scripts.benchmarks [NAME…]"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from scripts.benchmarks import cli, convert, engines, fit, fleet, image, pull, report, schema, streams, surface, swap
from scripts.benchmarks.report import Row

ALL: dict[str, Callable[[], Iterator[Row]]] = {
    "cli": cli.measure,
    "streams": streams.measure,
    "surface": surface.measure,
    "swap": swap.measure,
    "engines": engines.measure,
    "image": image.measure,
    "schema": schema.measure,
    "convert": convert.measure,
    "fit": fit.measure,
    "pull": pull.measure,
    "fleet": fleet.measure,
}


def main(names: list[str]) -> int:
    if unknown := set(names) - set(ALL):
        print(f"error: no benchmark {', '.join(unknown)}\nhint: {', '.join(ALL)}", file=sys.stderr)
        return 2
    for name in names or ALL:
        rows = []
        for row in ALL[name]():
            print(row.line(), flush=True)
            rows.append(row)
        report.write(name, rows)
    return 0


sys.exit(main(sys.argv[1:]))
