"""What the registers of a log hold: packs of entries, holes and seams.

A pack is a msgpack array: one entry or several, which were appended together, and the position of
the first.  The empty value is a hole, so whoever fills one needs to know nothing about the log, and
no pack can look like one.  A seam is the last register of a segment: once it is written, the log
goes on in the next segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from wormspace.errors import ProtocolViolation

HOLE = b""
"""The value of a register that will never hold an entry: CORFU's junk."""

BACKPOINTERS = 4
"""How many earlier packs of each of its streams a pack names (Tango's entries have four too)."""


class Group(msgspec.Struct, frozen=True, array_like=True):
    """So many consecutive entries of a pack have these headers and streams in common."""

    count: int
    headers: Mapping[str, str]
    streams: tuple[str, ...]


class Pack(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Entries that share a register.

    Attributes:
        first: the position of the first of them; the others follow.
        before: bytes of all entries handed out before this pack since the log began, as far as the
            sequencer knew; differences are what trimming by size goes by.
        writer, serial: who appended it, and its how many-eth; no two packs have both in common,
            so an appender that lost touch recognises its own.
        time_ms: the appender's clock, milliseconds since 1970.
        bodies: of the entries; at least one.
        groups: their headers and streams; none at all if no entry has any.
        links: for each stream of the pack, the slots of its last packs before this one, descending.
    """

    first: int
    before: int
    writer: bytes
    serial: int
    time_ms: int
    bodies: Sequence[bytes]
    groups: tuple[Group, ...]
    links: Mapping[str, tuple[int, ...]]

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
        stop = self.end if stop is None else min(stop, self.end)
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
        slots: the slots of its last packs, descending.
    """

    position: int
    slots: tuple[int, ...]


class Seam(msgspec.Struct, frozen=True, array_like=True):
    """The last register of a segment: the streams as they stood when the next one was opened.

    Attributes:
        upto: the table covers all slots below this one.
        streams: where each was appended to last.
        left_out: streams that were left out, for want of room, were last appended to below this
            slot; 0 if none was.
    """

    upto: int
    streams: dict[str, Latest]
    left_out: int = 0


encode = msgspec.msgpack.Encoder().encode
_decode_pack = msgspec.msgpack.Decoder(Pack).decode
_decode_seam = msgspec.msgpack.Decoder(Seam).decode


def payload_size(body: bytes, headers: Mapping[str, str]) -> int:
    """The bytes by which an entry makes its log larger."""
    size = len(body)
    for key, value in headers.items():
        size += len(key) + len(value)
    return size


def decode_pack(raw: bytes, slot: int) -> Pack:
    """The pack in a register that is written and no hole.

    Raises:
        ProtocolViolation: something else was written there, by no log of this kind.
    """
    try:
        return _decode_pack(raw)
    except msgspec.MsgspecError as e:
        raise ProtocolViolation(f"slot {slot} holds no log entries: {e}") from e


def decode_seam(raw: bytes) -> Seam:
    """The seam in the last register of a closed segment.

    Raises:
        ProtocolViolation: something else was written there.
    """
    try:
        return _decode_seam(raw)
    except msgspec.MsgspecError as e:
        raise ProtocolViolation(f"the end of a log segment holds no seam: {e}") from e
