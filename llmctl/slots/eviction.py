"""Which models go so that another fits: idle ones that may, the longest unused first, no more than needed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmctl.errors import Busy, DoesNotFit
from llmctl.slots.admission import gb


@dataclass(frozen=True)
class Holder:
    """A slot with a model. `bytes` is what its end gives back, as measured; `unused` seconds since its last request.

    `busy` is what it is doing that must not be cut, empty when it rests; `exclusive` is its group, if it has one.
    """

    port: int
    model: str
    bytes: int
    unused: float = 0.0
    evictable: bool = False
    busy: str = ""
    exclusive: str | None = None


def victims(needed: int, available: int, holders: Iterable[Holder], exclusive: str | None = None) -> list[Holder]:
    """Those that have to go before `needed` bytes fit into what is `available`; none when it fits as it is.

    All others of the `exclusive` group go in any case. Busy when one of those is at work, DoesNotFit with the numbers
    when all that may go does not make room.
    """
    found = sorted(holders, key=lambda one: -one.unused)
    group = [one for one in found if exclusive is not None and one.exclusive == exclusive]
    for one in group:
        if one.busy or not one.evictable:
            why = f"is {one.busy}" if one.busy else "may not be unloaded for others"
            raise Busy(
                f"port {one.port} has {one.model} of the same group {exclusive}, and {why}",
                hint=f"llmctl unload {one.port}", port=one.port,
            )  # fmt: skip
    short = needed - available - sum(one.bytes for one in group)
    able = [one for one in found if one not in group and one.evictable and not one.busy and one.bytes > 0]
    chosen = _enough(short, able)
    if chosen is None:
        raise _does_not_fit(needed, available, [*group, *able], found)
    return [*group, *chosen]


def _enough(short: int, able: Sequence[Holder]) -> list[Holder] | None:
    """The longest unused of them that hold `short` bytes together, without those that are not needed for it."""
    chosen: list[Holder] = []
    for one in able:
        if short <= 0:
            break
        chosen.append(one)
        short -= one.bytes
    if short > 0:
        return None
    for one in list(chosen):  # the longest unused is kept where the others are enough
        if short + one.bytes <= 0:
            chosen.remove(one)
            short += one.bytes
    return chosen


def _does_not_fit(needed: int, available: int, able: Sequence[Holder], holders: Sequence[Holder]) -> DoesNotFit:
    freed = sum(one.bytes for one in able)
    staying = [one for one in holders if one not in able]
    told = "; ".join(f"{one.port} {one.model}: {one.busy or 'it may not'}" for one in staying) or "none"
    return DoesNotFit(
        f"needs {gb(needed)}, has {gb(available)}, and unloading what may be unloaded gives {gb(freed)} (stay: {told})",
        hint="a smaller context or quantization needs less; llmctl status shows what the slots hold",
        details={"needed": needed, "available": available, "evictable": freed},
    )
