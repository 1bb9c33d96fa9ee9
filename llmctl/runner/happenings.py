"""What a slot tells of its changes in the events of its host (llmctl.events)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmctl.errors import LlmctlError
from llmctl.events import FAILED, OK
from llmctl.runner.operations import FALL_ASLEEP, Operations

KINDS = {"start": "restart", "restart after a crash": "restart", FALL_ASLEEP: "sleep"}
"""Of the slot's own work; all other operations are named as their events."""
TOLD = ("rolled_back_to", "rollback_failed")


class Happenings:
    """`tell(kind, model=…, outcome=…, what=…, …)` notes one."""

    def __init__(self, operations: Operations, tell: Callable[..., None]) -> None:
        self._operations, self._tell = operations, tell

    def done(self, model: str | None, what: str = "", **said: Any) -> None:
        """The operation under way did what it should."""
        self._of_operation(model, OK, what, said)

    def failed(self, model: str | None, error: LlmctlError, **said: Any) -> None:
        """It did not; what became of the slot is told where it is known."""
        back = {key: error.details[key] for key in TOLD if key in error.details}
        self._of_operation(model, FAILED, error.message, {**said, **back})

    def ended(self, kind: str, model: str | None, why: str) -> None:
        """An engine went by itself (`crash`), or once too often (`crash-loop`)."""
        self._tell(kind, model=model, outcome=FAILED, what=why)

    def adopted(self, model: str) -> None:
        self._tell("adopt", model=model, outcome=OK, what="another slot server goes on with it")

    def _of_operation(self, model: str | None, outcome: str, what: str, said: dict[str, Any]) -> None:
        if operation := self._operations.current:
            kind = KINDS.get(operation.verb, operation.verb)
            self._tell(kind, model=model, outcome=outcome, what=what, who=operation.owner, **said)
