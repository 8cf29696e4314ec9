"""Read registers: one server's word where it knows the decision, else a majority's.

A `Reading` asks one server first.  What that server knows to be decided is the answer, after one
round trip to one server.  The rest is asked of everybody; of a majority's reports on a register,
nothing accepted means *empty* (linearizably so: any write decided before the read began would have
been met), the highest ballot accepted by a majority means *decided*, and anything else is
*half-written*: the caller helps it (`accept`, the very same ballot and value), and takes a ballot
of its own only if that is refused.
"""

from __future__ import annotations

import msgspec

from wormspace.addresses import Span
from wormspace.paxos.effects import Send, to_all
from wormspace.paxos.messages import COMPLETE, Read, Report, Row
from wormspace.paxos.prepare import ClashingReports, clash
from wormspace.paxos.quorum import is_quorum

ASKING_ONE, ASKING_ALL, ANSWERED = "asking one", "asking all", "answered"


class Found(msgspec.Struct, frozen=True, gc=False):
    """The best row reported for a register, and the servers that accepted just that."""

    row: Row
    voters: int


class Reading(msgspec.Struct, frozen=True):
    """A read of the registers in `spans` (disjoint, ascending).

    Attributes:
        first: the server asked first.
        open: what is still asked: the spans without the registers known to be decided.
        heard: servers whose report on `open` is complete.
        found: per register that anybody accepted; by offset.
    """

    servers: int
    space: str
    segment: int
    spans: tuple[Span, ...]
    first: int
    phase: str = ASKING_ONE
    open: tuple[Span, ...] = ()
    heard: int = 0
    found: tuple[Found, ...] = ()


def begin(r: Reading) -> tuple[Reading, tuple[Send, ...]]:
    """Ask the first server."""
    r = msgspec.structs.replace(r, open=r.spans)
    return r, (Send(r.first, Read(r.space, r.segment, list(r.open))),)


def widen(r: Reading) -> tuple[Reading, tuple[Send, ...]]:
    """Ask everybody who has not answered: the first server is slow, or did not know."""
    if r.phase == ANSWERED:
        return r, ()
    r = msgspec.structs.replace(r, phase=ASKING_ALL)
    return r, to_all(r.servers, Read(r.space, r.segment, list(r.open)), but=r.heard)


def count_step(known: Found, row: Row, bit: int) -> Found:
    """Fold step: one server's report on a register that another reported before."""
    if known.row.decided:
        return known
    if row.decided or row.ballot > known.row.ballot:
        return Found(row, bit)
    if row.ballot == known.row.ballot:
        return Found(known.row, known.voters | bit)
    return known


def is_known(f: Found, servers: int) -> bool:
    """Whether the register's value is decided, by one server's word or by a majority's votes."""
    return f.row.decided or is_quorum(f.voters, servers)


def on_report(r: Reading, server: int, report: Report) -> tuple[Reading, tuple[Send, ...]]:
    """A page of a server's report; the last page makes the server heard.

    Raises:
        ClashingReports: two values under one ballot.
    """
    bit = 1 << server
    if r.phase == ANSWERED or r.heard & bit:
        return r, ()
    r = msgspec.structs.replace(r, found=_merge(r.found, report.rows, bit))
    if report.next != COMPLETE:
        rest = [(max(lo, report.next), hi) for lo, hi in r.open if hi > report.next]
        return r, (Send(server, Read(r.space, r.segment, rest)),)
    r = msgspec.structs.replace(r, heard=r.heard | bit)
    if is_quorum(r.heard, r.servers):
        return msgspec.structs.replace(r, phase=ANSWERED), ()
    if r.phase == ASKING_ALL:
        return r, ()
    known = [f.row.offset for f in r.found if is_known(f, r.servers)]
    r = msgspec.structs.replace(r, open=without(r.open, known))
    if not r.open:
        return msgspec.structs.replace(r, phase=ANSWERED), ()
    return widen(r)


def narrow(r: Reading, stop: int) -> Reading:
    """Read nothing from `stop` on: a server cut its report off there."""
    return msgspec.structs.replace(
        r,
        spans=below(r.spans, stop),
        open=below(r.open, stop),
        found=tuple(f for f in r.found if f.row.offset < stop),
    )


def below(spans: tuple[Span, ...], stop: int) -> tuple[Span, ...]:
    """What of `spans` lies below `stop`."""
    return tuple((lo, min(hi, stop)) for lo, hi in spans if lo < stop)


def without(spans: tuple[Span, ...], offsets: list[int]) -> tuple[Span, ...]:
    """`spans` less the `offsets` (both ascending)."""
    out: list[Span] = []
    i = 0
    for lo, hi in spans:
        start = lo
        while i < len(offsets) and offsets[i] < hi:
            if offsets[i] > start:
                out.append((start, offsets[i]))
            start = max(start, offsets[i] + 1)
            i += 1
        if start < hi:
            out.append((start, hi))
    return tuple(out)


def _merge(found: tuple[Found, ...], rows: list[Row], bit: int) -> tuple[Found, ...]:
    if not found:
        return tuple(Found(row, bit) for row in rows)
    merged = {f.row.offset: f for f in found}
    for row in rows:
        known = merged.get(row.offset)
        if known is None:
            merged[row.offset] = Found(row, bit)
            continue
        if clash(known.row, row):
            raise ClashingReports(row.offset, row.ballot)
        merged[row.offset] = count_step(known, row, bit)
    return tuple(merged[offset] for offset in sorted(merged))
