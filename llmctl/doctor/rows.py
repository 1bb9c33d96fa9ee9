"""What a check comes to: pass, warn or fail, why, and what to type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from llmctl.errors import LlmctlError

PASS, WARN, FAIL = "pass", "warn", "fail"
WORST_FIRST = (FAIL, WARN, PASS)
HERE = "this machine"


@dataclass(frozen=True)
class Row:
    """One finding, or that a check has none. `host` None is the operator's own machine. `fix` is what to type, never
    empty where there is something to mend."""

    check: str
    status: str
    why: str
    fix: str = ""
    host: str | None = None

    @property
    def where(self) -> str:
        return self.host or HERE


def good(check: str, why: str) -> Row:
    return Row(check, PASS, why)


def warn(check: str, why: str, fix: str) -> Row:
    """It works, and not as it should, or not for long."""
    return Row(check, WARN, why, fix)


def fail(check: str, why: str, fix: str) -> Row:
    """It does not work."""
    return Row(check, FAIL, why, fix)


def of_error(check: str, error: LlmctlError, otherwise: str) -> Row:
    """The row of an error; `otherwise` is what to type where it does not say."""
    return fail(check, error.message, error.hint or otherwise)


def at(host: str | None, rows: Iterable[Row]) -> list[Row]:
    """Rows of this host."""
    return [replace(row, host=host) for row in rows]


def worst(rows: Sequence[Row]) -> str | None:
    """The worst status there is; None without rows."""
    return next((status for status in WORST_FIRST if any(row.status == status for row in rows)), None)


def exit_code(rows: Sequence[Row]) -> int:
    """0 all pass · 1 something fails · 3 warnings only."""
    return {FAIL: 1, WARN: 3}.get(worst(rows) or PASS, 0)
