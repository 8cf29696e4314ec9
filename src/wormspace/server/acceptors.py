"""Messages to slices and back: find the state, call the handler, put the state.

Everything here runs within one batch of the store (or one view, for reads) and decides nothing:
the decisions are `paxos.acceptor`'s.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from wormspace.paxos.acceptor import ACCEPTED, is_decided, on_capture, on_decided, on_trim, on_write
from wormspace.paxos.messages import (
    COMPLETE,
    Capture,
    Decided,
    Done,
    Gone,
    Promise,
    Read,
    Refusal,
    Reject,
    Report,
    Row,
    Span,
    Trim,
    Write,
    Written,
)
from wormspace.paxos.ranges import Range
from wormspace.server import tables
from wormspace.store.engine import Batch, Item, View

PAGE_BYTES = 1 << 20
"""A report is cut off after the row that brings it to this size."""

UNWRITTEN = Row(0)
"""What a register that was never written holds, whatever its offset."""

FEW = 4
"""Up to so many ranges, folding over all of them beats looking for the right one."""


class Marks:
    """Decided marks that are not in the store yet: hints, safe to lose, saved with the next batch.

    By segment key; see `paxos.acceptor.on_decided`.
    """

    def __init__(self) -> None:
        self._pending: dict[bytes, tuple[Range, ...]] = {}

    def __len__(self) -> int:
        return sum(len(marks) for marks in self._pending.values())

    def learn(self, view: View, d: Decided) -> None:
        """Take in what a writer learned; nothing is written yet."""
        space = tables.find_space(view, d.space)
        if space is None:
            return
        prefix = tables.segment_key(space, d.segment)
        marks = self._pending.get(prefix, ())
        for lo, hi in d.spans:
            marks = on_decided(marks, lo, hi, d.ballot)
        self._pending[prefix] = marks

    def find(
        self, view: View, prefix: bytes, lo: int, hi: int
    ) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
        """The marks that overlap [lo, hi): the stored ones (disjoint, ascending), the others."""
        stored = tables.load_slice(view, tables.DECIDED, prefix, lo, hi)
        return stored, self._pending.get(prefix, ())

    def save(self, batch: Batch) -> None:
        """Move them into the store."""
        pending, self._pending = self._pending, {}
        for prefix, marks in pending.items():
            space, segment = prefix[:4], int.from_bytes(prefix[4:], "big")
            if tables.is_trimmed(batch, space, segment):
                continue
            for mark in marks:
                old = tables.load_slice(batch, tables.DECIDED, prefix, mark.lo, mark.hi)
                new = on_decided(old, mark.lo, mark.hi, mark.ballot)
                tables.store_slice(batch, tables.DECIDED, prefix, old, new)


def capture(batch: Batch, marks: Marks, m: Capture) -> Promise | Reject | Gone:
    """Handle a capture within a batch."""
    space = tables.intern_space(batch, m.space)
    if tables.is_trimmed(batch, space, m.segment):
        return Gone()
    prefix = tables.segment_key(space, m.segment)
    old = tables.load_slice(batch, tables.PROMISES, prefix, m.start, m.stop)
    new, top = on_capture(old, m.start, m.stop, m.ballot)
    if new is old:
        return Reject(top)
    tables.store_slice(batch, tables.PROMISES, prefix, old, new)
    rows, following = _page(batch, marks, prefix, [(m.start, m.stop)])
    return Promise(rows, following)


def write(batch: Batch, m: Write) -> tuple[Written | Gone, Write | None]:
    """Handle a write within a batch; also returns what of it was news, for listeners."""
    space = tables.intern_space(batch, m.space)
    if tables.is_trimmed(batch, space, m.segment):
        return Gone(), None
    prefix = tables.segment_key(space, m.segment)
    keys = tables.row_keys(prefix, m.offsets)
    stored = batch.get_many(tables.ROWS, keys)
    promises = held = tables.load_slice(
        batch, tables.PROMISES, prefix, min(m.offsets), max(m.offsets) + 1
    )
    narrow = len(held) > FEW
    ballot = m.ballot
    refused: list[Refusal] = []
    replayed: list[int] = []
    items: list[Item] = []
    for offset, value, key, found in zip(m.offsets, m.values, keys, stored, strict=True):
        row = UNWRITTEN if found is None else Row(offset, *tables.split_row(found))
        if narrow:
            promises = held = tables.load_slice(batch, tables.PROMISES, prefix, offset, offset + 1)
        promises, new, verdict = on_write(promises, row, offset, ballot, value)
        if verdict != ACCEPTED:
            refused.append(Refusal(offset, verdict))
            continue
        if new is row:
            replayed.append(offset)
        else:
            items.append((key, new.ballot + new.value))
        if narrow:
            tables.store_slice(batch, tables.PROMISES, prefix, held, promises)
    if not narrow:
        tables.store_slice(batch, tables.PROMISES, prefix, held, promises)
    batch.put_many(tables.ROWS, items)
    return Written(refused), _news(m, len(items), {*replayed, *(r.offset for r in refused)})


def _news(m: Write, fresh: int, stale: set[int]) -> Write | None:
    """What of a write listeners have not heard of yet."""
    if not stale:
        return m
    if not fresh:
        return None
    kept = [(o, v) for o, v in zip(m.offsets, m.values, strict=True) if o not in stale]
    return Write(m.space, m.segment, m.ballot, [o for o, _ in kept], [v for _, v in kept])


def read(view: View, marks: Marks, m: Read) -> Report | Gone:
    """Handle a read from a view of what is durable."""
    space = tables.find_space(view, m.space)
    if space is None:
        return Report([], COMPLETE)
    if tables.is_trimmed(view, space, m.segment):
        return Gone()
    prefix = tables.segment_key(space, m.segment)
    rows, following = _page(view, marks, prefix, m.spans)
    if not m.detail:
        return Report(rows, following)
    promises = tables.load_slice(view, tables.PROMISES, prefix, m.spans[0][0], m.spans[-1][1])
    return Report(rows, following, list(promises))


def trim(batch: Batch, m: Trim) -> tuple[Done, bool]:
    """Put tombstones on [m.segment, m.stop); also returns whether that is news."""
    space = tables.intern_space(batch, m.space)
    old = tables.trimmed_ranges(batch, space, m.segment, m.stop)
    new = on_trim(old, m.segment, m.stop)
    if set(new) == set(old):
        return Done(), False
    tables.store_slice(batch, tables.TRIMMED, space, old, new)
    batch.put(tables.GARBAGE, tables.segment_key(space, m.segment), m.stop.to_bytes(8, "big"))
    return Done(), True


def sweep(batch: Batch, limit: int) -> int:
    """Delete up to `limit` keys of trimmed segments; returns how many there were to delete."""
    deleted = 0
    for key, stored in _first_garbage(batch):
        space = key[:4]
        end = space + stored
        for table in (tables.ROWS, tables.PROMISES, tables.DECIDED):
            doomed = []
            for item in batch.scan(table, key, end):
                doomed.append(item[0])
                if deleted + len(doomed) >= limit:
                    break
            for k in doomed:
                batch.delete(table, k)
            deleted += len(doomed)
            if deleted >= limit:
                return deleted
        batch.delete(tables.GARBAGE, key)
        deleted += 1
    return deleted


def has_garbage(view: View) -> bool:
    """Whether trimmed segments wait to be swept."""
    return any(True for _ in _first_garbage(view))


def _first_garbage(view: View) -> list[Item]:
    for item in view.scan(tables.GARBAGE, b"", b"\xff" * 16):
        return [item]
    return []


def _page(view: View, marks: Marks, prefix: bytes, spans: list[Span]) -> tuple[list[Row], int]:
    """The rows of the spans, marked as decided where that is known, up to a page."""
    rows: list[Row] = []
    room = PAGE_BYTES
    stored, pending = marks.find(view, prefix, spans[0][0], spans[-1][1])
    narrow = len(stored) > FEW
    starts = [mark.lo for mark in stored] if narrow else []
    known = stored + pending
    for offset, held in _accepted(view, prefix, spans):
        if room <= 0:
            return rows, offset
        room -= len(held) + 16
        if narrow:
            at = bisect_right(starts, offset)
            known = stored[max(0, at - 1) : at] + pending
        ballot, value = tables.split_row(held)
        rows.append(Row(offset, ballot, value, is_decided(known, offset, ballot)))
    return rows, COMPLETE


def _accepted(view: View, prefix: bytes, spans: list[Span]) -> Iterator[tuple[int, bytes]]:
    """Offset and stored row of what was accepted, in order; runs of single registers at once."""
    singles: list[int] = []
    for lo, hi in spans:
        if hi - lo == 1:
            singles.append(lo)
            continue
        yield from _singles(view, prefix, singles)
        singles = []
        yield from tables.scan_rows(view, prefix, lo, hi)
    yield from _singles(view, prefix, singles)


def _singles(view: View, prefix: bytes, offsets: list[int]) -> list[tuple[int, bytes]]:
    if not offsets:
        return []
    found = view.get_many(tables.ROWS, tables.row_keys(prefix, offsets))
    return [(offset, held) for offset, held in zip(offsets, found, strict=True) if held is not None]
