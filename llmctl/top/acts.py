"""What was set going from the live view: the words that ask for it, how far it is, and how it ended. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmctl.errors import LlmctlError
from llmctl.progress import detail
from llmctl.render.slots import changed
from llmctl.top.cells import BAD, GOOD, WARN, Row, cell

UNDER_WAY, DONE, FAILED = "…", "✓", "✗"


@dataclass(frozen=True)
class Act:
    """One change of a slot; `port` None is the lowest free one of the host. `said` is how it goes, or went."""

    number: int
    verb: str
    host: str
    port: int | None
    model: str | None
    before: str | None = None
    state: str = UNDER_WAY
    said: str = "asked"

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host

    @property
    def question(self) -> str:
        place = self.where if self.port else f"a free port of {self.host}"
        if self.verb == "load":
            return f"Load {self.model} on {place}?"
        if self.verb == "swap":
            return f"Swap {self.before} on {place} for {self.model}? Its requests are finished first."
        if self.verb == "unload":
            return f"Unload {self.before} from {place}? Its requests are finished first."
        return f"Restart {self.before} on {place}?"

    def going(self, event: Mapping[str, Any]) -> Act:
        """After an event of its progress."""
        if event.get("event") == "note":
            return replace(self, said=str(event["message"]))
        if event.get("event") != "stage":
            return self
        share = f" {100 * event['done'] / event['total']:.0f} %" if event["total"] else ""
        return replace(self, said=f"{event['stage']}{share} · {detail(event)}")

    def done(self, data: Mapping[str, Any]) -> Act:
        said = changed(data)  # it begins with the slot, which the row of a known one has told already
        return replace(self, state=DONE, said=said.removeprefix(f"{self.where}  ") if self.port else said)

    def failed(self, error: BaseException) -> Act:
        if not isinstance(error, LlmctlError):
            return replace(self, state=FAILED, said=f"{type(error).__name__}: {error}")
        return replace(self, state=FAILED, said=error.message + (f" · {error.hint}" if error.hint else ""))

    def row(self) -> Row:
        style = {UNDER_WAY: WARN, DONE: GOOD, FAILED: BAD}[self.state]
        words = f"{self.verb} {self.where}{f' {self.model}' if self.model else ''}"
        return Row(f"act {self.number}", (cell(self.state, style), cell(words), cell(self.said, style)))
