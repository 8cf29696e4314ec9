"""Phase 1: capture a range of registers, and learn what it meets.

A `Prepare` asks every server for a promise.  It is promised once a majority has promised and
reported all that it had accepted.  Then the captor must *complete*: for every register that
somebody had accepted and nobody knows to be decided, the value with the highest ballot
(`undecided`) is written under the new ballot (`accept`).  Only after that is the capture done, and
its holder may write any value to a register that was free, in one round trip.

It is preempted when no majority can promise any more; the way on is a new capture with a ballot
above `top`, after a random pause if somebody else keeps doing the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from wormspace.paxos.ballot import UNSAFE
from wormspace.paxos.effects import Send, to_all
from wormspace.paxos.messages import COMPLETE, Capture, Promise, Read, Report, Row
from wormspace.paxos.quorum import everyone, is_quorum, out_of_reach

Parts: TypeAlias = tuple[tuple[int, tuple[Row, ...]], ...]

PROMISING, PROMISED, PREEMPTED = "promising", "promised", "preempted"


class Prepare(msgspec.Struct, frozen=True):
    """A capture of [start, stop) under `ballot`.

    Attributes:
        granted: servers that promised; their report may still be coming in pages.
        promised: servers that promised and whose report is complete.
        rejected: servers that refused.
        top: the highest ballot that a refusal named.
        best: per register that anybody accepted, the row with the highest ballot: rows by offset,
            in parts that are numbered by the offsets they are for (`reported` has them all).
        part: how many registers a part is for.
    """

    servers: int
    space: str
    segment: int
    start: int
    stop: int
    ballot: bytes
    phase: str = PROMISING
    granted: int = 0
    promised: int = 0
    rejected: int = 0
    top: bytes = UNSAFE
    best: Parts = ()
    part: int = 4096


def better(a: Row, b: Row) -> Row:
    """Of two reports on one register, the one to believe: decided first, then higher ballot."""
    if a.decided:
        return a
    if b.decided or b.ballot > a.ballot:
        return b
    return a


def clash(a: Row, b: Row) -> bool:
    """Whether two reports on one register contradict each other: they never do.

    Two values under one ballot, or two decided values.
    """
    return a.value != b.value and (a.ballot == b.ballot or (a.decided and b.decided))


def merge(best: tuple[Row, ...], rows: list[Row]) -> tuple[Row, ...]:
    """The better report per register, by offset.

    Raises:
        ClashingReports: two values under one ballot.
    """
    if not rows:
        return best
    merged = {row.offset: row for row in best}
    for row in rows:
        known = merged.get(row.offset, row)
        if clash(known, row):
            raise ClashingReports(row.offset, row.ballot)
        merged[row.offset] = better(known, row)
    return tuple(merged[offset] for offset in sorted(merged))


def absorb(best: Parts, rows: list[Row], part: int) -> Parts:
    """`merge` of a page into what is known; costs what is in the page, and in parts that it meets.

    Raises:
        ClashingReports.
    """
    parts = {at: known for at, known in best}  # noqa: C416 - the prover knows comprehensions
    for at, some in by_part(rows, part):
        parts[at] = merge(parts.get(at, ()), some)
    return tuple((at, parts[at]) for at in sorted(parts))


def by_part(rows: list[Row], size: int) -> tuple[tuple[int, list[Row]], ...]:
    """Rows by the number of the part that their offset belongs to, ascending."""
    parts: dict[int, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.offset // size, []).append(row)
    return tuple((at, parts[at]) for at in sorted(parts))


class ClashingReports(Exception):
    """Two servers accepted different values for one register under one ballot."""

    def __init__(self, offset: int, ballot: bytes) -> None:
        super().__init__(offset, ballot)
        self.offset = offset
        self.ballot = ballot

    def __str__(self) -> str:
        return f"two values at offset {self.offset} under ballot {self.ballot.hex()}"


def begin(c: Prepare) -> tuple[Send, ...]:
    """Send it, or send again what has not been answered.

    A server that granted the capture but whose promise was lost refuses it the second time; if
    that costs the majority, the capture is preempted by itself and begun anew.  A report whose
    next page was lost is asked for from its start (or from that page on, by who knows it).
    """
    if c.phase != PROMISING:
        return ()
    ask = Capture(c.space, c.segment, c.start, c.stop, c.ballot)
    page = Read(c.space, c.segment, [(c.start, c.stop)])
    cut_off = everyone(c.servers) & ~(c.granted & ~c.promised)
    return (
        *to_all(c.servers, ask, but=c.granted | c.rejected),
        *to_all(c.servers, page, but=cut_off),
    )


def on_promise(c: Prepare, server: int, p: Promise) -> tuple[Prepare, tuple[Send, ...]]:
    """A server promised, with the first page of its report (or all of it)."""
    bit = 1 << server
    if c.phase != PROMISING or c.granted & bit:
        return c, ()
    c = msgspec.structs.replace(c, granted=c.granted | bit, best=absorb(c.best, p.rows, c.part))
    if p.next != COMPLETE:
        return c, (Send(server, Read(c.space, c.segment, [(p.next, c.stop)])),)
    return _reported(c, bit), ()


def on_report(c: Prepare, server: int, r: Report) -> tuple[Prepare, tuple[Send, ...]]:
    """A further page of the report of a server that promised.

    A row above the capture's own ballot means that the server has promised somebody else
    since; what it reports is then no longer what it had accepted at the time of the promise.
    """
    bit = 1 << server
    if c.phase != PROMISING or not c.granted & bit or c.promised & bit:
        return c, ()
    for row in r.rows:
        if row.ballot > c.ballot and not row.decided:
            return _rejected(c, bit, row.ballot), ()
    c = msgspec.structs.replace(c, best=absorb(c.best, r.rows, c.part))
    if r.next != COMPLETE:
        return c, (Send(server, Read(c.space, c.segment, [(r.next, c.stop)])),)
    return _reported(c, bit), ()


def on_reject(c: Prepare, server: int, promised: bytes) -> Prepare:
    """A server refused."""
    bit = 1 << server
    if c.phase != PROMISING or c.granted & bit:
        return c
    return _rejected(c, bit, promised)


def give_up(c: Prepare) -> Prepare:
    """Wait no longer for servers that are silent: one has refused, so a capture above it is needed
    unless all the others promise.  Giving up is always safe; it only takes another ballot."""
    if c.phase == PROMISING and c.rejected:
        return msgspec.structs.replace(c, phase=PREEMPTED)
    return c


def _rejected(c: Prepare, bit: int, promised: bytes) -> Prepare:
    rejected = c.rejected | bit
    return msgspec.structs.replace(
        c,
        granted=c.granted & ~bit,
        rejected=rejected,
        top=promised if promised > c.top else c.top,
        phase=PREEMPTED if out_of_reach(rejected, c.servers) else c.phase,
    )


def _reported(c: Prepare, bit: int) -> Prepare:
    promised = c.promised | bit
    return msgspec.structs.replace(
        c,
        promised=promised,
        phase=PROMISED if is_quorum(promised, c.servers) else c.phase,
    )


def undecided(c: Prepare) -> tuple[Row, ...]:
    """What the captor must write under its own ballot before the capture is done."""
    return tuple(row for _, part in c.best for row in part if not row.decided)


def reported(c: Prepare) -> Iterator[Row]:
    """All that was met, by offset."""
    return (row for _, part in c.best for row in part)
