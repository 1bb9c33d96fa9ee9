"""Whose turn it is where two models cannot lie together: the loaded one goes on for those who ask for it, for a time
and a number of requests, then makes way for those who wait. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Turns:
    """Slots by HOST:PORT. A turn ends `seconds` after another model began to wait for the slot's room, or with so many
    `requests` sent to it since then, whatever comes first; where nobody waits it has no end."""

    seconds: float
    requests: int
    _waiting: dict[str, tuple[str, float]] = field(default_factory=dict)  # who waits → for whose room, since when
    _sent: dict[str, int] = field(default_factory=dict)

    def waits(self, who: str, behind: str, now: float) -> None:
        """The load of `who` waits from now on for the room that `behind` has."""
        if self._waiting.get(who, ("", 0.0))[0] != behind:
            self.waits_no_more(who)
            self._waiting[who] = behind, now

    def waits_no_more(self, who: str) -> None:
        """It is there, or nobody wants it any longer."""
        before = self._waiting.pop(who, None)
        if before and not self.behind(before[0]):
            self._sent.pop(before[0], None)

    def behind(self, where: str) -> list[str]:
        """Who waits for the room of that slot."""
        return [who for who, (room, _) in self._waiting.items() if room == where]

    def sent(self, where: str) -> None:
        """A request was sent to that slot."""
        if self.behind(where):
            self._sent[where] = self._sent.get(where, 0) + 1

    def may(self, where: str, now: float) -> bool:
        """Whether a request may still go to that slot, which is loaded; else it waits until its model comes again."""
        waiting = [since for room, since in self._waiting.values() if room == where]
        return not waiting or (now - min(waiting) < self.seconds and self._sent.get(where, 0) < self.requests)
