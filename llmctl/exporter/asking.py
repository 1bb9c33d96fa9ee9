"""Asks all hosts side by side, and waits no longer than it may: a host that hangs holds up nobody but itself."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl.errors import LlmctlError

Ask = Callable[[str], Mapping[str, Any]]
HANGS, BROKEN = "timed_out", "failed"


@dataclass(frozen=True)
class Told:
    """What a host answered within this scrape, after how many seconds; `code` is why not."""

    host: str
    data: Mapping[str, Any] | None = None
    seconds: float = 0.0
    code: str | None = None
    why: str = ""


class Asking:
    """Hosts and the one thread each that asks it. A host that still hangs from before is not asked again."""

    def __init__(self, hosts: Sequence[str], ask: Ask) -> None:
        self.hosts, self._ask = tuple(hosts), ask
        self._busy: dict[str, threading.Thread] = {}

    def all(self, within: float) -> list[Told]:
        """One Told a host, in their order. What comes later than `within` seconds is thrown away: it would be old."""
        answers: queue.SimpleQueue[Told] = queue.SimpleQueue()
        end, waited = time.monotonic() + within, 0
        found: dict[str, Told] = {}
        for host in self.hosts:
            before = self._busy.get(host)
            if before and before.is_alive():
                continue
            self._busy[host] = threading.Thread(target=self._one, args=(host, answers), daemon=True)
            self._busy[host].start()
            waited += 1
        while len(found) < waited and (left := end - time.monotonic()) > 0:
            try:
                told = answers.get(timeout=left)
            except queue.Empty:
                break
            found[told.host] = told
        late = f"no answer within {within:.1f} s"
        return [found.get(host) or Told(host, seconds=within, code=HANGS, why=late) for host in self.hosts]

    def _one(self, host: str, answers: queue.SimpleQueue[Told]) -> None:
        began = time.monotonic()
        try:
            data, code, why = self._ask(host), None, ""
        except LlmctlError as error:
            data, code, why = None, error.code, error.message
        except Exception as error:  # a bug with one host is no reason to be silent about the others
            data, code, why = None, BROKEN, f"{type(error).__name__}: {error}"
        answers.put(Told(host, data, time.monotonic() - began, code, why))
