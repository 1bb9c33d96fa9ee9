"""What is to be thought of a slot and of a host: pure decisions over what was seen."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmctl.domain import BACKOFF, CRASH_LOOP, DISABLED, EMPTY, GATEWAY, READY, SLEEPING, STARTING, SWAPPING
from llmctl.health import fronting
from llmctl.health.seen import HostSeen, Sensor, SlotSeen
from llmctl.render.text import duration, size

OK, DEGRADED, DOWN, UNKNOWN, SKIPPED = "ok", "degraded", "down", "unknown", "skipped"
WORST_FIRST = (DOWN, UNKNOWN, DEGRADED, OK, SKIPPED)
NOTHING_RAN = 5
WEDGED = "wedged"
"""The finding's code of an engine that takes requests and does nothing."""


@dataclass(frozen=True)
class Rules:
    """When a slot or a host is not well any more. `slower` is a factor over the slot's own baseline, of `runs` runs;
    `deploy_age` seconds since the last deploy (None: any)."""

    slower: float = 2.0
    runs: int = 20
    fewest: int = 5
    floor: float = 0.25
    queue: float = 0.8
    disk: int = 5 * 10**9
    memory: float = 0.05
    skew: float = 60.0
    hot: float = 5.0
    deploy_age: float | None = None


@dataclass(frozen=True)
class Baseline:
    """How fast a slot was with this model: the medians of its last good answers; None when there are too few."""

    first: float | None = None
    rate: float | None = None

    @staticmethod
    def of(firsts: Sequence[float], rates: Sequence[float], rules: Rules) -> Baseline:
        """From the figures of earlier runs, the newest last."""
        return Baseline(_median(firsts[-rules.runs :], rules), _median(rates[-rules.runs :], rules))


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be: how bad, what, and what to type."""

    verdict: str
    why: str
    fix: str = ""
    code: str = ""


@dataclass(frozen=True)
class Judged:
    """A verdict and all that led to it, the worst first."""

    verdict: str
    findings: tuple[Finding, ...] = ()

    @property
    def why(self) -> str:
        return "; ".join(finding.why for finding in self.findings)


def slot(host: str, seen: SlotSeen, baseline: Baseline, rules: Rules = Rules(), deploying: str | None = None) -> Judged:
    """Whether one port is as it was declared, and as fast as it was; `deploying` is who deploys to its host now."""
    if skipped := _left_alone(seen):
        return Judged(SKIPPED, (Finding(SKIPPED, skipped),))
    where = f"{host}:{seen.port}"
    broken = _gateway if seen.engine == GATEWAY and seen.server else _broken
    found = _judged([*broken(where, seen), *_weak(where, seen, baseline, rules)])
    if deploying and found.verdict == DOWN:
        return Judged(SKIPPED, (Finding(SKIPPED, f"{deploying} deploys to its host"), *found.findings))
    return found


def host(name: str, seen: HostSeen, now: float, release: str, rules: Rules = Rules()) -> Judged:
    """Whether a machine is fit to go on; `now` is here, amid the look, `release` the version of this llmctl."""
    found = [_heat(name, sensor, rules) for sensor in seen.sensors]
    if seen.disk_total and seen.disk_free < rules.disk:
        found.append(_odd(f"{size(seen.disk_free)} of disk left", f"llmctl models list --host {name}", "disk"))
    if seen.memory_total and seen.memory_free < rules.memory * seen.memory_total:
        found.append(_odd(f"{size(seen.memory_free)} of memory left", f"llmctl status --host {name}", "memory"))
    if abs(seen.at - now) > rules.skew:
        found.append(_odd(f"its clock is {seen.at - now:+.0f} s off", f"ssh {name} timedatectl set-ntp true", "clock"))
    if seen.version != release:
        found.append(_odd(f"it runs llmctl {seen.version}, here is {release}", f"llmctl deploy {name}", "skew"))
    if rules.deploy_age and seen.manifest and seen.at - seen.manifest > rules.deploy_age:
        told = f"deployed {duration(seen.at - seen.manifest)} ago, and {duration(rules.deploy_age)} is the most"
        found.append(_odd(told, f"llmctl deploy {name}", "deploy_age"))
    if seen.drift:
        found.append(_odd(f"changed since its deploy: {', '.join(seen.drift)}", f"llmctl deploy {name}", "drift"))
    return _judged([finding for finding in found if finding])


def unknown(why: str, fix: str = "") -> Judged:
    """Nobody could ask: that is not the same as down."""
    return Judged(UNKNOWN, (Finding(UNKNOWN, why, fix, "unreachable"),))


def exit_code(verdicts: Iterable[str]) -> int:
    """0 all well · 1 a slot is down · 3 degraded or unknown only · 5 nothing to ask (decisions.md)."""
    found = set(verdicts)
    if DOWN in found:
        return 1
    if found & {DEGRADED, UNKNOWN}:
        return 3
    return 0 if OK in found else NOTHING_RAN


def _left_alone(seen: SlotSeen) -> str | None:
    if seen.state == DISABLED:
        return f"disabled: {seen.disabled or 'no reason given'}"
    if seen.operation or seen.state == SWAPPING:
        return f"{seen.operation or 'swap'} is under way"
    if seen.state == SLEEPING and seen.generation is None:
        return "asleep"
    if seen.desired is None and seen.state == EMPTY:
        return "no model is desired"
    return None


def _broken(where: str, seen: SlotSeen) -> list[Finding]:
    """What keeps it from answering."""
    restart, logs = f"llmctl restart {where}", f"llmctl logs {where}"
    why = f": {seen.why}" if seen.why else ""
    if not seen.server:
        unit = f", its unit is {seen.unit.active}" if seen.unit and seen.unit.service != "none" else ""
        return [Finding(DOWN, f"no slot server runs{unit}", restart, "no_server")]
    if seen.state == CRASH_LOOP:
        return [Finding(DOWN, f"crash loop{why}", logs, "crash_loop")]
    if seen.state in (BACKOFF, STARTING) or (seen.state != READY and seen.state != SLEEPING):
        return [Finding(DOWN, f"{seen.state}{why}", logs, "not_ready")]
    if seen.generation and seen.generation.why and not seen.generation.busy:
        code = WEDGED if seen.generation.first is None else "insane"
        return [Finding(DOWN, seen.generation.why, restart, code)]
    if seen.model != seen.desired:
        return [Finding(DOWN, f"{seen.model} serves, {seen.desired} is desired", restart, "identity")]
    return []


def _gateway(where: str, seen: SlotSeen) -> list[Finding]:
    """What keeps a gateway that runs from its work: only what lies with itself is down."""
    found, said = [], seen.generation
    if said and said.why and said.model is None:
        found.append(Finding(DOWN, said.why, f"llmctl restart {where}", WEDGED))
    elif said and said.why:
        found.append(_odd(f"{said.model} does not answer through it: {said.why}", "llmctl health", "handle"))
    if seen.why:
        found.append(_odd(f"it goes on as before: {seen.why}", "llmctl handles check", "registry"))
    for handles, why in fronting.without(seen.replicas):
        told = f"no slot answers for {', '.join(handles)} ({why})"
        found.append(_odd(told, "llmctl gateway status", "no_replica"))
    return found


def _weak(where: str, seen: SlotSeen, baseline: Baseline, rules: Rules) -> list[Finding]:
    """What it answers in spite of."""
    found, said, unit = [], seen.generation, seen.unit
    restart, logs, bench = (f"llmctl {verb} {where}" for verb in ("restart", "logs", "bench run"))
    if seen.engine == GATEWAY:
        bench = "llmctl gateway status"
    if said and said.why and said.busy:
        found.append(_odd(f"busy with {seen.active} others: {said.why}", "", "busy"))
    if said and said.first and baseline.first and said.first > max(rules.slower * baseline.first, rules.floor):
        found.append(_odd(f"first token after {said.first:.2f} s, usually {baseline.first:.2f} s", bench, "slow_first"))
    if said and said.rate and baseline.rate and said.rate * rules.slower < baseline.rate:
        found.append(_odd(f"{said.rate:.1f} tokens/s, usually {baseline.rate:.1f}", bench, "slow_rate"))
    if seen.queue_limit and seen.queued >= rules.queue * seen.queue_limit:
        found.append(_odd(f"{seen.queued} of {seen.queue_limit} places of its queue are taken", "", "queue"))
    if seen.crashes and seen.state == READY:
        found.append(_odd(f"its engine ended {seen.crashes} times in ten minutes", logs, "crashes"))
    if unit and unit.service != "none" and seen.server:
        if not unit.enabled:
            found.append(_odd("its unit does not start at boot", restart, "not_enabled"))
        if unit.active != "active":
            found.append(_odd(f"its unit is {unit.active}", restart, "unit"))
    return found


def _heat(host: str, sensor: Sensor, rules: Rules) -> Finding | None:
    if sensor.dead:
        return _odd(f"{sensor.name}: {sensor.dead}", f"llmctl doctor {host}", "sensor")
    if sensor.throttled:
        return _odd(f"{sensor.name} is throttled: {sensor.throttled}", "", "throttled")
    if sensor.hot(rules.hot):
        return _odd(f"{sensor.name} has {sensor.celsius:.0f} °C of {sensor.limit:.0f}", "", "hot")
    return None


def _odd(why: str, fix: str, code: str) -> Finding:
    return Finding(DEGRADED, why, fix, code)


def _judged(findings: Sequence[Finding]) -> Judged:
    ordered = sorted(findings, key=lambda finding: WORST_FIRST.index(finding.verdict))
    return Judged(ordered[0].verdict if ordered else OK, tuple(ordered))


def _median(values: Sequence[float], rules: Rules) -> float | None:
    return statistics.median(values) if len(values) >= rules.fewest else None
