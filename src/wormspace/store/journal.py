"""The journal: what the tables do not have on disk yet, with one wait for the disk per commit.

LMDB makes a commit durable in two steps, pages and then the root that names them, and waits for
the disk twice.  Here a batch is one record at the end of a file that has its full size already:
one write that is durable when it is done, and no metadata of the file system.  Recovery reads the
records after the last checkpoint in order and stops at the first one that is not whole: nobody was
told of it.

    file    header, record, record, ...      two files; a checkpoint frees one and fills the other
    header  "WSJOURN1", number of the first record (8), salt (8), CRC-32 of these
    record  length (4), CRC-32 of salt, number and payload (4), payload

Files are used again, so what follows the last record is old.  The salt, new and random with every
use of a file, keeps an old record, or one that somebody put into a value, from passing for a new
one.

Numbers are big-endian.  Blocks are overwritten with the bytes that they had and more: a disk that
tears a block leaves each of its sectors old or new, and so the records before it whole.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wormspace.errors import StoreError
from wormspace.store.blocks import BlockWriter, Unsupported
from wormspace.store.disk import FULL, read_all, sync_directory, write_all, write_durably
from wormspace.store.files import SYSTEM, Files

NAMES = ("journal.0", "journal.1")
MAGIC = b"WSJOURN1"
STEP_BYTES = 1 << 20
"""Files grow by this much, filled with zeros, so that hardly any commit changes a file's size."""

_HEADER = struct.Struct(">8sQ8sI")
_RECORD = struct.Struct(">II")
_NUMBER = struct.Struct(">Q")


