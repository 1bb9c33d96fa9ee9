"""Where the caches of all sequences lie: in groups, each of what was last computed together.

A decode step finds the running sequences as one group and copies nothing; what comes or goes is joined to it or parted
from it before the next pass. What is to be taken back from sequences waits until then too, for all of them at once.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from llmctl.engines import mlx_caches
from llmctl.engines.mlx_caches import Caches


@dataclass(eq=False)
class Group:
    """Sequences and the caches of their rows, in this order; plain caches where there is one."""

    seqs: list[int]
    caches: Caches
    cuts: dict[int, int] = field(default_factory=dict)

    def settle(self) -> None:
        """Take back what `cuts` says."""
        if self.cuts:
            mlx_caches.cut(self.caches, [self.cuts.get(seq, 0) for seq in self.seqs])
            self.cuts = {}

    def part(self, seqs: list[int]) -> Group:
        """Some of the sequences as a group of their own; this one stays as it is."""
        rows = [self.seqs.index(seq) for seq in seqs]
        caches = self.caches
        if len(seqs) == 1 and len(self.seqs) > 1:
            caches = mlx_caches.alone(caches, rows[0])
        elif len(seqs) < len(self.seqs):
            caches = mlx_caches.part(caches, rows)
        return Group(seqs, caches)


class Batches:
    """All sequences, each in one group."""

    def __init__(self) -> None:
        self._groups: dict[int, Group] = {}  # by sequence

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, seq: int, caches: Caches) -> None:
        """A sequence, alone with these plain caches."""
        self._groups[seq] = Group([seq], caches)

    def copy(self, seq: int) -> Caches:
        """The plain caches of a sequence, for another one to go on with; memory is shared until one of them writes."""
        group = self._groups[seq]
        group.settle()
        if len(group.seqs) > 1:
            return mlx_caches.alone(group.caches, group.seqs.index(seq))
        return mlx_caches.copies(group.caches)

    def take(self, seq: int, *, keep: bool) -> Caches | None:
        """End a sequence; its plain caches where they are to be kept."""
        group = self._groups.pop(seq)
        group.settle()
        taken = group.part([seq]).caches if keep else None
        rest = [other for other in group.seqs if other != seq]
        if rest:
            self._place(group.part(rest))
        return taken

    def gather(self, seqs: Iterable[int]) -> Group:
        """The group of exactly these sequences, in whatever order it has them."""
        wanted = set(seqs)
        parts: list[Group] = []
        rests: list[Group] = []
        for group in dict.fromkeys(self._groups[seq] for seq in seqs):
            group.settle()
            rest = [seq for seq in group.seqs if seq not in wanted]
            parts.append(group.part([seq for seq in group.seqs if seq in wanted]) if rest else group)
            if rest:
                rests.append(group.part(rest))
        whole = _joined(parts)
        for group in (*rests, whole):
            self._place(group)
        return whole

    def cut(self, seq: int, tokens: int) -> None:
        """Take the last tokens of a sequence back, before anything else is done with it."""
        cuts = self._groups[seq].cuts
        cuts[seq] = cuts.get(seq, 0) + tokens

    def group(self, seq: int) -> Group:
        """The group that a sequence is in now."""
        group = self._groups[seq]
        group.settle()
        return group

    @property
    def bytes(self) -> int:
        return self.bytes_without(())

    def bytes_without(self, seqs: Container[int]) -> int:
        """Bytes of the groups, of those with some of these sequences only the share of the others."""
        held = 0
        for group in dict.fromkeys(self._groups.values()):
            others = sum(seq not in seqs for seq in group.seqs)
            held += mlx_caches.size(group.caches) * others // len(group.seqs) if others else 0
        return held

    def clear(self) -> None:
        self._groups.clear()

    def _place(self, group: Group) -> Group:
        self._groups.update(dict.fromkeys(group.seqs, group))
        return group


def _joined(parts: list[Group]) -> Group:
    """One group of several: those of one sequence at once, the rest one after another."""
    if len(parts) == 1:
        return parts[0]
    single = [part for part in parts if len(part.seqs) == 1]
    several = sorted((part for part in parts if len(part.seqs) > 1), key=lambda part: -len(part.seqs))
    if single:
        several.append(Group([s.seqs[0] for s in single], mlx_caches.joined([s.caches for s in single])))
    whole = several[0]
    for more in several[1:]:
        whole = Group(whole.seqs + more.seqs, mlx_caches.extended(whole.caches, more.caches))
    return whole
