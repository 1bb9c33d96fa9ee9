"""Which models go so that another fits: idle ones that may, the longest unused first, no more than needed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmctl.errors import Busy, DoesNotFit
from llmctl.slots.admission import gb


@dataclass(frozen=True)
class Space:
    """What is left for a new model, in bytes: `free` memory as measured, and what the reservations of all slots leave
    of the `budget`. It has to fit into both."""

    free: int
    budget: int

    def fits(self, needed: int, gone: Iterable[Holder] = ()) -> bool:
        """Whether so much fits once those are gone."""
        gone = list(gone)
        free, budget = self.free + sum(one.measured for one in gone), self.budget + sum(one.reserved for one in gone)
        return needed <= min(free, budget)


@dataclass(frozen=True)
class Holder:
    """A slot with a model. `measured` is the memory that its engine really has, `reserved` what the host's ledger has
    written down for it, in bytes; `unused` seconds since its last request.

    `busy` is what it is doing that must not be cut, empty when it rests; `exclusive` is its group, if it has one.
    """

    port: int
    model: str
    measured: int
    reserved: int = 0
    unused: float = 0.0
    evictable: bool = False
    busy: str = ""
    exclusive: str | None = None


def victims(needed: int, space: Space, holders: Iterable[Holder], exclusive: str | None = None) -> list[Holder]:
    """Those that have to go before `needed` bytes fit; none when they fit as it is.

    All others of the `exclusive` group go in any case. Busy, with the port of one to wait for, when those that are at
    work would have to go as well; DoesNotFit with the numbers when not even that makes room.
    """
    found = sorted(holders, key=lambda one: -one.unused)
    group = [one for one in found if exclusive is not None and one.exclusive == exclusive]
    for one in group:
        if not one.evictable:
            raise _stays(one, f"is of the same group {exclusive}, and may not be unloaded for others")
    others = [one for one in found if one not in group and one.evictable]
    idle = [one for one in others if not one.busy]
    chosen = _enough(needed, space, group, idle)
    if chosen is None and not space.fits(needed, [*group, *others]):
        raise _does_not_fit(needed, space, [*group, *others], found)
    for one in [*group, *(others if chosen is None else [])]:
        if one.busy:
            raise _at_work(one)
    return [*group, *(chosen or [])]


def _enough(needed: int, space: Space, group: Sequence[Holder], able: Sequence[Holder]) -> list[Holder] | None:
    """The longest unused of `able` that make room beside the `group`, without those that are not needed for it."""
    chosen: list[Holder] = []
    for one in able:
        if space.fits(needed, [*group, *chosen]):
            break
        chosen.append(one)
    if not space.fits(needed, [*group, *chosen]):
        return None
    for one in list(chosen):  # the longest unused is kept where the others are enough
        rest = [other for other in chosen if other is not one]
        if space.fits(needed, [*group, *rest]):
            chosen = rest
    return chosen


def _stays(one: Holder, why: str) -> DoesNotFit:
    return DoesNotFit(
        f"port {one.port} has {one.model}, which {why}", hint=f"llmctl unload {one.port}", details={"port": one.port}
    )


def _at_work(one: Holder) -> Busy:
    return Busy(
        f"port {one.port} has {one.model}, which would have to go, and is {one.busy}",
        hint="try again when it is idle", port=one.port, details={"port": one.port},
    )  # fmt: skip


def _does_not_fit(needed: int, space: Space, able: Sequence[Holder], holders: Sequence[Holder]) -> DoesNotFit:
    freed = sum(one.measured for one in able)
    staying = ", ".join(f"{one.port} {one.model}" for one in holders if one not in able) or "none"
    return DoesNotFit(
        f"needs {gb(needed)}, has {gb(min(space.free, space.budget))} (free {gb(space.free)}, left of the budget "
        f"{gb(space.budget)}), and unloading all that may be unloaded gives {gb(freed)} (stay: {staying})",
        hint="a smaller context or quantization needs less; llmctl status shows what the slots hold",
        details={"needed": needed, "free": space.free, "budget": space.budget, "evictable": freed},
    )
