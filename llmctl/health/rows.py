"""One health run over the fleet: what each host told, judged against what it was before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from llmctl.health import verdict
from llmctl.health.seen import HostSeen, SlotSeen
from llmctl.health.verdict import Baseline, Judged, Rules
from llmctl.history.store import Check, History

KEEP_SECONDS = 3
"""Decimals of what is kept of a duration."""


@dataclass(frozen=True)
class Row:
    """A slot, or a host (`port` None), with what is thought of it. `desired` is the model meant to run."""

    host: str
    port: int | None
    judged: Judged
    at: float
    desired: str | None = None
    seen: SlotSeen | None = None
    healed: str = ""

    @property
    def key(self) -> tuple[str, int | None]:
        return self.host, self.port

    def to_dict(self) -> dict[str, Any]:
        """The row of `data.slots[]` or `data.hosts[]`."""
        found: dict[str, Any] = {
            "host": self.host, "port": self.port, "verdict": self.judged.verdict, "why": self.judged.why or None,
            "findings": [asdict(finding) for finding in self.judged.findings], "healed": self.healed or None,
        }  # fmt: skip
        if self.seen:
            said = self.seen.generation
            found |= {
                "model": self.seen.model, "desired": self.desired, "engine": self.seen.engine, "state": self.seen.state,
                "since": self.seen.since, "queued": self.seen.queued, "memory_bytes": self.seen.memory,
                "first_token": said.first if said else None, "tokens_per_second": said.rate if said else None,
                "unit": asdict(self.seen.unit) if self.seen.unit else None,
            }  # fmt: skip
        return found

    def check(self) -> Check:
        """As history keeps it."""
        said = self.seen.generation if self.seen else None
        return Check(
            host=self.host, port=self.port, at=self.at, verdict=self.judged.verdict, why=self.judged.why,
            model=self.desired, first=said.first if said else None, rate=said.rate if said else None,
            queued=self.seen.queued if self.seen else 0, memory=self.seen.memory if self.seen else 0,
            codes=tuple(finding.code for finding in self.judged.findings if finding.code),
        )  # fmt: skip


def of_host(
    name: str, seen: HostSeen, at: float, release: str, history: History | None, rules: Mapping[int | None, Rules]
) -> list[Row]:
    """The rows of a host that answered: itself, then its slots. `at` is this machine's clock amid the look; `rules` are
    those of its ports, None for the others."""
    usual = rules[None]
    found = [Row(name, None, verdict.host(name, seen, at, release, usual), at)]
    for slot in seen.slots:
        if slot.desired is None and slot.state == "empty":
            continue
        chosen = rules.get(slot.port, usual)
        firsts, rates = history.figures(name, slot.port, slot.desired, chosen.runs) if history else ((), ())
        baseline = Baseline.of(firsts, rates, chosen)
        judged = verdict.slot(name, slot, baseline, chosen, seen.deploying)
        found.append(Row(name, slot.port, judged, at, slot.desired, slot))
    return found


def of_silence(name: str, why: str, fix: str, known: Sequence[Check], at: float) -> list[Row]:
    """The rows of a host that could not be asked: all that was known of it is unknown now."""
    judged = verdict.unknown(why, fix)
    return [Row(name, None, judged, at), *(replace(_of(check, at), judged=judged) for check in known)]


def _of(check: Check, at: float) -> Row:
    return Row(check.host, check.port, Judged(check.verdict), at, check.model)
