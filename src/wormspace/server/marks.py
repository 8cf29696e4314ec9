"""Decided marks that are not in the store yet: hints, safe to lose, saved with later batches.

A mark is laid over its neighbours alone, so that learning one costs the same however many there
are (`paxos.ranges`: an overlay of the slice is an overlay of the whole map).  There are at most
`KNOBS.server_marks_pending` at a time; while the store cannot take them, new ones are forgotten.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from wormspace.knobs import KNOBS
from wormspace.paxos.acceptor import on_decided
from wormspace.paxos.messages import Decided
from wormspace.paxos.ranges import Range
from wormspace.server import tables
from wormspace.server.dividing import part_end
from wormspace.store.engine import Batch, View


class RangeMap:
    """Disjoint ranges in memory: found by their beginning, in the order of offsets."""

    __slots__ = ("_by_lo", "_los")

    def __init__(self) -> None:
        self._los: list[int] = []
        self._by_lo: dict[int, Range] = {}

    def __len__(self) -> int:
        return len(self._los)

    def all(self) -> list[Range]:
        """Every range, in no order."""
        return list(self._by_lo.values())

    def at(self, offset: int) -> Range | None:
        """The range that covers the offset, if any."""
        i = bisect_right(self._los, offset)
        if not i:
            return None
        r = self._by_lo[self._los[i - 1]]
        return r if offset < r.hi else None

    def lay(self, lo: int, hi: int, ballot: bytes) -> None:
        """Lay a mark over what there is."""
        los, by_lo = self._los, self._by_lo
        first = bisect_left(los, lo)
        if first and by_lo[los[first - 1]].hi >= lo:
            first -= 1
        last = bisect_right(los, hi, first)
        old = tuple([by_lo.pop(at) for at in los[first:last]])
        new = on_decided(old, lo, hi, ballot)
        for r in new:
            by_lo[r.lo] = r
        if len(new) == len(old) == 1:
            los[first] = new[0].lo
        else:
            los[first:last] = sorted([r.lo for r in new])

    def take(self, most: int) -> list[Range]:
        """Remove the first ranges, up to so many."""
        taken = [self._by_lo.pop(lo) for lo in self._los[:most]]
        del self._los[:most]
        return taken


class Marks:
    """The marks that wait, by segment key; see `paxos.acceptor.on_decided`."""

    def __init__(self) -> None:
        self._pending: dict[bytes, RangeMap] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def learn(self, view: View, d: Decided) -> None:
        """Take in what a writer learned; nothing is written yet.

        Costs the logarithm of what is pending for each span, and a constant for each mark that is
        superseded.
        """
        space = tables.find_space(view, d.space)
        if space is None or self._count >= KNOBS.server_marks_pending:
            return
        prefix = tables.segment_key(space, d.segment)
        marks = self._pending.get(prefix)
        if marks is None:
            marks = self._pending[prefix] = RangeMap()
        before = len(marks)
        for lo, hi in d.spans:
            marks.lay(lo, hi, d.ballot)
        self._count += len(marks) - before

    def of(self, prefix: bytes) -> RangeMap | None:
        """The pending marks of a segment, if there are any."""
        return self._pending.get(prefix)

    def save(self, batch: Batch, most: int) -> None:
        """Move up to `most` of them into the store.

        They replace no more stored ones than a request may in a turn; what is left of a mark that
        would is saved with a later batch.
        """
        room = KNOBS.server_supersede
        while most > 0 and room > 0 and self._pending:
            prefix, marks = next(iter(self._pending.items()))
            before = len(marks)
            taken = marks.take(most)
            most -= max(1, len(taken))
            try:
                if not tables.is_trimmed(batch, prefix[:4], int.from_bytes(prefix[4:], "big")):
                    left, room = _save(batch, prefix, taken, room)
                    for mark in left:
                        marks.lay(mark.lo, mark.hi, mark.ballot)
            finally:
                self._count += len(marks) - before
            if not marks:
                del self._pending[prefix]


def _save(batch: Batch, prefix: bytes, marks: list[Range], room: int) -> tuple[list[Range], int]:
    """Save marks of one segment, replacing up to `room` stored ones; what is left of both."""
    for i, mark in enumerate(marks):
        if room <= 0:
            return marks[i:], room
        old = tables.load_slice(batch, tables.DECIDED, prefix, mark.lo, mark.hi, room + 1)
        end = mark.hi if len(old) <= room else min(mark.hi, part_end(old, mark.lo))
        new = on_decided(old, mark.lo, end, mark.ballot)
        tables.store_slice(batch, tables.DECIDED, prefix, old, new)
        room -= len(old)
        if end < mark.hi:
            return [Range(end, mark.hi, mark.ballot), *marks[i + 1 :]], 0
    return [], room
