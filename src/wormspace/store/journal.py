"""The journal: what the tables do not have on disk yet, with one wait for the disk per commit.

LMDB makes a commit durable in two steps, pages and then the root that names them, and waits for
the disk twice.  Here a batch is one record at the end of a file that has its full size already:
one write that is durable when it is done, and no metadata of the file system.

There are two files (`journal_file.py`).  One is written; at a checkpoint the journal goes on in the
other one, and the first is free when the checkpoint is durable.  Nothing may go missing unnoticed:

* the checkpoint names the file that follows it, by the file's salt;
* a file that is left before its checkpoint is durable ends with a record that names the next;
* so a free file is *prepared* first: its header, with a new salt, is durable before anything
  names it.

Recovery follows the names.  A file that is not there, or is an older copy, is not the one that was
named: refused, not skipped.

How far the file that is written is durable, the other one's *mark* says: when that is prepared, and
whenever the engine has the time (`mark`).  So a last record that rots is not taken for a torn one,
unless it was written after the last mark.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from wormspace.errors import StoreDamaged, StoreError
from wormspace.runtime.disk import FULL
from wormspace.store.blocks import BLOCK
from wormspace.store.files import SYSTEM, Files
from wormspace.store.journal_file import BATCH, CLOSING, JournalFile
from wormspace.store.trust import ADVICE

NAMES = ("journal.0", "journal.1")
SALT_BYTES = 8


class Journal:
    """Numbered records on disk.

    Args:
        directory: where its files are, or are made.
        sync: whether `append` waits for the disk.

    Attributes:
        last: the number of the last record.
        lost: what was dropped when the journal was read, in words; only without `sync`.

    Raises:
        OSError: the files cannot be opened, or made.
        NewerFormat: a newer wormspace wrote them.
    """

    def __init__(self, directory: Path, *, sync: bool, files: Files = SYSTEM) -> None:
        self._directory = directory
        self._sync = sync
        self._system = files
        self._files: list[JournalFile] = []
        with ExitStack() as undo:
            undo.callback(self.close)
            for name in NAMES:
                self._files.append(JournalFile(files, directory / name))
            undo.pop_all()
        self._current = self._files[0]
        self._old: JournalFile | None = None
        self._unclosed: JournalFile | None = None
        self._prepared: JournalFile | None = None
        self.last = 0
        self.lost = ""

    # ------------------------------------------------------------ opening

    def create(self) -> None:
        """Make the journal of a new store; waits for the disk.

        Raises:
            OSError
        """
        self._make_room()
        if not self._current.salt:
            self._current.begin(self._system.random(SALT_BYTES))

    @property
    def is_unused(self) -> bool:
        """Whether nothing was ever written: its store is new, or was not made to the end."""
        first, second = self._files
        return not second.salt and not (first.salt and any(first.records()))

    def check(self, after: int, salt: bytes) -> None:
        """Check that the file that a checkpoint names is there, before anything is changed.

        Raises:
            StoreDamaged
        """
        self.last = after
        self._named(salt).check_size()

    def recover(self, after: int, salt: bytes, first: int) -> Iterator[bytes]:
        """The payloads after record `after`, in order.

        They are in the file with that salt, which begins with record `first`, and those that it
        names.

        Raises:
            StoreDamaged: records are missing or damaged that had been made durable.
            OSError
        """
        self.last = first - 1
        file: JournalFile | None = self._named(salt)
        while file is not None:
            file.check_size()
            file.first = self.last + 1
            self._current, closing = file, b""
            for number, kind, payload in self._read(file):
                if kind == CLOSING:
                    closing = payload
                    break
                self.last = number
                if number > after:
                    yield payload
            self._check_mark(file)
            if closing:
                self._old = file
            file = self._named(closing) if closing else None
        self._check_end()
        if self.last < after:
            raise StoreDamaged(
                f"{self._current.path} ends with record {self.last}, and the tables have those up "
                f"to {after}. {ADVICE}"
            )
        self._make_room()

    def _named(self, salt: bytes) -> JournalFile:
        for file in self._files:
            if file.salt == salt:
                return file
        raise StoreDamaged(
            f"{self._directory}: the journal is missing from record {self.last + 1} on: neither "
            f"{' nor '.join(NAMES)} is the file that was written then. {ADVICE}"
        )

    def _read(self, file: JournalFile) -> Iterator[tuple[int, int, bytes]]:
        try:
            yield from file.records()
        except StoreDamaged as e:
            self._tell(e)

    def _check_mark(self, file: JournalFile) -> None:
        """Check that all is there that was known to be durable."""
        durable = max(f.mark[1] if f.mark[0] == file.salt else 0 for f in self._files)
        if self.last < durable:
            self._tell(
                StoreDamaged(
                    f"{file.path} is damaged at byte {file.end}: it ends with record {self.last}, "
                    f"and those up to {durable} were durable, so {durable - self.last} commits are "
                    f"lost. {ADVICE}"
                )
            )

    def _check_end(self) -> None:
        """Check that the other file has no later records: what names it was durable before them."""
        for file in self._files:
            first = file.first_number()
            if file is not self._current and file is not self._old and first > self.last:
                self._tell(
                    StoreDamaged(
                        f"{self._current.path} is damaged: it ends with record {self.last} and "
                        f"does not name {file.path}, which goes on with record {first}. {ADVICE}"
                    )
                )

    def _tell(self, damage: StoreDamaged) -> None:
        if self._sync:
            raise damage
        self.lost = f"{damage} (durability is 'os', so a crash of the machine may have done it)"

    def _make_room(self) -> None:
        for file in self._files:
            file.grow(BLOCK + 1)
            if self._sync:
                file.avoid_cache()

    def again(self, after: int) -> Iterator[bytes]:
        """The payloads after record `after` anew, while the journal is in use.

        Raises:
            StoreError: they cannot be read.
            OSError
        """
        if after >= self.last:
            return
        for file in (self._old, self._current):
            for number, kind, payload in file.records() if file is not None else ():
                if kind == BATCH and number > after:
                    yield payload
                if number == self.last and kind == BATCH:
                    return
        raise StoreError(f"{self._current.path}: what was written, up to {self.last}, is gone")

    # ------------------------------------------------------------ in use

    @property
    def size(self) -> int:
        """The bytes of the file that is written."""
        return self._current.end

    @property
    def disk_bytes(self) -> int:
        """The bytes both files take."""
        return sum(file.size for file in self._files)

    @property
    def place(self) -> tuple[bytes, int]:
        """The salt and the first record of the file that is written."""
        return self._current.salt, self._current.first

    def append(self, payload: bytes, spare: int = 0) -> None:
        """Write the next record; returns when it is durable.  Waits for the disk.

        Args:
            spare: bytes that must be left in the file for others afterwards.

        Raises:
            OSError: with an errno of `FULL`: there was no room, and nothing was written.
                Otherwise what is on disk is not certain any more.
        """
        file = self._current
        if self._unclosed is not None:  # even after a checkpoint: its roots may rot
            self._write(self._unclosed, CLOSING, file.salt)
            self._unclosed = None
        file.grow(file.end + file.bytes_of(len(payload)) + spare)
        self._write(file, BATCH, payload)
        self.last += 1

    def _write(self, file: JournalFile, kind: int, payload: bytes) -> None:
        number = self.last + 1
        try:
            file.append(number, kind, payload, sync=self._sync)
        except OSError as e:
            if e.errno in FULL:
                file.erase()  # some file systems want room even for what is there
            raise

    @property
    def is_prepared(self) -> bool:
        """Whether `switch` may be called."""
        return self._prepared is not None

    @property
    def next_salt(self) -> bytes:
        """The salt of the file in which `switch` will go on."""
        assert self._prepared is not None
        return self._prepared.salt

    @property
    def goes_on(self) -> bool:
        """Whether records of the file before the one that is written are still needed."""
        return self._old is not None

    def is_settled(self, payload: int, spare: int) -> bool:
        """Whether all that `append` will do is to write one record, into room that is there."""
        file = self._current
        return self._unclosed is None and file.end + file.bytes_of(payload) + spare <= file.size

    def switch(self) -> None:
        """Go on in the other file, which is prepared."""
        assert self._prepared is not None
        self._old = self._unclosed = self._current
        self._current, self._prepared = self._prepared, None
        self._current.first = self.last + 1

    def skip(self) -> None:
        """Leave a number out, before `switch`: of two checkpoints, the later one has the higher."""
        self.last += 1

    def release(self) -> None:
        """A checkpoint that names the file that is written is durable: the other one is free."""
        self._old = None

    def prepare(self) -> None:
        """Make the free file ready for `switch`.  Waits for the disk.

        Raises:
            OSError
        """
        mark = (self._current.salt, self.last) if self._sync else (b"", 0)
        self._other.begin(self._system.random(SALT_BYTES), mark)
        self._prepared, self._unclosed = self._other, None

    def mark(self) -> None:
        """Note how far what is written is durable, if that is news; does not wait for the disk.

        Raises:
            OSError
        """
        mark = (self._current.salt, self.last)
        if self._sync and self._other.mark != mark:
            self._other.write_mark(*mark)

    @property
    def _other(self) -> JournalFile:
        return self._files[1 - self._files.index(self._current)]

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