class _File:
    """One of the two files.

    Attributes:
        first: the number of its first record; 0 if it holds no journal.
        end: where the next record goes.
        size: the bytes it has on disk.
        blocks: writes past the system's cache, where that can be had.
    """

    def __init__(self, files: Files, path: Path) -> None:
        self.path = path
        self._files = files
        self.fd = files.open(path, os.O_RDWR | os.O_CREAT)
        self.size = files.size(self.fd)
        self.blocks: BlockWriter | None = None
        self.first = 0
        self.salt = b""
        self.end = _HEADER.size
        header = read_all(files, self.fd, _HEADER.size, 0)
        if len(header) == _HEADER.size:
            magic, first, salt, crc = _HEADER.unpack(header)
            if magic == MAGIC and crc == zlib.crc32(header[:-4]):
                self.first, self.salt = first, salt

    def avoid_cache(self) -> None:
        """Write past the system's cache from now on, if that can be had."""
        with suppress(Unsupported):
            self.blocks = BlockWriter(self._files, self.path, self.fd)

    def write(self, parts: list[bytes], at: int) -> None:
        """Write, and wait for the disk.

        Raises:
            OSError: what is on disk is not certain.
        """
        if self.blocks is not None:
            self.blocks.write(parts, at)
        else:
            write_durably(self._files, self.fd, parts, at)

    def close(self) -> None:
        """Close it."""
        if self.blocks is not None:
            self.blocks.close()
        self._files.close(self.fd)

    def begin(self, first: int) -> None:
        """Make it the journal from record `first` on; durable with its first record."""
        self.first, self.salt, self.end = first, self._files.random(8), _HEADER.size
        write_all(self._files, self.fd, [self.header(), bytes(_RECORD.size)], 0)

    def header(self) -> bytes:
        """How the file begins."""
        header = _HEADER.pack(MAGIC, self.first, self.salt, 0)[:-4]
        return header + struct.pack(">I", zlib.crc32(header))

    def grow(self, size: int) -> None:
        """Make room for `size` bytes, on disk.

        Raises:
            OSError: there is none; the file is as it was.
        """
        wanted = -(-size // STEP_BYTES) * STEP_BYTES
        if wanted <= self.size:
            return
        try:
            write_all(self._files, self.fd, [bytes(wanted - self.size)], self.size)
            self._files.sync(self.fd)
        except OSError:
            self._files.truncate(self.fd, self.size)
            raise
        self.size = wanted

    def seal(self, number: int, payload: bytes) -> bytes:
        """The head of a record."""
        return _RECORD.pack(len(payload), self._crc(number, payload))

    def record(self, content: bytes, number: int, at: int) -> bytes | None:
        """The payload of record `number` at `at`, if a whole one is there."""
        if at + _RECORD.size > len(content):
            return None
        length, crc = _RECORD.unpack_from(content, at)
        start = at + _RECORD.size
        payload = content[start : start + length]
        whole = length > 0 and len(payload) == length and crc == self._crc(number, payload)
        return payload if whole else None

    def _crc(self, number: int, payload: bytes) -> int:
        return zlib.crc32(payload, zlib.crc32(_NUMBER.pack(number), zlib.crc32(self.salt)))


class Journal:
    """Numbered records on disk.

    Args:
        directory: where its files are, or are made.
        sync: whether `append` waits for the disk.

    Attributes:
        last: the number of the last record.

    Raises:
        OSError: the files cannot be opened, or made.
    """

    def __init__(self, directory: Path, *, sync: bool, files: Files = SYSTEM) -> None:
        self._sync = sync
        self._system = files
        self._files = [_File(files, directory / name) for name in NAMES]
        for file in self._files:
            file.grow(STEP_BYTES)
            if sync:
                file.avoid_cache()
        sync_directory(files, directory)
        self._current = self._files[0]
        self._begun = 0
        self.last = 0

    @property
    def size(self) -> int:
        """The bytes of the records since the last `switch`."""
        return self._current.end

    @property
    def disk_bytes(self) -> int:
        """The bytes both files take."""
        return sum(file.size for file in self._files)

    def recover(self, after: int) -> Iterator[bytes]:
        """The payloads of the records after number `after`, in order; then ready to append.

        What is found is made durable first: a process that was killed may have left it in memory.

        Raises:
            StoreError: records are missing or damaged that had been made durable.
        """
        self.last = after
        files = sorted((f for f in self._files if f.first), key=lambda f: f.first)
        if after and not files:
            self._lost(self._current, "records are missing")
        if len(files) > 1 and files[1].first <= after + 1:
            del files[0]
        for file in files:
            if file.first > self.last + 1:
                self._lost(file, "records before it are missing")
                break
            self._system.sync_data(file.fd)
            self._current = file
            yield from self._read(file)
        if not 0 < self._current.first <= self.last + 1:
            self._current.begin(self.last + 1)

    def _read(self, file: _File) -> Iterator[bytes]:
        yield from self._records(file, read_all(self._system, file.fd, file.size, 0))

    def _records(self, file: _File, content: bytes) -> Iterator[bytes]:
        number, at = file.first, _HEADER.size
        while (payload := file.record(content, number, at)) is not None:
            self._begun = at
            at += _RECORD.size + len(payload)
            if number == self.last + 1:
                self.last = number
                yield payload
            number += 1
        file.end = at
        if at + _RECORD.size > len(content):
            return
        length = _RECORD.unpack_from(content, at)[0]
        if length and file.record(content, number + 1, at + _RECORD.size + length) is not None:
            self._lost(file, f"record {number} is damaged")

    def _lost(self, file: _File, what: str) -> None:
        if self._sync:
            raise StoreError(
                f"{file.path}: {what}, though they were durable: the disk has lost what this "
                "server promised. Restore the directory, or leave the server down"
            )

    def append(self, payload: bytes, spare: int = 0) -> None:
        """Write the next record; returns when it is durable.  Waits for the disk.

        Args:
            spare: bytes that must be left in the file for others afterwards.

        Raises:
            OSError: there was no room; nothing was written.
            StoreError: the disk failed; what it holds is not certain any more.
        """
        file = self._current
        file.grow(file.end + _RECORD.size + len(payload) + spare)
        at, parts = self._next(payload)
        with self._writing(file):
            if self._sync:
                file.write(parts, at)
            else:
                write_all(self._system, file.fd, parts, at)
        self._advance(payload)

    def _next(self, payload: bytes) -> tuple[int, list[bytes]]:
        """The next record, and where it goes; the first of a file takes the header with it."""
        file = self._current
        parts = [file.seal(self.last + 1, payload), payload]
        if file.end == _HEADER.size:
            return 0, [file.header(), *parts]
        return file.end, parts

    def _advance(self, payload: bytes) -> None:
        file = self._current
        self._begun, file.end = file.end, file.end + _RECORD.size + len(payload)
        self.last += 1

    def retract(self) -> None:
        """Take the last record back.  Waits for the disk.

        Raises:
            StoreError: the disk failed.
        """
        self._erase(self._current, self._begun)
        self._current.end = self._begun
        self.last -= 1

    def switch(self) -> None:
        """Go on in the other file; what it holds must not be needed any more."""
        if self._current.first == self.last + 1:
            return  # nothing is in this one, and two that begin alike could not be told apart
        other = self._files[1 - self._files.index(self._current)]
        other.begin(self.last + 1)
        self._current = other

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    @contextmanager
    def _writing(self, file: _File) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            if e.errno not in FULL:
                # The system may have dropped what it could not write: trying again proves nothing.
                raise StoreError(f"{file.path}: the disk failed: {e.strerror}") from e
            self._erase(file, file.end)  # some file systems want room even for what is there
            raise

    def _erase(self, file: _File, at: int) -> None:
        """Make sure that no record begins at `at`."""
        try:
            write_durably(self._system, file.fd, [bytes(_RECORD.size)], at)
        except OSError as e:
            raise StoreError(f"{file.path}: the disk failed: {e.strerror}") from e
