"""Messages to slices and back: find the state, call the handler, put the state.

Everything here runs within one batch of the store (or one view, for reads) and decides nothing:
the decisions are `paxos.acceptor`'s.
"""

from __future__ import annotations

from collections.abc import Iterator

from wormspace.addresses import Span
from wormspace.knobs import KNOBS
from wormspace.paxos.acceptor import ACCEPTED, is_decided, on_capture, on_trim, on_write
from wormspace.paxos.ballot import BALLOT_BYTES, UNSAFE
from wormspace.paxos.messages import (
    COMPLETE,
    Capture,
    Done,
    Promise,
    Read,
    RefusedWrite,
    Reject,
    Report,
    Row,
    SegmentTrimmed,
    Trim,
    Write,
    Written,
)
from wormspace.paxos.ranges import Range, highest
from wormspace.server import tables
from wormspace.server.dividing import AtOnce, Divide, Turns, finish, in_parts
from wormspace.server.marks import Marks, RangeMap
from wormspace.store.engine import Batch, Item, View
from wormspace.wire.messages import BAD_REQUEST, Failed, Tombstones, Trims

ROW_BYTES = 64
"""What a row takes in a report beside its value."""

TRIM_REACH = 1 << 20
"""So far beyond the segments that it knows of a server lets a trim reach.

A server may know less than the others: it was away, or most segments are another partition's.  But
a trim of all segments there can ever be would end the space for good.
"""

NEVER = b"\xff" * (BALLOT_BYTES + 1)
"""Above every ballot."""

UNWRITTEN = Row(0)
"""What a register that was never written holds, whatever its offset."""


def capture(
    batch: Batch,
    marks: Marks,
    m: Capture,
    room: int | None = None,
    at_once: AtOnce | None = None,
) -> Promise | Reject | SegmentTrimmed:
    """Handle a capture within a batch; costs a key for each promise that it supersedes, and a page.

    Args:
        room: how many bytes of rows the promise may have, if less than a page.
        at_once: counts what it replaces.

    Raises:
        TooMuch: it supersedes more than it may at once; nothing was put.
    """
    return finish(capturing(batch, marks, m, at_once or AtOnce(), room), batch)


def capturing(
    batch: Batch, marks: Marks, m: Capture, divide: Divide, room: int | None = None
) -> Turns[Promise | Reject | SegmentTrimmed]:
    """Handle a capture, in as many parts as `divide` makes of it; see `refusing`."""
    space = tables.intern_space(batch, m.space)
    if tables.is_trimmed(batch, space, m.segment):
        return SegmentTrimmed()
    prefix = tables.segment_key(space, m.segment)

    def stored(lo: int) -> tuple[Range, ...]:
        return _promised(batch, prefix, lo, m.stop)

    for lo, hi, old in divide(m.start, m.stop, stored):
        new, top = on_capture(old, lo, hi, m.ballot)
        if new is old:
            return Reject(top)
        tables.store_slice(batch, tables.PROMISES, prefix, old, new)
        batch = yield None
    page = KNOBS.server_page_bytes
    room = page if room is None else min(room, page)
    rows, following = _page(batch, marks, prefix, [(m.start, m.stop)], room)
    return Promise(rows, following)


def _promised(view: View, prefix: bytes, lo: int, hi: int) -> tuple[Range, ...]:
    """The promises on [lo, hi]: one more than a part may supersede, or all."""
    return tables.load_slice(view, tables.PROMISES, prefix, lo, hi, KNOBS.server_supersede + 1)


def refusing(batch: Batch, m: Capture) -> Turns[bytes | None]:
    """The highest ballot in a capture's range if that refuses it, None if not.

    What is granted in parts is first looked at as a whole: a capture that is refused changes
    nothing.  A capture is divided if it is too much at once, and of a trimmed segment none is.
    """
    prefix = tables.segment_key(tables.intern_space(batch, m.space), m.segment)

    def stored(lo: int) -> tuple[Range, ...]:
        return _promised(batch, prefix, lo, m.stop)

    top = UNSAFE
    for lo, hi, old in in_parts(m.start, m.stop, stored):
        top = max(top, highest(old, lo, hi))
        batch = yield None
    return top if top >= m.ballot else None


