"""Ballots over ranges of offsets: how promises and decisions are kept.

A `Range` says "`ballot`, on every offset of [lo, hi)".  A tuple of ranges is a map from offsets
to ballots; where none covers an offset, the map says nothing about it.  A capture of a whole
segment, of any size, is one range, and a later capture cuts away what it supersedes, so the map
stays as small as the number of captures that still stand.

The functions take the *slice* of a map that the store found for a message: every range that
overlaps or touches what the message speaks of.  They are right for any tuple of ranges that are
not empty, whatever their order and whether they overlap, so the store need only be trusted to
leave nothing out.  Beyond that, `overlay` keeps ranges disjoint and not empty if they were so:
a store may rely on it, to key them by `lo` and to look them up by it.
"""

from __future__ import annotations

import msgspec

from wormspace.paxos.ballot import UNSAFE


class Range(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`ballot` on every offset of [lo, hi)."""

    lo: int
    hi: int
    ballot: bytes


def covers(r: Range, offset: int) -> bool:
    """Whether `offset` lies in the range."""
    return r.lo <= offset and offset < r.hi


def overlaps(r: Range, lo: int, hi: int) -> bool:
    """Whether the range shares an offset with [lo, hi)."""
    return r.lo < hi and lo < r.hi


def ballot_at(ranges: tuple[Range, ...], offset: int) -> bytes:
    """The highest ballot on `offset`; `UNSAFE` where no range covers it.

    `covers`, and the fold's step, are written out: this is on the path of every write.
    """
    top = UNSAFE
    for r in ranges:
        if r.lo <= offset and offset < r.hi and r.ballot > top:
            top = r.ballot
    return top


def highest_step(top: bytes, r: Range, lo: int, hi: int) -> bytes:
    """Fold step of `highest`."""
    if overlaps(r, lo, hi) and r.ballot > top:
        return r.ballot
    return top


def highest(ranges: tuple[Range, ...], lo: int, hi: int) -> bytes:
    """The highest ballot on any offset of [lo, hi); `UNSAFE` if there is none."""
    top = UNSAFE
    for r in ranges:
        top = highest_step(top, r, lo, hi)
    return top


def absorb_step(grown: Range, r: Range) -> Range:
    """Fold step: widen `grown` by a range of the same ballot that overlaps or touches it."""
    if r.ballot != grown.ballot or r.hi < grown.lo or grown.hi < r.lo:
        return grown
    lo = r.lo if r.lo < grown.lo else grown.lo
    hi = r.hi if r.hi > grown.hi else grown.hi
    return Range(lo, hi, grown.ballot)


def within(r: Range, grown: Range) -> bool:
    """Whether `grown` says all that `r` says."""
    return r.ballot == grown.ballot and grown.lo <= r.lo and r.hi <= grown.hi


def cut_step(kept: tuple[Range, ...], r: Range, new: Range, grown: Range) -> tuple[Range, ...]:
    """Fold step: keep of `r` what lies outside `new` and is not already said by `grown`."""
    if within(r, grown):
        return kept
    if not overlaps(r, new.lo, new.hi):
        return (*kept, r)
    if r.lo < new.lo:
        kept = (*kept, Range(r.lo, new.lo, r.ballot))
    if new.hi < r.hi:
        kept = (*kept, Range(new.hi, r.hi, r.ballot))
    return kept


def overlay(ranges: tuple[Range, ...], new: Range) -> tuple[Range, ...]:
    """The map after `new` was laid over it: `new.ballot` inside, unchanged outside.

    Neighbours with the same ballot become one range.
    """
    grown = new
    for r in ranges:
        grown = absorb_step(grown, r)
    kept: tuple[Range, ...] = ()
    for r in ranges:
        kept = cut_step(kept, r, new, grown)
    return (*kept, grown)
