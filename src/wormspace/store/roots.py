"""The roots of the tables at the last checkpoint, kept outside of them.

LMDB never overwrites a page that its last two commits use, and says in its first two pages where
these begin.  Between checkpoints it writes without waiting for the disk, so after a power cut those
two pages may name others that were never written.  Therefore a store is always opened with the two
pages of the last checkpoint put back: whatever came later is not used, and the journal has it.

While a store is made, the file has another name; it gets its own when the first checkpoint is on
disk.  So where `roots.new` is, nothing was ever acknowledged, and whatever an attempt that was
interrupted has left is thrown away; and `roots` is never without a whole slot, whenever the power
fails: if it is, that is damage.

    file    two slots, a half each; the valid one with the higher number is the checkpoint
    slot    "WSROOTS.", format version (4), number of the last record in the tables (8), salt of
            the journal's file that goes on from there (8), number of that file's first record (8),
            bytes of data.mdb (8), bytes of the pages (4), checksum (8), pages
    mark    in place of the older slot, in a store that is known to have lost something: "WSLOST..",
            format version (4), bytes of a text (4), checksum (8), text
"""

from __future__ import annotations

import logging
import os
import struct
from contextlib import ExitStack
from pathlib import Path

import msgspec

from wormspace.errors import NewerFormat, StoreDamaged
from wormspace.knobs import KNOBS
from wormspace.runtime.disk import read_all, sync_directory, write_all
from wormspace.store.checksum import checksum
from wormspace.store.files import SYSTEM, Files
from wormspace.store.journal import NAMES as JOURNALS
from wormspace.store.pages import PageCheck, PageDamaged
from wormspace.store.trust import ADVICE

log = logging.getLogger("wormspace.store")

NAME = "roots"
UNFINISHED = "roots.new"
"""Its name until the first checkpoint is on disk."""
DATA = "data.mdb"
MAGIC = b"WSROOTS."
LOST = b"WSLOST.."
VERSION = 1

_MARK = struct.Struct(">8sIIQ")
_HEAD = struct.Struct(">8sIQ8sQQIQ")
_SUM = 8
_MOST_BYTES = 4096
"""Of a mark's text."""


class Checkpoint(msgspec.Struct, frozen=True):
    """What is durable in the tables, and where the journal goes on.

    Attributes:
        number: the last record that the tables have.
        salt, first: the journal's file that has the next, and that file's first record.
        data_bytes: the size of the tables' file.
        pages: its first two pages.
    """

    number: int
    salt: bytes
    first: int
    data_bytes: int
    pages: bytes


