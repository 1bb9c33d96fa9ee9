"""Makes page after page of one fleet, and counts what it does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmctl import __version__
from llmctl.errors import LlmctlError
from llmctl.exporter import families as f
from llmctl.exporter.asking import Asking, Told
from llmctl.exporter.page import Checked, fleet
from llmctl.exporter.text import Page

HOST, HISTORY = "host", "history"


@dataclass(frozen=True)
class Scraped:
    """One page, and what became of each host."""

    text: str
    series: int
    hosts: tuple[Told, ...]


class Exporter:
    """The hosts of `asking`, and `checked`, which reads history."""

    def __init__(self, asking: Asking, checked: Callable[[], Sequence[Checked]]) -> None:
        self.asking, self.checked = asking, checked
        self._scrapes = 0
        self._errors = Counter({HOST: 0, HISTORY: 0})

    def scrape(self, within: float) -> Scraped:
        """A page of what all hosts say now; one that does not within so many seconds is down on it."""
        began = time.monotonic()
        hosts = self.asking.all(within)
        page = Page()
        fleet(page, hosts, self._history())
        self._scrapes += 1
        self._errors[HOST] += sum(told.data is None for told in hosts)
        page.add(f.EXPORTER_INFO, 1, __version__)
        page.add(f.SCRAPED, time.time())
        page.add(f.SECONDS, time.monotonic() - began)
        page.add(f.SCRAPES, self._scrapes)
        for what, count in self._errors.items():
            page.add(f.ERRORS, count, what)
        return Scraped(page.text(), len(page), tuple(hosts))

    def _history(self) -> Sequence[Checked]:
        try:
            return self.checked()
        except (LlmctlError, OSError):
            self._errors[HISTORY] += 1
            return ()
