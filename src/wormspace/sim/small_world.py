"""Small worlds to explore: the shipped acceptor handlers, and who uses them (`_actors`).

An acceptor here is `paxos.acceptor` on the whole of its state: what the store finds for a message
in the server is here everything there is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from wormspace.paxos import acceptor
from wormspace.paxos.messages import Refusal, Row
from wormspace.paxos.ranges import Range
from wormspace.register.token import as_spans
from wormspace.sim._actors import (
    Answer,
    Plan,
    Proposer,
    Reader,
    UnsafeWriter,
    Wish,
    show_ballot,
    show_row,
)
from wormspace.sim.explore import Actor

__all__ = ["Paxos", "Plan"]


class Disk(NamedTuple):
    """An acceptor's state.  `marks` are in memory: the store saves them when it likes."""

    promises: tuple[Range, ...] = ()
    rows: tuple[Row, ...] = ()
    marks: tuple[Range, ...] = ()


class Paxos:
    """A `SmallWorld` of the plan."""

    def __init__(self, plan: Plan) -> None:
        self.actors: list[Actor] = []
        for i, span in enumerate(plan.spans):
            self.actors.append(Proposer(chr(ord("A") + i), span, plan))
        if plan.unsafe:
            self.actors.append(UnsafeWriter(plan))
        if plan.reader is not None:
            self.actors.append(Reader(plan.reader, plan))

    def acceptor(self) -> Disk:
        """An empty one."""
        return Disk()

    def handle(self, disk: Disk, wish: Wish) -> tuple[Disk, Answer | None]:
        """See `SmallWorld`; the shipped handlers, on all there is."""
        if wish.kind == "capture":
            promises, top = acceptor.on_capture(disk.promises, wish.start, wish.stop, wish.ballot)
            if promises is disk.promises:
                return disk, Answer("reject", top)
            disk = disk._replace(promises=_ordered(promises))
            return disk, Answer("promise", rows=self._report(disk, wish))
        if wish.kind == "write":
            return self._write(disk, wish)
        if wish.kind == "decided":
            marks = disk.marks
            for lo, hi in as_spans([offset for offset, _ in wish.values]):
                marks = acceptor.on_decided(marks, lo, hi, wish.ballot)
            return disk._replace(marks=_ordered(marks)), None
        return disk, Answer("report", rows=self._report(disk, wish))

    def _write(self, disk: Disk, wish: Wish) -> tuple[Disk, Answer]:
        promises = disk.promises
        rows = {row.offset: row for row in disk.rows}
        refused = []
        for offset, value in wish.values:
            row = rows.get(offset, Row(offset))
            promises, row, verdict = acceptor.on_write(promises, row, offset, wish.ballot, value)
            if verdict == acceptor.ACCEPTED:
                rows[offset] = row
            else:
                refused.append(Refusal(offset, verdict))
        kept = tuple(rows[offset] for offset in sorted(rows))
        return Disk(_ordered(promises), kept, disk.marks), Answer("written", refused=tuple(refused))

    def _report(self, disk: Disk, wish: Wish) -> tuple[Row, ...]:
        return tuple(
            Row(r.offset, r.ballot, r.value, acceptor.is_decided(disk.marks, r.offset, r.ballot))
            for r in disk.rows
            if wish.start <= r.offset < wish.stop
        )

    def restart(self, disk: Disk) -> Disk:
        """Promises and rows are on disk; marks that were not saved yet are gone."""
        return disk._replace(marks=())

    def votes(self, wish: Wish, answer: Answer) -> frozenset[Any]:
        """See `SmallWorld`."""
        if wish.kind != "write":
            return frozenset()
        refused = {r.offset for r in answer.refused}
        return frozenset((o, wish.ballot, v) for o, v in wish.values if o not in refused)

    def conflict(self, chosen: frozenset[Any]) -> str:
        """Immutability: one value per register."""
        values: dict[int, bytes] = {}
        for offset, ballot, value in sorted(chosen):
            if values.setdefault(offset, value) != value:
                return (
                    f"immutability: register {offset} is decided as {values[offset].decode()} "
                    f"and, at {show_ballot(ballot)}, as {value.decode()}"
                )
        return ""

    def show(self, disk: Disk) -> str:
        """For transcripts."""
        promises = ", ".join(f"[{r.lo}, {r.hi}) {show_ballot(r.ballot)}" for r in disk.promises)
        rows = ", ".join(show_row(row) for row in disk.rows)
        return f"has promised {promises or 'nothing'}, accepted {rows or 'nothing'}"


def _ordered(ranges: tuple[Range, ...]) -> tuple[Range, ...]:
    """As the store would give them back."""
    return tuple(sorted(ranges, key=lambda r: r.lo))
