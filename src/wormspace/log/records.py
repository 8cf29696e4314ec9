"""What the registers of a log hold: batches of entries, holes and seals.

A batch is a msgpack array: one entry or several, which were appended together, and the position of
the first.  The empty value is a hole, so whoever fills one needs to know nothing about the log, and
no batch can look like one.  A seal is the last register of a segment: once it is written, the log
goes on in the next segment.

Each record begins with the format's version.  Whatever else a register holds, written by a broken
or a hostile client, is passed over as a hole is; the positions that are missing there are damaged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from wormspace.errors import NewerFormat
from wormspace.malformed import MALFORMED

log = logging.getLogger("wormspace.log")

FORMAT = 3
"""Of all that a log writes: in format 2, records did not name their format."""

HOLE = b""
"""The value of a register that will never hold an entry: CORFU's junk."""

MAX_POSITION = 1 << 62
"""More than there are positions, or slots."""

Natural = Annotated[int, msgspec.Meta(ge=0, le=MAX_POSITION)]


class Group(msgspec.Struct, frozen=True, array_like=True):
    """So many consecutive entries of a batch have these headers and streams in common."""

    count: Natural
    headers: Mapping[str, str]
    streams: tuple[str, ...]


class BatchRecord(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=FORMAT):
    """Entries that share a register.

    Attributes:
        first: the position of the first of them; the others follow.
        before: bytes of all entries handed out before this batch since the log began, as far as the
            sequencer knew; differences are what trimming by size goes by.
        writer, serial: who appended it, and a number that the writer counts up; no two batches have
            both in common, so an appender that lost touch recognises its own.
        time_ms: the appender's clock, milliseconds since 1970.
        bodies: of the entries; at least one.
        groups: their headers and streams; none at all if no entry has any.
        links: for each stream of the batch, the slots of its last batches before this one,
            descending.
    """

    first: Natural
    before: Natural
    writer: bytes
    serial: int
    time_ms: int
    bodies: Annotated[Sequence[bytes], msgspec.Meta(min_length=1)]
    groups: tuple[Group, ...]
    links: Mapping[str, tuple[Natural, ...]]

    @property
    def end(self) -> int:
        """One past the position of the last entry."""
        return self.first + len(self.bodies)

    @property
    def size(self) -> int:
        """Its share of the log's total size, in bytes."""
        size = sum(map(len, self.bodies))
        for group in self.groups:
            size += group.count * payload_size(b"", group.headers)
        return size

    def entries(self, start: int = 0, stop: int | None = None) -> list[Entry]:
        """The entries at [start, stop), as their readers get them; by default, all."""
        first, time = self.first, self.time_ms / 1000.0
        start = max(start, first)
        stop = self.end if stop is None else max(start, min(stop, self.end))
        if not self.groups:
            bodies = self.bodies[start - first : stop - first]
            return [
                Entry(position, body, {}, (), time) for position, body in enumerate(bodies, start)
            ]
        found: list[Entry] = []
        begin = first
        for group in self.groups:
            end = begin + group.count
            for position in range(max(start, begin), min(stop, end)):
                body = self.bodies[position - first]
                found.append(Entry(position, body, group.headers, group.streams, time))
            begin = end
        return found

    def befores(self) -> Iterator[tuple[int, int]]:
        """The position of each entry, and the bytes of all entries before it."""
        before = self.before
        for entry in self.entries():
            yield entry.position, before
            before += payload_size(entry.body, entry.headers)

    def last_of_streams(self) -> dict[str, int]:
        """The position of the last entry of each stream."""
        found: dict[str, int] = {}
        position = self.first
        for group in self.groups:
            position += group.count
            found.update(dict.fromkeys(group.streams, position - 1))
        return found


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An entry of a log, as its readers get it.

    Attributes:
        position: its place in the log, for ever.
        body: what was appended.
        headers: the key/value pairs that were appended with it.
        streams: the streams it belongs to.
        time: when it was appended, by the appender's clock, in seconds since 1970.
    """

    position: int
    body: bytes
    headers: Mapping[str, str]
    streams: tuple[str, ...]
    time: float


class Latest(msgspec.Struct, frozen=True, array_like=True):
    """Where a stream was appended to last.

    Attributes:
        position: the last that was handed out for it; -1 if there is none.
        slots: the slots of its last batches, descending.
    """

    position: int
    slots: tuple[Natural, ...]


class SealRecord(msgspec.Struct, frozen=True, array_like=True, tag=FORMAT):
    """The last register of a segment: the streams as they stood when the next one was opened.

    Attributes:
        upto: the table covers all slots below this one.
        streams: where each was appended to last.
        left_out: streams that were left out, for want of room, were last appended to below this
            slot; 0 if none was.
    """

    upto: Natural
    streams: dict[str, Latest]
    left_out: Natural = 0


encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(BatchRecord).decode
_decode_seal = msgspec.msgpack.Decoder(SealRecord).decode
_decode_any = msgspec.msgpack.Decoder().decode


def payload_size(body: bytes, headers: Mapping[str, str]) -> int:
    """The bytes by which an entry makes its log larger."""
    size = len(body)
    for key, value in headers.items():
        size += len(key) + len(value)
    return size


def read_batch(raw: bytes, slot: int) -> BatchRecord | None:
    """The batch in a register that is written and no hole; None if something else is there.

    Raises:
        NewerFormat: a newer wormspace wrote it.
    """
    try:
        batch = _decode_batch(raw)
    except MALFORMED as e:
        refuse_newer(raw)
        log.info("slot %d holds no log entries, and is passed over: %s", slot, e)
        return None
    if (batch.groups or batch.links) and not _agrees(batch, slot):
        log.info("slot %d holds entries that contradict themselves, and is passed over", slot)
        return None
    return batch


def _agrees(batch: BatchRecord, slot: int) -> bool:
    """Whether groups and links of a batch belong to its bodies and its place."""
    named = {name for group in batch.groups for name in group.streams}
    return (
        sum([group.count for group in batch.groups]) == len(batch.bodies)
        and named == batch.links.keys()
        and all(before < slot for slots in batch.links.values() for before in slots)
    )


def read_seal(raw: bytes, segment: int, end: int) -> SealRecord:
    """The seal in the last register of a closed segment, of which `end` is one past the last slot.

    One that cannot be read tells nothing: all streams are looked for below it.

    Raises:
        NewerFormat: a newer wormspace wrote it.
    """
    try:
        seal = _decode_seal(raw)
    except MALFORMED as e:
        refuse_newer(raw)
        log.info("the end of segment %d holds no seal, streams are looked for: %s", segment, e)
        return SealRecord(end, {}, end)
    if any(slot >= end for latest in seal.streams.values() for slot in latest.slots):
        log.info("the seal of segment %d names slots above it, streams are looked for", segment)
        return SealRecord(end, {}, end)
    return seal


def refuse_newer(raw: bytes) -> None:
    """For bytes that could not be read.

    Raises:
        NewerFormat: they are a record of a newer format.
    """
    try:
        record: Any = _decode_any(raw)
    except MALFORMED:
        return
    version = record[0] if isinstance(record, list) and record else None
    if isinstance(version, int) and FORMAT < version < FORMAT + 100:
        raise NewerFormat.of("a record of the log", version, FORMAT)
