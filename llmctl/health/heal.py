"""What is to be done about slots that are down, and what better not: pure decisions within a budget.

Main points: only a slot that was asked and is down is touched (a partition is "unknown", and starts nothing); who else
works on it is left alone; each try waits twice as long as the one before; the last good model comes after restarts in
vain; and when many are down at once, few are touched, since then the cause is rarely theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from llmctl.domain import BACKOFF, DISABLED, SLEEPING, STARTING, STOPPING, SWAPPING
from llmctl.health.seen import SlotSeen
from llmctl.health.settings import HealSettings, Settings
from llmctl.health.verdict import DOWN, Judged
from llmctl.render.text import duration

RESTART, LAST_GOOD, START = "restart", "last-good", "start"
WAIT, GIVE_UP = "wait", "give-up"
DOES = (RESTART, LAST_GOOD, START)
COMING = ("activating", "reloading")
"""What systemd says of a unit that it is starting itself."""


@dataclass(frozen=True)
class Patient:
    """A slot that was judged. `at` is the host's clock when it was seen; `since` when its incident was opened, by the
    clock here (None: it has none yet)."""

    host: str
    seen: SlotSeen
    judged: Judged
    at: float
    since: float | None = None


@dataclass(frozen=True)
class Healed:
    """Something that was done to a slot before, whatever became of it; `action` is one of DOES, `at` of the clock
    here."""

    host: str
    port: int
    at: float
    action: str


@dataclass(frozen=True)
class Step:
    """What to do about a slot: an action of DOES, or WAIT or GIVE_UP, which do nothing and say why.

    `model` is the one to load for LAST_GOOD.
    """

    host: str
    port: int
    action: str
    why: str
    model: str | None = None

    @property
    def does(self) -> bool:
        return self.action in DOES


def steps(patients: Iterable[Patient], earlier: Sequence[Healed] | None, settings: Settings, now: float) -> list[Step]:
    """One step for each slot that is down and may be healed; no more than `settings.most` of them do something.

    Nothing is done where nobody knows what was done before (`earlier` None): there would be no budget.
    """
    down = sorted(filter(_is_down, patients), key=lambda one: (one.host, one.seen.port))
    found = []
    for one in down:
        ours = settings.of(one.host, one.seen.port).heal
        if not ours.on or _left_alone(one.seen):
            continue
        if earlier is None:
            found.append(Step(one.host, one.seen.port, WAIT, "what was done before cannot be read: nothing is done"))
        else:
            done = [healed for healed in earlier if (healed.host, healed.port) == (one.host, one.seen.port)]
            found.append(_step(one, done, ours, now))
    return _few(found, down, settings.most)


def _is_down(one: Patient) -> bool:
    return one.judged.verdict == DOWN


def _left_alone(seen: SlotSeen) -> bool:
    """Somebody wants it so, or works on it."""
    return bool(seen.disabled or seen.operation or seen.state in (DISABLED, SLEEPING, SWAPPING, STOPPING))


def _step(one: Patient, done: Sequence[Healed], settings: HealSettings, now: float) -> Step:
    where, seen = f"{one.host}:{one.seen.port}", one.seen

    def step(action: str, why: str, model: str | None = None) -> Step:
        return Step(one.host, seen.port, action, why, model)

    if coming := _coming(one, settings.patience):
        return step(WAIT, coming)
    recent = [healed for healed in done if abs(now - healed.at) < settings.window]  # a clock may have jumped
    tries = [healed for healed in done if one.since is not None and healed.at >= one.since]
    if len(recent) >= settings.budget:
        return step(GIVE_UP, _gave_up(recent, settings.window, where))
    last = max((healed.at for healed in recent), default=None)
    if last is not None and (left := last + _pause(len(tries), settings) - now) > 0:
        return step(WAIT, f"{_did(recent)} {duration(now - last)} ago; the next try is in {duration(left)}")
    if _by(LAST_GOOD, tries):
        return _again(step, tries, settings, now, where)
    if len(tries) >= settings.restarts:
        if settings.last_good and seen.last_good:
            return step(LAST_GOOD, f"{_did(tries)} in vain; {seen.last_good} was the last to serve", seen.last_good)
        return _again(step, tries, settings, now, where)
    return step(RESTART if seen.server else START, one.judged.why)


def _coming(one: Patient, patience: float) -> str | None:
    """Why it may come up by itself: its slot server, or the service manager, is at it."""
    seen, age = one.seen, max(0.0, one.at - one.seen.since)
    if not seen.server:
        return f"its unit is {seen.unit.active}" if seen.unit and seen.unit.active in COMING else None
    if seen.state in (STARTING, BACKOFF) and age < patience:
        return f"{seen.state} for {duration(age)}; it has {duration(patience)}"
    return None


def _pause(tries: int, settings: HealSettings) -> float:
    """Seconds from the last try to the next."""
    return min(settings.window, settings.backoff * 2.0 ** max(0, min(tries, 32) - 1))


def _again(
    step: Callable[[str, str], Step], tries: Sequence[Healed], settings: HealSettings, now: float, where: str
) -> Step:
    """All was tried: from then on a restart once in a window, for a cause that went away."""
    if now - max(healed.at for healed in tries) < settings.window:
        return step(GIVE_UP, _gave_up(tries, None, where))
    return step(RESTART, f"{_did(tries)} in vain; once more")


def _gave_up(done: Sequence[Healed], window: float | None, where: str) -> str:
    within = f" within {duration(window)}, and that is its budget" if window else " in vain"
    return f"{_did(done)}{within}; type llmctl logs {where}"


def _did(done: Sequence[Healed]) -> str:
    """ "restarted 3 times, its last good model loaded"."""
    restarts = sum(healed.action != LAST_GOOD for healed in done)
    said = [f"restarted {restarts} times" if restarts > 1 else "restarted"] if restarts else []
    return ", ".join(said + ["its last good model loaded"] * _by(LAST_GOOD, done))


def _by(action: str, done: Sequence[Healed]) -> bool:
    return any(healed.action == action for healed in done)


def _few(found: Sequence[Step], down: Sequence[Patient], most: int) -> list[Step]:
    """Only the first `most` that do something; the others wait for the next run."""
    acting = [step for step in found if step.does]
    if len(acting) <= most:
        return list(found)
    late = set(acting[most:])
    why = f"{len(down)} slots are down at once{_common(down)}; {most} are healed in one run"
    return [Step(step.host, step.port, WAIT, why) if step in late else step for step in found]


def _common(down: Sequence[Patient]) -> str:
    """What they have in common: there lies the cause, as a rule."""
    what: dict[str, Callable[[Patient], object]] = {
        "all on {}": attrgetter("host"),
        "all with {}": attrgetter("seen.desired"),
        "all alike ({})": lambda one: one.judged.findings[0].code if one.judged.findings else None,
    }
    for text, of in what.items():
        counted = Counter(map(of, down))
        if len(counted) == 1 and (value := next(iter(counted))):
            return f", {text.format(value)}: look there first"
    return ": one cause is likely"