class Roots:
    """The file of a directory, and the tables' file whose pages it keeps.

    Both are made here if they are not there, and stay open.  What is found is on disk before
    anybody acts on it, if the directory's names are: the file of the journal that the checkpoint
    before needs may be used again.

    Attributes:
        saved: the checkpoint; None if there is none yet.
        lost: what was lost of the store; empty when no mark is to be written, or it has been.

    Raises:
        StoreDamaged: the file is damaged, or the tables' file is cut off, or gone.
        NewerFormat: a newer wormspace wrote it.
        OSError: it cannot be opened.
    """

    def __init__(self, directory: Path, files: Files = SYSTEM) -> None:
        self._directory = directory
        self._files = files
        self._slot = 0
        self.saved: Checkpoint | None = None
        self.lost = ""
        self._is_made = files.size_at(directory / NAME) is not None
        if not self._is_made:
            self._check_unmade(directory)
        with ExitStack() as undo:
            name, creating = (NAME, 0) if self._is_made else (UNFINISHED, os.O_CREAT)
            self._fd = files.open(directory / name, os.O_RDWR | creating)
            undo.callback(files.close, self._fd)
            if self._is_made:
                files.sync(self._fd)  # what a process that was killed wrote, and did not wait for
                self._load(directory / NAME)
                self._check_tables(directory / DATA)
            else:
                sync_directory(files, directory)
            self._tables = files.open(directory / DATA, os.O_RDWR | creating)
            undo.pop_all()

    def _check_unmade(self, directory: Path) -> None:
        """There is no `roots`: then no store was made here, or it is lost."""
        names = () if self._files.size_at(directory / UNFINISHED) is not None else (DATA, *JOURNALS)
        for name in names:
            if self._files.size_at(directory / name) is not None:
                raise StoreDamaged(f"{directory / NAME} is missing. {ADVICE}")

    def create(self) -> None:
        """Begin a new store: throw away what an attempt that was interrupted has left.

        Raises:
            OSError
        """
        self._files.truncate(self._fd, 0)
        self._files.truncate(self._tables, 0)

    def _load(self, path: Path) -> None:
        content = read_all(self._files, self._fd, self._files.size(self._fd), 0)
        for slot in (0, 1):
            _refuse_mark(content[slot * (len(content) // 2) :])
            found = _read(content[slot * (len(content) // 2) :], path)
            if found and (self.saved is None or found.number >= self.saved.number):
                self.saved, self._slot = found, slot
        if self.saved is None:
            raise StoreDamaged(
                f"{path} is damaged: the store cannot be opened without it. {ADVICE}"
            )

    def _check_tables(self, path: Path) -> None:
        """LMDB would read what is not there, and the process would die of it."""
        size = self._files.size_at(path)
        if self.saved is None or (size is not None and size >= self.saved.data_bytes):
            return
        found = "missing" if size is None else f"cut off: it has {size} bytes"
        raise StoreDamaged(f"{path} is {found}, and it had {self.saved.data_bytes}. {ADVICE}")

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put the pages back into the tables' file.

        Raises:
            OSError
        """
        write_all(self._files, self._tables, [checkpoint.pages], 0)

    def check_pages(self, checkpoint: Checkpoint) -> None:
        """Check that the tables' pages are pages, before LMDB believes them.

        Raises:
            StoreDamaged
            OSError
        """
        try:
            leaves = KNOBS.store_check_leaves
            PageCheck(self._files, self._tables, checkpoint.pages, leaves).run()
        except PageDamaged as e:
            raise StoreDamaged(f"{self._directory / DATA} is damaged: {e}. {ADVICE}") from e

    def read(self, page_bytes: int) -> tuple[int, bytes]:
        """The size of the tables' file, and its first two pages, as they are now.

        Raises:
            OSError
        """
        size = self._files.size(self._tables)
        return size, read_all(self._files, self._tables, 2 * page_bytes, 0)

    def save(self, checkpoint: Checkpoint) -> None:
        """Make this the checkpoint; what it names must be durable.  Waits for the disk.

        Raises:
            OSError: and the checkpoint before it stands.
        """
        c, slot = checkpoint, 1 - self._slot
        head = _HEAD.pack(MAGIC, VERSION, c.number, c.salt, c.first, c.data_bytes, len(c.pages), 0)[
            :-_SUM
        ]
        head += checksum(c.pages, checksum(head)).to_bytes(_SUM, "big")
        half = self._files.size(self._fd) // 2
        if half < len(head) + len(c.pages):
            half = len(head) + len(c.pages)
            # All the room it will ever need.
            write_all(self._files, self._fd, [bytes(2 * half)], 0)
        write_all(self._files, self._fd, [head, c.pages], slot * half)
        self._files.sync(self._fd)
        if not self._is_made:
            self._files.rename(self._directory / UNFINISHED, self._directory / NAME)
            sync_directory(self._files, self._directory)
            self._is_made = True
        self._slot, self.saved = slot, checkpoint

    def condemn(self) -> None:
        """If the store is lost, let nobody open it again.  Waits for the disk, once.

        The checkpoint stays.
        """
        why, self.lost = self.lost, ""
        if not why:
            return
        try:
            self._write_mark(why)
        except OSError as e:
            log.critical(
                "%s must not be opened again, and cannot be marked: %s", self._directory, e
            )

    def _write_mark(self, why: str) -> None:
        text = why.encode()[:_MOST_BYTES]
        head = _MARK.pack(LOST, VERSION, len(text), 0)[:-_SUM]
        head += checksum(text, checksum(head)).to_bytes(_SUM, "big")
        half = self._files.size(self._fd) // 2
        write_all(self._files, self._fd, [head, text], (1 - self._slot) * half)
        self._files.sync(self._fd)

    def close(self) -> None:
        """Close the files."""
        self._files.close(self._fd)
        self._files.close(self._tables)


def _refuse_mark(slot: bytes) -> None:
    if len(slot) < _MARK.size:
        return
    magic, _, size, held = _MARK.unpack_from(slot)
    text = slot[_MARK.size : _MARK.size + size]
    if magic == LOST and held == checksum(text, checksum(slot[: _MARK.size - _SUM])):
        raise StoreDamaged(text.decode(errors="replace"))


def _read(slot: bytes, path: Path) -> Checkpoint | None:
    if len(slot) < _HEAD.size:
        return None
    magic, version, number, salt, first, data_bytes, size, held = _HEAD.unpack_from(slot)
    pages = slot[_HEAD.size : _HEAD.size + size]
    if magic != MAGIC or held != checksum(pages, checksum(slot[: _HEAD.size - _SUM])):
        return None
    if version > VERSION:
        raise NewerFormat.of(path, version, VERSION)
    return Checkpoint(number, salt, first, data_bytes, pages)