def write(batch: Batch, m: Write) -> tuple[Written | SegmentTrimmed, Write | None]:
    """Handle a write within a batch; also returns what of it was news, for listeners.

    Costs a constant number of keys for each register.
    """
    space = tables.intern_space(batch, m.space)
    if tables.is_trimmed(batch, space, m.segment):
        return SegmentTrimmed(), None
    prefix = tables.segment_key(space, m.segment)
    keys = tables.row_keys(prefix, m.offsets)
    stored = batch.get_many(tables.ROWS, keys)
    few = KNOBS.server_few_ranges
    promises = held = tables.load_slice(
        batch, tables.PROMISES, prefix, min(m.offsets), max(m.offsets) + 1, few + 1
    )
    narrow = len(held) > few
    ballot = m.ballot
    refused: list[RefusedWrite] = []
    replayed: list[int] = []
    items: list[Item] = []
    for offset, value, key, found in zip(m.offsets, m.values, keys, stored, strict=True):
        row = UNWRITTEN if found is None else Row(offset, *tables.split_row(found))
        if narrow:
            promises = held = tables.load_slice(batch, tables.PROMISES, prefix, offset, offset + 1)
        promises, new, verdict = on_write(promises, row, offset, ballot, value)
        if verdict != ACCEPTED:
            refused.append(RefusedWrite(offset, verdict))
            continue
        if new is row:
            replayed.append(offset)
        else:
            items.append((key, new.ballot + new.value))
        if promises is not held and (narrow or len(promises) > few):
            tables.store_slice(batch, tables.PROMISES, prefix, held, promises)
            narrow = True
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


def read(view: View, marks: Marks, m: Read) -> Report | SegmentTrimmed:
    """Handle a read from a view of what is durable; costs a page.

    A report is cut off at the offset from which on there would be too much of anything: bytes,
    spans, promises.
    """
    space = tables.find_space(view, m.space)
    if space is None:
        return Report([], COMPLETE)
    if tables.is_trimmed(view, space, m.segment):
        return SegmentTrimmed()
    prefix = tables.segment_key(space, m.segment)
    spans, cut = m.spans, COMPLETE
    if len(spans) > KNOBS.server_page_spans:
        cut = spans[KNOBS.server_page_spans][0]
        spans = spans[: KNOBS.server_page_spans]
    promises: list[Range] = []
    if m.detail:
        promises, spans, cut = _promises(view, prefix, spans, cut)
    rows, following = _page(view, marks, prefix, spans, KNOBS.server_page_bytes)
    return Report(rows, cut if following == COMPLETE else following, promises)


def _promises(
    view: View, prefix: bytes, spans: list[Span], cut: int
) -> tuple[list[Range], list[Span], int]:
    """The promises on the spans, and the spans and the cut if there are too many of them."""
    start, stop = spans[0][0], spans[-1][1]
    most = KNOBS.server_page_promises
    found = [
        r
        for r in tables.load_slice(view, tables.PROMISES, prefix, start, stop, most + 3)
        if r.lo < stop and start < r.hi
    ]
    if len(found) <= most:
        return found, spans, cut
    cut = found[most].lo
    return found[:most], [(lo, min(hi, cut)) for lo, hi in spans if lo < cut], cut


def trim(batch: Batch, m: Trim, at_once: AtOnce | None = None) -> tuple[Done | Failed, bool]:
    """Put tombstones on [m.segment, m.stop); also returns whether that is news.

    Costs a key for each tombstone that it merges, which `at_once` counts.

    Raises:
        TooMuch: these are more than it may merge at once; nothing was put.
    """
    return finish(trimming(batch, m, at_once or AtOnce()), batch)


def trimming(batch: Batch, m: Trim, divide: Divide) -> Turns[tuple[Done | Failed, bool]]:
    """Handle a trim, in as many turns as `divide` makes of it."""
    space = tables.intern_space(batch, m.space)
    known = tables.segments_known(batch, space)
    if m.stop > known + TRIM_REACH:
        text = f"a trim of segments up to {m.stop}, but only {known} are known of here"
        return Failed(BAD_REQUEST, text), False

    def stored(lo: int) -> tuple[Range, ...]:
        return tables.trimmed_ranges(batch, space, lo, m.stop, KNOBS.server_supersede + 1)

    is_news = False
    for lo, hi, old in divide(m.segment, m.stop, stored):
        new = on_trim(old, lo, hi)
        news = None
        if set(new) != set(old):
            is_news, news = True, Trim(m.space, lo, hi)
            tables.store_slice(batch, tables.TRIMMED, space, old, new)
            end = max(r.hi for r in new if r.lo <= lo)  # there may be garbage from `lo` on already
            batch.put(tables.GARBAGE, tables.segment_key(space, lo), end.to_bytes(8, "big"))
        batch = yield news
    return Done(), is_news


