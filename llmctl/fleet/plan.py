"""Which slots of which profiles belong to which host; reads nothing but profiles, changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from llmctl import tables
from llmctl.config import Config, Host, Profile, ProfileSlot
from llmctl.errors import ConfigError, UsageError
from llmctl.profiles import homes as homes_of


@dataclass(frozen=True)
class Wanted:
    """A slot of a host, and where it is written: the `index`-th of `profile`."""

    slot: ProfileSlot
    profile: Profile
    index: int

    @property
    def place(self) -> str:
        """File and line, for an error."""
        known = tables.lines(self.profile.path.read_text(encoding="utf-8"))
        return f"{self.profile.path}:{known.get(('slots', self.index, 'port'), 1)}"


@dataclass(frozen=True)
class Assignment:
    """Host → its slots, for every host that was asked about; and the profiles whose slots belong to none of them."""

    slots: Mapping[str, tuple[Wanted, ...]]
    homeless: tuple[str, ...] = ()

    def request(
        self, host: str, prune: bool = False, pull: bool = False, demand: bool = False
    ) -> dict[str, Any]:  # fmt: skip
        """What `llmctl host plan` and `host apply` on that host read."""
        slots = [{**asdict(wanted.slot), "host": None} for wanted in self.slots.get(host, ())]
        return {"slots": slots, "prune": prune and bool(slots), "pull": pull, "demand": demand}

    def only(self, host: str, port: int) -> Assignment:
        """The slots of one port alone; UsageError where no profile has it."""
        found = tuple(wanted for wanted in self.slots.get(host, ()) if wanted.slot.port == port)
        if not found:
            raise UsageError(f"no slot {host}:{port} is in this profile", hint="llmctl profile list")
        return Assignment({host: found})


def assign(
    config: Config, profiles: Iterable[Profile], hosts: Sequence[Host], *, chosen: bool = False, named: bool = False
) -> Assignment:
    """The slots that each of `hosts` is to run.

    A slot with a host belongs to that one; one without belongs to the hosts whose entry lists its profile, and to the
    default host when no entry lists any. With `chosen` (--host was typed) and `named` (--profile was) it belongs to
    each of `hosts`; `named` alone gives a profile that no entry lists to the default host. ConfigError when two
    profiles want different things on one port, UsageError when a default host is needed and there is none.
    """
    found: dict[str, list[Wanted]] = {host.name: [] for host in hosts}
    homeless = []
    for profile in profiles:
        homes: list[str] = []
        if any(slot.host is None for slot in profile.slots):
            everywhere = chosen and named
            homes = [host.name for host in hosts] if everywhere else homes_of(config, profile.name, named)
            if not homes:
                homeless.append(profile.name)
        for index, slot in enumerate(profile.slots):
            for name in [slot.host] if slot.host else homes:
                if name in found:
                    _add(found[name], name, Wanted(replace(slot, host=name), profile, index))
    return Assignment({name: tuple(slots) for name, slots in found.items()}, tuple(homeless))


def _add(there: list[Wanted], host: str, new: Wanted) -> None:
    """Add a slot; nothing when the same one is there from another profile."""
    for old in there:
        if old.slot.port == "auto" or old.slot.port != new.slot.port:
            continue
        if old.slot == new.slot:
            return
        raise ConfigError(
            f"{old.place} and {new.place} want different things on {host}:{new.slot.port}",
            hint=f"name one of them: --profile {old.profile.name}, or list it in `profiles` of the host's entry",
        )
    there.append(new)
