"""Acceptor state as keys and values: where `paxos` slices are found and put.

| table | key | value |
|---|---|---|
| spaces | space name | space id, 4 bytes |
| rows | space id, segment (8), offset (4) | ballot (16), value |
| promises, decided | space id, segment (8), lo (8) | hi (8), ballot (16) |
| trimmed | space id, lo segment (8) | hi segment (8), `UNSAFE` (16), for it is stored as a range |
| garbage | space id, segment (8) | segment (8): all below it, from the key's on, is to be deleted |
| counters | a name | a number, 8 bytes |

Numbers are big-endian, so that the order of keys is the order of addresses.  Each function here
looks up a constant number of keys, but where it says otherwise.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

from wormspace.paxos.ballot import BALLOT_BYTES
from wormspace.paxos.ranges import Range
from wormspace.store.engine import Batch, View

ROWS, PROMISES, DECIDED, TRIMMED, SPACES, GARBAGE, COUNTERS = (
    "rows",
    "promises",
    "decided",
    "trimmed",
    "spaces",
    "garbage",
    "counters",
)
MAX_OFFSET = 1 << 32
_offset_of = struct.Struct(">12xI").unpack
MAX_NAME_BYTES = 255
SPACES_COUNTED = b"spaces"
"""The counter of spaces that have an id."""

ROUNDS_REACHED = b"rounds"
"""The counter that says how far the rounds of ballots have come; see `rounds_reached`."""

ROUNDS_STEP = 1 << 32
"""That counter is kept in steps of this size, so that next to no capture has anything to put."""


def find_space(view: View, name: str) -> bytes | None:
    """The id under which the space is stored, if it is."""
    return view.get(SPACES, name.encode())


def intern_space(batch: Batch, name: str) -> bytes:
    """The id of the space, given to it now if it has none."""
    key = name.encode()
    found = batch.get(SPACES, key)
    if found is None:
        count = _counter(batch, SPACES_COUNTED)
        found = count.to_bytes(4, "big")
        batch.put(SPACES, key, found)
        batch.put(COUNTERS, SPACES_COUNTED, (count + 1).to_bytes(8, "big"))
    return found


def rounds_reached(view: View) -> int:
    """No ballot here has a round of more than `ROUNDS_STEP` above this."""
    return _counter(view, ROUNDS_REACHED)


def reach_round(batch: Batch, number: int) -> None:
    """Remember that ballots have come to this round."""
    if number > rounds_reached(batch) + ROUNDS_STEP:
        batch.put(COUNTERS, ROUNDS_REACHED, number.to_bytes(8, "big"))


def _counter(view: View, name: bytes) -> int:
    stored = view.get(COUNTERS, name)
    return int.from_bytes(stored, "big") if stored is not None else 0


def space_names(view: View, after: str, limit: int) -> list[str]:
    """Up to `limit` names above `after`, in order; costs so many keys."""
    names = []
    for key, _ in view.scan(SPACES, after.encode() + b"\0", b"\xff" * 256):
        names.append(key.decode())
        if len(names) == limit:
            break
    return names


def segment_key(space: bytes, segment: int) -> bytes:
    """The key prefix of a segment (or, in `trimmed` and `garbage`, the key)."""
    return space + segment.to_bytes(8, "big")


def row_keys(prefix: bytes, offsets: list[int]) -> list[bytes]:
    """The keys of registers' rows."""
    return [prefix + offset.to_bytes(4, "big") for offset in offsets]


def split_row(stored: bytes) -> tuple[bytes, bytes]:
    """Ballot and value of a row as it was stored."""
    return stored[:BALLOT_BYTES], stored[BALLOT_BYTES:]


def scan_rows(view: View, prefix: bytes, lo: int, hi: int) -> Iterator[tuple[int, bytes]]:
    """Offset and stored row of what was accepted in [lo, hi), by offset; a key at a time."""
    if lo >= hi:
        return
    first, last = row_keys(prefix, [lo, min(hi, MAX_OFFSET) - 1])
    for key, stored in view.scan(ROWS, first, last + b"\0"):
        yield _offset_of(key)[0], stored


# ------------------------------------------------------------------ maps of ranges


def load_slice(
    view: View, table: str, prefix: bytes, lo: int, hi: int, most: int = sys.maxsize
) -> tuple[Range, ...]:
    """The stored ranges that overlap or touch [lo, hi], ascending; the first `most` of them.

    Stored ranges are disjoint, so only the one that begins last before `lo` can reach it.  Costs a
    key for each range that is returned.
    """
    out: list[Range] = []
    first = view.floor(table, prefix + (lo - 1).to_bytes(8, "big")) if lo else None
    if first is not None and first[0].startswith(prefix):
        r = _load_range(*first)
        if r.hi >= lo:
            out.append(r)
    for key, stored in view.scan(
        table, prefix + lo.to_bytes(8, "big"), prefix + (hi + 1).to_bytes(8, "big")
    ):
        if len(out) >= most:
            break
        out.append(_load_range(key, stored))
    return tuple(out)


def range_at(view: View, table: str, prefix: bytes, offset: int) -> Range | None:
    """The stored range that covers the offset, if any."""
    found = view.floor(table, prefix + offset.to_bytes(8, "big"))
    if found is None or not found[0].startswith(prefix):
        return None
    r = _load_range(*found)
    return r if offset < r.hi else None


def store_slice(
    batch: Batch, table: str, prefix: bytes, old: tuple[Range, ...], new: tuple[Range, ...]
) -> None:
    """Replace the ranges `old`, as they were loaded, by `new`; costs a key for each change."""
    if new is old:
        return
    stay = set(new)
    for r in old:
        if r not in stay:
            batch.delete(table, prefix + r.lo.to_bytes(8, "big"))
    before = set(old)
    for r in new:
        if r not in before:
            batch.put(table, prefix + r.lo.to_bytes(8, "big"), r.hi.to_bytes(8, "big") + r.ballot)


def _load_range(key: bytes, stored: bytes) -> Range:
    return Range(int.from_bytes(key[-8:], "big"), int.from_bytes(stored[:8], "big"), stored[8:])


# ------------------------------------------------------------------ trimmed segments


def is_trimmed(view: View, space: bytes, segment: int) -> bool:
    """Whether the segment has a tombstone here."""
    found = view.floor(TRIMMED, segment_key(space, segment))
    return (
        found is not None
        and found[0].startswith(space)
        and segment < int.from_bytes(found[1][:8], "big")
    )


def trimmed_ranges(
    view: View, space: bytes, lo: int, hi: int, most: int = sys.maxsize
) -> tuple[Range, ...]:
    """The first tombstones that overlap or touch segments [lo, hi]; costs a key for each."""
    return load_slice(view, TRIMMED, space, lo, hi, most)


def segments_known(view: View, space: bytes) -> int:
    """A segment above all of the space that hold anything here, or have tombstones."""
    known = 0
    for table in (ROWS, PROMISES):
        found = view.floor(table, space + b"\xff" * 16)
        if found is not None and found[0].startswith(space):
            known = max(known, int.from_bytes(found[0][4:12], "big") + 1)
    found = view.floor(TRIMMED, space + b"\xff" * 8)
    if found is not None and found[0].startswith(space):
        known = max(known, int.from_bytes(found[1][:8], "big"))
    return known
