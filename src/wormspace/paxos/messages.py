"""What proposers and acceptors say to each other.

A message speaks of one *segment*: an array of registers that share promises and die together,
named by a space and a number.  Messages may be lost, delayed, duplicated and reordered; each is
safe to handle twice.  The byte layout is in docs/protocol.md.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from wormspace.addresses import Bound, Offset, SegmentBound, SegmentNumber, SpaceName, Span
from wormspace.paxos.ballot import BALLOT_BYTES, NOTHING
from wormspace.paxos.ranges import Range

Ballot: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=BALLOT_BYTES, max_length=BALLOT_BYTES)]

MAX_ITEMS = 1 << 12
"""Registers in one write, and spans in one message of decisions."""

MAX_SPANS = 1 << 15
"""Spans in one read: more than a report leaves open between its rows (`server_page_bytes`)."""

COMPLETE = -1
"""As the `next` of a report: there is no further page."""


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an acceptor accepted for one register, and whether it knows it to be decided."""

    offset: int
    ballot: bytes = NOTHING
    value: bytes = b""
    decided: bool = False


class RefusedWrite(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A write that was refused: the register has promised `promised`.

    When `promised` equals the write's own ballot, another value was accepted under it.
    """

    offset: int
    promised: bytes


# ------------------------------------------------------------------ proposer to acceptor


class Capture(msgspec.Struct, frozen=True, array_like=True, tag="capture"):
    """Phase 1 on [start, stop): promise to refuse every lower ballot on all of it."""

    space: SpaceName
    segment: SegmentNumber
    start: Bound
    stop: Bound
    ballot: Ballot


class Write(msgspec.Struct, frozen=True, array_like=True, tag="write"):
    """Phase 2: accept `values[i]` for `offsets[i]` under `ballot`; each stands alone."""

    space: SpaceName
    segment: SegmentNumber
    ballot: Ballot
    offsets: Annotated[list[Offset], msgspec.Meta(max_length=MAX_ITEMS)]
    values: Annotated[list[bytes], msgspec.Meta(max_length=MAX_ITEMS)]


class Read(msgspec.Struct, frozen=True, array_like=True, tag="read"):
    """Report what was accepted in `spans`; with `detail`, also what was promised."""

    space: SpaceName
    segment: SegmentNumber
    spans: Annotated[list[Span], msgspec.Meta(max_length=MAX_SPANS)]
    detail: bool = False


class Decided(msgspec.Struct, frozen=True, array_like=True, tag="decided"):
    """One-way: in `spans`, whatever was accepted at `ballot` or above is decided."""

    space: SpaceName
    segment: SegmentNumber
    ballot: Ballot
    spans: Annotated[list[Span], msgspec.Meta(max_length=MAX_ITEMS)]


class Trim(msgspec.Struct, frozen=True, array_like=True, tag="trim"):
    """The trim registers of segments [segment, stop) are decided: delete, keep a tombstone."""

    space: SpaceName
    segment: SegmentNumber
    stop: SegmentBound


# ------------------------------------------------------------------ acceptor to proposer


class Promise(msgspec.Struct, frozen=True, array_like=True, tag="promise"):
    """The capture is granted; `rows` are what was accepted in its range, below offset `next`.

    Unless `next` is `COMPLETE`, the rest is to be had with `Read`: after the promise it cannot
    change except under the capture's own ballot or a higher one.
    """

    rows: list[Row]
    next: int


class Reject(msgspec.Struct, frozen=True, array_like=True, tag="reject"):
    """The capture is refused: `promised` is the highest ballot promised in its range."""

    promised: bytes


class Written(msgspec.Struct, frozen=True, array_like=True, tag="written"):
    """Every offset of the write was accepted, durably, but for those in `refused`."""

    refused: list[RefusedWrite]


class Report(msgspec.Struct, frozen=True, array_like=True, tag="report"):
    """The non-empty registers of the spans read, below offset `next`, or all if `COMPLETE`."""

    rows: list[Row]
    next: int
    promises: list[Range] = []


class SegmentTrimmed(msgspec.Struct, frozen=True, array_like=True, tag="gone"):
    """The segment is trimmed; every access to it is answered so, for ever."""


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """The request was carried out, durably, and has no result."""


Request: TypeAlias = Capture | Write | Read | Decided | Trim
Reply: TypeAlias = Promise | Reject | Written | Report | SegmentTrimmed | Done
