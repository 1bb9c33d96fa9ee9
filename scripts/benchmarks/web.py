"""What the status page costs a browser: its first paint on loopback, and its bytes, with nothing in the cache."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.benchmarks.report import Row, row
from tests.top import scenes
from tests.web.pictures import Shot, photograph, shown

RUNS = 7


def measure() -> Iterator[Row]:
    pages = {"the fleet, 20 hosts with two slots": "/", "a slot with a day of history": "/slots/node01/8101"}
    with shown(scenes.twenty()) as served:
        for what, path in pages.items():
            seen = photograph(served, [Shot(path)] * (RUNS + 1))[1:]  # the first one starts the browser's processes
            yield row(
                f"`llmctl web`, {what}: first paint, ms", [one.painted for one in seen], "≤ 300",
                "first-contentful-paint of headless Chromium on this machine, from the start of the navigation, with "
                "an empty cache",
            )  # fmt: skip
            yield row(
                f"`llmctl web`, {what}: KB", [one.bytes / 1e3 for one in seen], "≤ 60",
                "transferred bytes of the page and all that it loads, headers included; nothing is compressed",
            )  # fmt: skip