def tombstones(view: View, m: Trims) -> Tombstones:
    """The tombstones that overlap [m.segment, m.stop), up to a page; costs a key for each."""
    space = tables.find_space(view, m.space)
    if space is None:
        return Tombstones([], COMPLETE)
    most = KNOBS.server_page_spans
    found = tables.trimmed_ranges(view, space, m.segment, m.stop - 1, most + 2)
    spans = [(r.lo, r.hi) for r in found if r.hi > m.segment]
    if len(spans) <= most:
        return Tombstones(spans, COMPLETE)
    return Tombstones(spans[:most], spans[most][0])


def sweep(batch: Batch, limit: int) -> int:
    """Delete up to `limit` keys of trimmed segments; returns how many there were to delete."""
    deleted, room = 0, KNOBS.server_sweep_bytes
    for key, stored in _first_garbage(batch):
        end = key[:4] + stored
        for table in (tables.ROWS, tables.PROMISES, tables.DECIDED):
            doomed = []
            for item in batch.scan(table, key, end):
                doomed.append(item[0])
                room -= len(item[1])
                if deleted + len(doomed) >= limit or room <= 0:
                    break
            for k in doomed:
                batch.delete(table, k)
            deleted += len(doomed)
            if deleted >= limit or room <= 0:
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


def _page(
    view: View, marks: Marks, prefix: bytes, spans: list[Span], room: int
) -> tuple[list[Row], int]:
    """The rows of the spans, marked as decided where that is known, up to a page of `room` bytes.

    Also returns where it was cut off; without any room, that is the first row's offset.
    """
    rows: list[Row] = []
    few = KNOBS.server_few_ranges
    start, stop = spans[0][0], spans[-1][1]
    known = tables.load_slice(view, tables.DECIDED, prefix, start, stop, few + 1)
    waiting = marks.of(prefix)
    are_few = len(known) <= few and (waiting is None or len(waiting) <= few)
    if are_few and waiting is not None:
        known = (*known, *waiting.all())
    sure = _decided_from(known, start, stop)
    for offset, held in _accepted(view, prefix, spans):
        if room <= 0:
            return rows, offset
        room -= len(held) + ROW_BYTES
        ballot = held[:BALLOT_BYTES]
        if not are_few:
            known = _marks_at(view, waiting, prefix, offset)
        decided = ballot >= sure or is_decided(known, offset, ballot)
        rows.append(Row(offset, ballot, held[BALLOT_BYTES:], decided))
    return rows, COMPLETE


def _decided_from(known: tuple[Range, ...], start: int, stop: int) -> bytes:
    """From which ballot on all that was accepted in [start, stop) is decided, as far as is known.

    `is_decided` says so too, for one register after the other.
    """
    return min([m.ballot for m in known if m.lo <= start and stop <= m.hi], default=NEVER)


def _marks_at(
    view: View, waiting: RangeMap | None, prefix: bytes, offset: int
) -> tuple[Range, ...]:
    """The marks on one register: in the store, and not in the store yet."""
    stored = tables.range_at(view, tables.DECIDED, prefix, offset)
    pending = waiting.at(offset) if waiting is not None else None
    return tuple([mark for mark in (stored, pending) if mark is not None])


def _accepted(view: View, prefix: bytes, spans: list[Span]) -> Iterator[tuple[int, bytes]]:
    """Offset and stored row of what was accepted, in order; some single registers at once."""
    singles: list[int] = []
    for lo, hi in spans:
        if hi - lo == 1:
            singles.append(lo)
            if len(singles) < KNOBS.server_lookup:
                continue
        yield from _singles(view, prefix, singles)
        singles = []
        if hi - lo > 1:
            yield from tables.scan_rows(view, prefix, lo, hi)
    yield from _singles(view, prefix, singles)


def _singles(view: View, prefix: bytes, offsets: list[int]) -> list[tuple[int, bytes]]:
    if not offsets:
        return []
    found = view.get_many(tables.ROWS, tables.row_keys(prefix, offsets))
    return [(offset, held) for offset, held in zip(offsets, found, strict=True) if held is not None]
