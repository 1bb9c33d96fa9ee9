"""What pages have set going: one change of a slot at a time, in a thread, and how it ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmctl.errors import Busy, LlmctlError

OnEvent = Callable[[dict[str, Any]], None]
Work = Callable[[OnEvent], Mapping[str, Any]]
AT_ONCE = 16
KEPT = 200


@dataclass(frozen=True)
class Act:
    """A change of a slot. `stage` is what it is at; `ended` None while it goes on; `error` and `hint` if it failed."""

    host: str
    port: int
    verb: str
    model: str | None
    began: float
    stage: str = ""
    ended: float | None = None
    error: str | None = None
    hint: str | None = None
    result: str = ""

    @property
    def name(self) -> str:
        return f"{self.verb} {self.host}:{self.port}{f' {self.model}' if self.model else ''}"


class Acts:
    """The changes of one server; `changed` is called, from any thread, whenever one of them goes on."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.changed = changed
        self._lock = threading.Lock()
        self._acts: dict[tuple[str, int], Act] = {}

    def of(self, host: str, port: int) -> Act | None:
        """The last one of a slot."""
        return self._acts.get((host, port))

    def start(self, act: Act, work: Work) -> None:
        """Begin; Busy where one goes on already."""
        slot = (act.host, act.port)
        with self._lock:
            going = [one for one in self._acts.values() if one.ended is None]
            before = self._acts.get(slot)
            if before and before.ended is None:
                raise Busy(f"{before.name} is under way", hint="wait until it has ended", port=act.port)
            if len(going) >= AT_ONCE:
                raise Busy(f"{len(going)} changes are under way", hint="wait until one has ended")
            self._acts.pop(slot, None)
            self._acts[slot] = act
            for old in [key for key, one in self._acts.items() if one.ended is not None][: len(self._acts) - KEPT]:
                del self._acts[old]
        self.changed()
        threading.Thread(target=self._run, args=(slot, work), name=f"web {act.verb}", daemon=True).start()

    def _run(self, slot: tuple[str, int], work: Work) -> None:
        try:
            said = work(lambda event: self._note(slot, event))
        except LlmctlError as error:
            self._end(slot, error=error.message, hint=error.hint)
        except Exception as error:  # a bug of ours ends the change, not the page
            self._end(slot, error=f"{type(error).__name__}: {error}")
        else:
            model = said.get("model")
            self._end(slot, result=f"{model} is {said.get('state')}" if model else "no model is loaded")

    def _note(self, slot: tuple[str, int], event: Mapping[str, Any]) -> None:
        self._set(slot, stage=str(event.get("message" if event.get("event") == "note" else "stage") or "")[:200])

    def _end(self, slot: tuple[str, int], **how: Any) -> None:
        self._set(slot, ended=time.time(), **how)

    def _set(self, slot: tuple[str, int], **changes: Any) -> None:
        with self._lock:
            self._acts[slot] = replace(self._acts[slot], **changes)
        self.changed()
