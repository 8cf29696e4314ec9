"""What the registers of a log hold: entries, holes and seams.

An entry is a msgpack array.  The empty value is a hole, so whoever fills one needs to know nothing
about the log, and no entry can look like one.  A seam is the register behind the last position of
a segment: once it is written, the log goes on in the next segment.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from wormspace.errors import ProtocolViolation

HOLE = b""
"""The value of a position that no entry will ever have: CORFU's junk."""

BACKPOINTERS = 4
"""How many earlier positions of each of its streams an entry names (Tango has four as well)."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An entry as it is written.

    Attributes:
        writer, serial: who appended it, and its how many-eth; no two entries have both in common,
            so an appender that lost touch recognises its own.
        time_ms: the appender's clock, milliseconds since 1970.
        before: bytes of all entries handed out before this one since the log began, as far as the
            sequencer knew; differences are what trimming by size goes by.
        links: the entry's streams, each with its last positions before this one, descending.
    """

    body: bytes
    writer: bytes
    serial: int
    time_ms: int
    before: int
    headers: Mapping[str, str]
    links: dict[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """Its share of the log's total size, in bytes."""
        return payload_size(self.body, self.headers)

    def entry(self, position: int) -> Entry:
        """As its readers get it."""
        return Entry(position, self.body, self.headers, tuple(self.links), self.time_ms / 1000.0)


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


class Seam(msgspec.Struct, frozen=True, array_like=True):
    """The last register of a segment: the streams as they stood when the next one was opened.

    Attributes:
        upto: the table covers all positions below this one.
        streams: the last positions of each stream, descending.
        complete: whether no stream had to be left out for want of room.
    """

    upto: int
    streams: dict[str, tuple[int, ...]]
    complete: bool = True


encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(Record).decode
_decode_seam = msgspec.msgpack.Decoder(Seam).decode


def payload_size(body: bytes, headers: Mapping[str, str]) -> int:
    """The bytes by which an entry makes its log larger."""
    size = len(body)
    for key, value in headers.items():
        size += len(key) + len(value)
    return size


def decode_record(raw: bytes, position: int) -> Record:
    """The record in a register that is written and no hole.

    Raises:
        ProtocolViolation: something else was written there, by no log of this kind.
    """
    try:
        return _decode_record(raw)
    except msgspec.MsgspecError as e:
        raise ProtocolViolation(f"position {position} holds no log entry: {e}") from e


def decode_entry(raw: bytes, position: int) -> Entry:
    """The entry in a register that is written and no hole.

    Raises:
        ProtocolViolation: as `decode_record`.
    """
    return decode_record(raw, position).entry(position)


def decode_seam(raw: bytes) -> Seam:
    """The seam in the last register of a closed segment.

    Raises:
        ProtocolViolation: something else was written there.
    """
    try:
        return _decode_seam(raw)
    except msgspec.MsgspecError as e:
        raise ProtocolViolation(f"the end of a log segment holds no seam: {e}") from e
