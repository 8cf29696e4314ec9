"""The acceptor: what one server promises, accepts and reports about the registers of a segment.

Each handler is a pure function of the slice of durable state that a message speaks of, and
returns the new slice and the answer.  The server applies the slice to its store, syncs, and only
then sends the answer; that order, and these functions, are all that safety rests on.

State of one register: the ballot it has promised (`ballot_at` over the promise ranges, `UNSAFE`
from the start) and the row it has accepted (`NOTHING` if none).  Always row.ballot <= promised.
"""

from __future__ import annotations

from wormspace.paxos.ballot import UNSAFE
from wormspace.paxos.messages import Row
from wormspace.paxos.ranges import Range, ballot_at, covers, highest, overlay

ACCEPTED = b""
"""The verdict of `on_write` on a value that was accepted; anything else is a refusing ballot."""


def on_capture(
    promises: tuple[Range, ...], lo: int, hi: int, ballot: bytes
) -> tuple[tuple[Range, ...], bytes]:
    """Phase 1: promise `ballot` on all of [lo, hi), or refuse.

    Args:
        promises: every promise that overlaps or touches [lo, hi).

    Returns:
        The promises that replace them, and the highest ballot promised so far in the range.
        Granted iff that is below `ballot`; else the promises are unchanged.

    Accepted writes raise promises, so no accepted row needs to be looked at.  The zero ballot is
    always refused: it is promised everywhere from the start.
    """
    top = highest(promises, lo, hi)
    if ballot > top:
        return overlay(promises, Range(lo, hi, ballot)), top
    return promises, top


def on_write(
    promises: tuple[Range, ...], row: Row, offset: int, ballot: bytes, value: bytes
) -> tuple[tuple[Range, ...], Row, bytes]:
    """Phase 2 for one register: accept `value` under `ballot`, or refuse.

    Args:
        promises: every promise that overlaps or touches `offset`.
        row: what was accepted for `offset` (ballot `NOTHING` if nothing was).

    Returns:
        The promises and the row that replace them, and a verdict: `ACCEPTED`, or the ballot that
        the register has promised.  A refusal changes nothing.

    Granted iff no higher ballot is promised and no other value was accepted under this one.
    Accepting raises the promise to `ballot`: without that, a capture between `row.ballot` and
    the old promise could be granted after the fact.
    """
    promised = ballot_at(promises, offset)
    if ballot < promised:
        return promises, row, promised
    if ballot == row.ballot:
        if value == row.value:
            return promises, row, ACCEPTED
        return promises, row, ballot
    if promised < ballot:
        promises = overlay(promises, Range(offset, offset + 1, ballot))
    return promises, Row(offset, ballot, value), ACCEPTED


def decided_step(known: bool, mark: Range, offset: int, ballot: bytes) -> bool:
    """Fold step of `is_decided`."""
    return known or (covers(mark, offset) and ballot >= mark.ballot)


def is_decided(marks: tuple[Range, ...], offset: int, ballot: bytes) -> bool:
    """Whether what was accepted for `offset` under `ballot` is the decided value.

    A mark (lo, hi, b) says that the registers of [lo, hi) were decided at ballot b.  From b on
    only the decided value can be proposed (the immutability lemma), so whatever was accepted at b
    or above is it.
    """
    known = False
    for mark in marks:
        known = decided_step(known, mark, offset, ballot)
    return known


def on_decided(marks: tuple[Range, ...], lo: int, hi: int, ballot: bytes) -> tuple[Range, ...]:
    """Remember that the registers of [lo, hi) were decided at `ballot`.

    A mark is a hint that saves readers a quorum; forgetting one is safe.
    """
    return overlay(marks, Range(lo, hi, ballot))


def on_trim(tombstones: tuple[Range, ...], lo: int, hi: int) -> tuple[Range, ...]:
    """Put a tombstone on the segments [lo, hi): from now on all access to them is answered
    `SegmentTrimmed`.

    Args:
        tombstones: every tombstone that overlaps or touches [lo, hi); their ballot is `UNSAFE`.
    """
    return overlay(tombstones, Range(lo, hi, UNSAFE))
