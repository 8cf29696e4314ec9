"""One file of the journal: where its records are, and whether what is there is whole.

    file    header in a block of its own, record, record, ...
    header  "WSJOURNL", format version (4), salt (8), bytes of the file (8), checksum (8)
    mark    2048 bytes behind it: salt of the *other* file (8), number of a record there that was
            durable when this was written (8), checksum (8)
    record  salt (8), number (8), kind (1), length (4), checksum (8) of these and payload, payload

Files are used again, so what follows the last record is old.  The salt, new and random with every
use of a file, tells an old record, or one that somebody put into a value, from one of this use.
Numbers are big-endian.

**A torn end, or damage?**  Records are written one after the other, each when the one before is
durable.  So only the last one can be torn by a crash, and nobody was told of it.  A record that is
not whole with a later one behind it, wherever that is, had been durable: it is damage.  So is a
file that is shorter than its header says.

The very last record has none behind it.  That is what the mark in the other file is for: a record
that was durable then, and is not whole now, is damage too.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from wormspace.errors import NewerFormat, StoreDamaged
from wormspace.knobs import KNOBS
from wormspace.runtime.disk import read_all, write_all, write_durably
from wormspace.store.blocks import BLOCK, BlockWriter, Unsupported
from wormspace.store.checksum import checksum
from wormspace.store.files import Files
from wormspace.store.trust import ADVICE

MAGIC = b"WSJOURNL"
VERSION = 1
BATCH, CLOSING = 1, 2
"""Kinds of records: changes, and "goes on in the file with this salt"."""

PIECE_BYTES = 64 << 10
"""A file is read in pieces of this size: small enough for memory that is used again."""

_HEADER = struct.Struct(">8sI8sQQ")
_RECORD = struct.Struct(">8sQBIQ")
_MARK = struct.Struct(">8sQQ")
_MARK_AT = 2048
_SUM = 8


class JournalFile:
    """A file that has its full size already, on disk.

    What is found in it is on disk, before anybody acts on it.

    Attributes:
        salt: of the records that count; empty if it holds no journal.
        first: the number that the first record has, or will have; the journal sets it.
        end: where the next record goes.
        size: the bytes it has on disk.
        mark: the salt of the other file, and the number of a record that was durable there.

    Raises:
        OSError: it cannot be opened, or made.
        NewerFormat: a newer wormspace wrote it.
    """

    def __init__(self, files: Files, path: Path) -> None:
        self.path = path
        self._files = files
        self.fd = files.open(path, os.O_RDWR | os.O_CREAT)
        self.size = files.size(self.fd)
        self.salt = b""
        self.first = 1
        self.end = BLOCK
        self.mark = (b"", 0)
        self._promised = 0
        self._piece = (0, b"")
        self._blocks: BlockWriter | None = None
        try:
            files.sync_data(self.fd)  # what a process that was killed had not waited for
            self._read_header()
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> None:
        block = read_all(self._files, self.fd, BLOCK, 0)
        if len(block) < BLOCK:
            return
        self.mark = _read_mark(block[_MARK_AT : _MARK_AT + _MARK.size])
        header = block[: _HEADER.size]
        magic, version, salt, promised, held = _HEADER.unpack(header)
        if magic != MAGIC or held != checksum(header[:-_SUM]):
            return
        if version > VERSION:
            raise NewerFormat.of(self.path, version, VERSION)
        self.salt, self._promised = salt, promised

    def check_size(self) -> None:
        """Check that the file is as large as it was.

        Raises:
            StoreDamaged: it was cut.
        """
        if self.size < self._promised:
            raise StoreDamaged(
                f"{self.path} is damaged: it has {self.size} bytes of {self._promised}. {ADVICE}"
            )

    def avoid_cache(self) -> None:
        """Write past the system's cache from now on, if that can be had."""
        with suppress(Unsupported):
            self._blocks = BlockWriter(self._files, self.path, self.fd)

    @property
    def past_cache(self) -> bool:
        """Whether it is written past the system's cache."""
        return self._blocks is not None

    # ------------------------------------------------------------ writing

    def begin(self, salt: bytes, mark: tuple[bytes, int] = (b"", 0)) -> None:
        """Begin a new use of the file, with a mark.  Waits for the disk.

        Raises:
            OSError
        """
        self.salt, self.end, self.mark = salt, BLOCK, mark
        self._write_header()

    def _write_header(self) -> None:
        header = _HEADER.pack(MAGIC, VERSION, self.salt, self.size, 0)[:-_SUM]
        header += checksum(header).to_bytes(_SUM, "big")
        parts = [header, bytes(_MARK_AT - len(header)), _encode_mark(*self.mark)]
        write_durably(self._files, self.fd, parts, 0)
        self._promised = self.size

    def write_mark(self, salt: bytes, number: int) -> None:
        """Say how far the other file is durable; does not wait for the disk.

        Raises:
            OSError
        """
        self.mark = (salt, number)
        write_all(self._files, self.fd, [_encode_mark(salt, number)], _MARK_AT)

    def grow(self, size: int) -> None:
        """Make room for `size` bytes, on disk.

        Raises:
            OSError: there is none; the file is as it was.
        """
        step = KNOBS.store_journal_step_bytes
        wanted = -(-size // step) * step
        if wanted <= self.size:
            return
        try:
            write_all(self._files, self.fd, [bytes(wanted - self.size)], self.size)
            self._files.sync(self.fd)
        except OSError:
            self._files.truncate(self.fd, self.size)
            raise
        self.size = wanted
        if self.salt:
            self._write_header()

    def append(self, number: int, kind: int, payload: bytes, *, sync: bool) -> None:
        """Write the next record; if `sync`, wait for the disk.

        Raises:
            OSError: what is on disk is not certain.
        """
        head = _RECORD.pack(self.salt, number, kind, len(payload), 0)[:-_SUM]
        head += checksum(payload, checksum(head)).to_bytes(_SUM, "big")
        self._write([head, payload], sync)
        self.end += len(head) + len(payload)

    def _write(self, parts: Sequence[bytes], sync: bool) -> None:
        if not sync:
            write_all(self._files, self.fd, parts, self.end)
        elif self._blocks is not None:
            self._blocks.write(parts, self.end)
        else:
            write_durably(self._files, self.fd, parts, self.end)

    def erase(self) -> None:
        """Make sure that no record begins at the end.  Waits for the disk.

        Raises:
            OSError
        """
        write_durably(self._files, self.fd, [bytes(_RECORD.size)], self.end)

    @staticmethod
    def bytes_of(payload: int) -> int:
        """The bytes that a record with such a payload takes."""
        return _RECORD.size + payload

    # ------------------------------------------------------------ reading

    def records(self) -> Iterator[tuple[int, int, bytes]]:
        """(number, kind, payload) of the whole records, in order; sets `end`.

        Raises:
            StoreDamaged: at the end, if a later record follows one that is not whole.
            OSError
        """
        at, number = BLOCK, self.first
        try:
            while (found := self._whole(at, number)) is not None:
                kind, payload = found
                at += _RECORD.size + len(payload)
                self.end = at
                yield number, kind, payload
                number += 1
        finally:
            self._piece = (0, b"")
        self.end = at
        last = self._last_number(at, number)
        if last is not None:
            raise StoreDamaged(
                f"{self.path} is damaged at byte {at}: record {number} is not whole, though "
                f"record {last} follows it, so up to {last - number + 1} commits that were durable "
                f"are lost ({number - 1} before them are whole). {ADVICE}"
            )

    def _whole(self, at: int, number: int) -> tuple[int, bytes] | None:
        """Kind and payload of record `number` at `at`, if a whole one is there."""
        head = self._bytes(at, _RECORD.size)
        if len(head) < _RECORD.size:
            return None
        salt, held_number, kind, length, held = _RECORD.unpack(head)
        start = at + _RECORD.size
        if salt != self.salt or held_number != number or start + length > self.size:
            return None
        payload = self._bytes(start, length)
        return (kind, payload) if held == checksum(payload, checksum(head[:-_SUM])) else None

    def first_number(self) -> int:
        """The number of the record of this use with which the file begins; 0 if there is none.

        Raises:
            OSError
        """
        head = read_all(self._files, self.fd, _RECORD.size, BLOCK)
        if not self.salt or len(head) < _RECORD.size:
            return 0
        salt, number, *_ = _RECORD.unpack(head)
        return int(number) if salt == self.salt else 0

    def _bytes(self, at: int, size: int) -> bytes:
        """Some of the file, which is read a piece at a time."""
        start, piece = self._piece
        if at < start or at + size > start + len(piece):
            start, piece = at, read_all(self._files, self.fd, max(size, PIECE_BYTES), at)
            self._piece = (start, piece)
        return piece[at - start : at - start + size]

    def _last_number(self, at: int, number: int) -> int | None:
        """The highest number of a record of this use behind `at`, if there is one."""
        last = None
        most = number + self.size // _RECORD.size
        for start in range(at + 1, self.size, PIECE_BYTES):
            piece = read_all(self._files, self.fd, PIECE_BYTES + _RECORD.size - 1, start)
            found = -1
            while (found := piece.find(self.salt, found + 1)) != -1:
                if found + _RECORD.size > len(piece):
                    break
                held: int = _RECORD.unpack_from(piece, found)[1]
                if number < held < most:
                    last = max(last or 0, held)
        return last

    def close(self) -> None:
        """Close it."""
        if self._blocks is not None:
            self._blocks.close()
        self._files.close(self.fd)


def _encode_mark(salt: bytes, number: int) -> bytes:
    content = _MARK.pack(salt, number, 0)[:-_SUM]
    return content + checksum(content).to_bytes(_SUM, "big")


def _read_mark(stored: bytes) -> tuple[bytes, int]:
    salt, number, held = _MARK.unpack(stored)
    return (salt, number) if held == checksum(stored[:-_SUM]) else (b"", 0)
