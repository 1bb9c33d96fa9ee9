"""One health run over the fleet: what each host told, judged against what it was before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmctl.domain import EMPTY
from llmctl.health import verdict
from llmctl.health.seen import HostSeen, SlotSeen
from llmctl.health.settings import Settings
from llmctl.health.verdict import Baseline, Judged
from llmctl.history.records import Check

Figures = Callable[[str, int, str | None, int], tuple[Sequence[float], Sequence[float]]]
"""(host, port, model, most) → seconds to the first token and tokens/s of its last good answers."""


@dataclass(frozen=True)
class Row:
    """A slot, or a host (`port` None), with what is thought of it. `at` is the clock here, `there` the host's, when it
    was seen; `healed` is what was done about it in this run, `deployed` when the host last was."""

    host: str
    port: int | None
    judged: Judged
    at: float
    desired: str | None = None
    seen: SlotSeen | None = None
    there: float = 0.0
    healed: str = ""
    deployed: float | None = None

    @property
    def key(self) -> tuple[str, int | None]:
        return self.host, self.port

    @property
    def given_up(self) -> bool:
        """Nobody wants it to be well now: it is disabled, or nothing is desired."""
        return self.seen is not None and (self.seen.disabled is not None or self.seen.desired is None)

    def to_dict(self) -> dict[str, Any]:
        """The row of `data.slots[]`, or of `data.hosts[]`."""
        found: dict[str, Any] = {
            "host": self.host, "port": self.port, "verdict": self.judged.verdict, "why": self.judged.why or None,
            "findings": [asdict(finding) for finding in self.judged.findings],
        }  # fmt: skip
        if self.port is None:
            return {**found, "deployed": self.deployed}
        said = self.seen.generation if self.seen else None
        return {
            **found, "desired": self.desired, "healed": self.healed or None,
            "model": self.seen.model if self.seen else None, "engine": self.seen.engine if self.seen else None,
            "state": self.seen.state if self.seen else "unknown", "since": self.seen.since if self.seen else 0.0,
            "queued": self.seen.queued if self.seen else 0, "memory_bytes": self.seen.memory if self.seen else 0,
            "first_token": said.first if said else None, "tokens_per_second": said.rate if said else None,
            "unit": asdict(self.seen.unit) if self.seen and self.seen.unit else None,
        }  # fmt: skip

    def check(self) -> Check:
        """As history keeps it."""
        said = self.seen.generation if self.seen else None
        return Check(
            host=self.host, port=self.port, at=self.at, verdict=self.judged.verdict, why=self.judged.why,
            model=self.seen.measured if self.seen else self.desired,
            first=said.first if said else None, rate=said.rate if said else None,
            queued=self.seen.queued if self.seen else 0, memory=self.seen.memory if self.seen else 0,
            codes=tuple(finding.code for finding in self.judged.findings if finding.code),
        )  # fmt: skip


def of_host(name: str, seen: HostSeen, at: float, release: str, figures: Figures, settings: Settings) -> list[Row]:
    """The rows of a host that answered: itself, then its slots. `at` is this machine's clock amid the look."""
    judged = verdict.host(name, seen, at, release, settings.of(name).rules)
    found = [Row(name, None, judged, at, there=seen.at, deployed=seen.manifest)]
    for slot in seen.slots:
        if slot.desired is None and slot.state == EMPTY:
            continue
        rules = settings.of(name, slot.port).rules
        firsts, rates = figures(name, slot.port, slot.measured, rules.runs)
        judged = verdict.slot(name, slot, Baseline.of(firsts, rates, rules), rules, seen.deploying)
        found.append(Row(name, slot.port, judged, at, slot.desired, slot, seen.at))
    return found


def of_silence(name: str, why: str, fix: str, known: Sequence[Check], at: float) -> list[Row]:
    """The rows of a host that could not be asked: all that was known of it is unknown now."""
    judged = verdict.unknown(why, fix)
    return [Row(name, None, judged, at), *(Row(name, check.port, judged, at, check.model) for check in known)]
