"""Run benchmarks by name and write docs/benchmarks.md: python -m scripts.benchmarks [--peers] [NAME…]"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator

from scripts.benchmarks import (
    cli,
    convert,
    engines,
    fit,
    fleet,
    gateway,
    health,
    image,
    peers,
    prefix,
    pull,
    report,
    roofline,
    schema,
    streams,
    surface,
    swap,
    top,
    web,
)
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
    "health": health.measure,
    "top": top.measure,
    "web": web.measure,
    "gateway": gateway.measure,
}
PEERS: dict[str, Callable[[], Iterator[Row]]] = {
    "peers-llamacpp": peers.llamacpp,
    "peers-native": peers.native,
    "peers-openvino": peers.openvino,
    "peers-torch": peers.torch,
    "peers-mlx": peers.mlx,
    "prefix": prefix.measure,
    "roofline": roofline.measure,
}
"""`--peers`: all of these. They take about an hour."""


def main(names: list[str]) -> int:
    known = {**ALL, **PEERS}
    names = [name for given in names for name in (PEERS if given == "--peers" else [given])]
    if unknown := set(names) - set(known):
        print(f"error: no benchmark {', '.join(unknown)}\nhint: --peers, {', '.join(known)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # one that is ended ends its servers too
    for name in names or ALL:
        rows: list[Row] = []
        try:
            for row in known[name]():
                print(row.line(), flush=True)
                rows.append(row)
        finally:
            if rows:
                report.write(name, rows)
    return 0


sys.exit(main(sys.argv[1:]))
