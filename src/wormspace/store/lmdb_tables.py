"""LMDB's tables as a view: every row carries a checksum, which is verified when it is read.

    row         value, checksum (8) of table, key and value
    "ends"      one more table: the checksums of values above 128 KiB, under the number of the table
                (1) and the key; such a value stands alone, so that no second copy of it is made
    "state"     one more table, with one row: format version, the number of the last record of the
                journal that the tables have, the salt of the file that goes on from there, and for
                each table the sum of its rows' checksums

A row that was changed on disk, or moved to another key, is `StoreDamaged` and never a value.  A row
that is gone cannot say so itself: a page of rows that was lost or is an older one is found when the
sum of all rows is not what it was (`scrub.py`).  The state tells the tables of this checkpoint from
an older copy of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import compress, repeat
from operator import add, itemgetter
from pathlib import Path
from typing import Any, cast

import lmdb
import msgspec

from wormspace.errors import Closed, NewerFormat, StoreDamaged, WormError
from wormspace.knobs import KNOBS
from wormspace.store.changes import Tables as Changed
from wormspace.store.checksum import SUM_BYTES, checksum, checksum_bytes
from wormspace.store.engine import Item
from wormspace.store.files import Files
from wormspace.store.trust import ADVICE

STATE, ENDS = b"state", b"ends"
LARGE_BYTES = 128 << 10
"""Of a value; part of the format."""

VERSION = 1
_ROW = b"state"


class State(msgspec.Struct, frozen=True, array_like=True):
    """What the tables say of themselves at a checkpoint."""

    version: int
    number: int
    salt: bytes
    sums: dict[str, int]


_MODULUS = (1 << 64) - 1
"""Sums are modulo this, so that the sum of many checksums is their bytes as one number."""


class Sum:
    """The sum of a table's checksums: of all rows, and of those that a scrub has passed.

    Attributes:
        total: of all rows.
        passed: of the rows with keys up to `place`.
        place: how far the scrub is; None if it is elsewhere.
    """

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self.passed = 0
        self.place: bytes | None = None

    def add(self, key: bytes, end: bytes) -> None:
        """A row comes, with this checksum."""
        self._change(key, int.from_bytes(end, "big"))

    def remove(self, key: bytes, end: bytes) -> None:
        """A row goes, with this checksum."""
        self._change(key, -int.from_bytes(end, "big"))

    def _change(self, key: bytes, by: int) -> None:
        self.total = (self.total + by) % _MODULUS
        if self.place is not None and key <= self.place:
            self.passed = (self.passed + by) % _MODULUS

    def add_many(self, keys: Iterable[bytes], ends: list[bytes], lo: bytes, hi: bytes) -> None:
        """Rows come, the first key being `lo` and the last `hi`."""
        place = self.place
        by = int.from_bytes(b"".join(ends), "big")
        self.total = (self.total + by) % _MODULUS
        if place is None or place < lo:
            return
        if hi > place:
            passed = [end for key, end in zip(keys, ends, strict=True) if key <= place]
            by = int.from_bytes(b"".join(passed), "big")
        self.passed = (self.passed + by) % _MODULUS

    def pass_row(self, key: bytes, end: bytes) -> None:
        """The scrub passes a row."""
        self.place = key
        self.passed = (self.passed + int.from_bytes(end, "big")) % _MODULUS


class Tables:
    """What is durable: LMDB's transaction as a view.

    Attributes:
        committed_pages: the pages of the file as of the last commit.
        committed: the state as of the last commit; None if there never was one.
        sums: of each table.
        damaged: how many damaged rows were met.
    """

    def __init__(self, files: Files, path: Path, names: tuple[str, ...], file_bytes: int) -> None:
        self._files = files
        self._path = path
        self.map_bytes = map_bytes_for(file_bytes)
        self._env = files.open_tables(path, self.map_bytes, len(names) + 2)
        try:
            self._dbs = {name: self._env.open_db(name.encode()) for name in names}
            self._state_db = self._env.open_db(STATE)
            self._ends_db = self._env.open_db(ENDS)
            self._numbers = {name: bytes([n]) for n, name in enumerate(names)}
            self._seeds = {name: checksum(name.encode()) for name in names}
            self.page_bytes = int(self._env.stat()["psize"])
            self.damaged = 0
            self._refusal = ""
            self._closed = False
            self._pages = 0
            self.restart()
        except BaseException:
            self._env.close()
            raise

    # ------------------------------------------------------------ transactions

    def restart(self) -> None:
        """Begin a transaction on what was committed last.

        Raises:
            lmdb.Error
            StoreDamaged, NewerFormat: what the tables say of themselves.
        """
        self.begin()
        sums = self.committed.sums if self.committed is not None else {}
        self.sums = {name: Sum(sums.get(name, 0)) for name in self._dbs}

    def begin(self) -> None:
        """Begin the transaction that follows the one that was committed just now.

        Raises:
            lmdb.Error, StoreDamaged, NewerFormat: as by `restart`.
        """
        self._txn = self._env.begin(write=True)
        self.committed_pages = int(self._env.info()["last_pgno"]) + 1
        self.committed = self._read_state()

    def _read_state(self) -> State | None:
        try:
            stored = self._txn.get(_ROW, db=self._state_db)
        except lmdb.Error as e:
            raise StoreDamaged(f"{self._path}: data.mdb cannot be read ({e}). {ADVICE}") from e
        if stored is None:
            return None
        state = _decode(stored)
        if state is None:
            raise StoreDamaged(f"{self._path}: the tables' own state is damaged. {ADVICE}")
        if state.version > VERSION:
            raise NewerFormat.of(f"{self._path}/data.mdb", state.version, VERSION)
        return state

    def abort(self) -> None:
        """Drop what changed since the last commit."""
        self._txn.abort()

    def commit(self, number: int, salt: bytes) -> None:
        """Hand what changed to the operating system.  `begin` the next transaction then.

        Args:
            number: the journal's last record.
            salt: its file that goes on from there.

        Raises:
            lmdb.Error, OSError: what changed is dropped.
        """
        sums = {name: held.total for name, held in self.sums.items()}
        content = msgspec.msgpack.encode(State(VERSION, number, salt, sums))
        try:
            self._txn.put(_ROW, content + checksum_bytes(content), db=self._state_db)
            self._txn.commit()
        except BaseException:
            self._txn.abort()
            raise

    def sync(self) -> None:
        """Wait until the disk has what was committed."""
        self._env.sync(True)

    def close(self) -> None:
        """Close the tables, without what changed since the last commit."""
        self._closed = True
        self._env.close()

    # ------------------------------------------------------------ addresses

    def needs_addresses(self, file_bytes: int) -> bool:
        """Whether the map should grow before the next transaction."""
        return self.map_bytes < map_bytes_for(file_bytes) // 2

    def grow(self, file_bytes: int) -> None:
        """Map more of the file.  Between `abort` or `commit` and `begin`, when nobody reads.

        Raises:
            OSError: the process has no addresses left; nothing was changed.
            lmdb.Error: the tables cannot be used any more.
        """
        wanted = max(2 * self.map_bytes, map_bytes_for(file_bytes))
        self._files.check_addresses(wanted)  # LMDB gives the old map away before it asks
        self._env.set_mapsize(wanted)
        self.map_bytes = wanted

    # ------------------------------------------------------------ changes

    def apply(self, changes: Changed, size: int) -> None:
        """Put and delete.

        Args:
            size: at least as large as the largest value.

        Raises:
            lmdb.Error: some of it may be done; `abort`.
        """
        for table, changed in changes.items():
            if not changed:
                continue
            values = changed.values()
            is_plain = None not in values and (
                size <= LARGE_BYTES or max(map(len, cast(Iterable[bytes], values))) <= LARGE_BYTES
            )
            lo, hi = min(changed), max(changed)
            with self._txn.cursor(db=self._dbs[table]) as cursor:
                if is_plain and _is_free(cursor, lo, hi):
                    rows = cast(dict[bytes, bytes], changed)
                    ends = list(map(checksum_bytes, rows.values(), self._seeds_of(table, rows)))
                    cursor.putmulti(zip(rows, map(add, rows.values(), ends), strict=True))
                    self.sums[table].add_many(rows, ends, lo, hi)
                else:
                    self._replace(cursor, table, changed)

    def _seeds_of(self, table: str, keys: Iterable[bytes]) -> Iterator[int]:
        """What the checksums of values begin with, so that they hold for the key as well."""
        return map(checksum, keys, repeat(self._seeds[table]))

    def _replace(self, cursor: lmdb.Cursor, table: str, changed: dict[bytes, bytes | None]) -> None:
        """Rows of any size, where there may be others."""
        held = self.sums[table]
        for key, value in changed.items():
            old: Any = None
            if value is None:
                old = cursor.pop(key)
            else:
                end = checksum_bytes(value, checksum(key, self._seeds[table]))
                is_large = len(value) > LARGE_BYTES
                old = cursor.replace(key, value if is_large else value + end)
            if old is not None:
                held.remove(key, self._take_end(table, key, old))
            if value is not None:
                held.add(key, end)
                if is_large:
                    self._txn.put(self._end_key(table, key), end, db=self._ends_db)

    # ------------------------------------------------------------ checksums

    def _end_key(self, table: str, key: bytes) -> bytes:
        return self._numbers[table] + key

    def _take_end(self, table: str, key: bytes, stored: bytes) -> bytes:
        """The checksum that belonged to a stored row."""
        end: Any = None
        if len(stored) > LARGE_BYTES:
            end = self._txn.pop(self._end_key(table, key), db=self._ends_db)
        return bytes(end) if end is not None else stored[-SUM_BYTES:]

    def checked(self, table: str, key: bytes, stored: bytes) -> tuple[bytes | None, bytes]:
        """The value of a stored row, None if it is not what was written; and its checksum."""
        value, end = stored, b""
        if len(stored) > LARGE_BYTES:
            end = self._txn.get(self._end_key(table, key), db=self._ends_db) or b""
        if not end:
            value, end = stored[:-SUM_BYTES], stored[-SUM_BYTES:]
        is_whole = end == checksum_bytes(value, checksum(key, self._seeds[table]))
        return (value if is_whole else None), end

    def _open(self, table: str, key: bytes, stored: bytes) -> bytes:
        """The value of a row.

        Raises:
            StoreDamaged
        """
        value, _ = self.checked(table, key, stored)
        if value is None:
            raise self._damage(table, f"the row {key.hex()} is not what was written")
        return value

    def refuse(self, why: str) -> None:
        """Let every read fail from now on: what the tables have cannot be believed."""
        self._refusal = why
        self._txn.abort()

    def _damage(self, table: str, what: str) -> WormError:
        """What to raise where LMDB, or a checksum, says that something is not as it should be."""
        if self._closed:
            return Closed(f"{self._path}: the store was closed")
        self.damaged += 1
        if self._refusal:
            return StoreDamaged(self._refusal)
        return StoreDamaged(f"{self._path}/data.mdb, table {table!r}: {what}. {ADVICE}")

    # ------------------------------------------------------------ reading
    #
    # Where many rows are read, a call for each would cost as much as all the rest.

    def get(self, table: str, key: bytes) -> bytes | None:
        try:
            stored = self._txn.get(key, db=self._dbs[table])
        except lmdb.Error as e:
            raise self._damage(table, str(e)) from e
        return None if stored is None else self._open(table, key, stored)

    def get_many(self, table: str, keys: list[bytes]) -> list[bytes | None]:
        try:
            with self._txn.cursor(db=self._dbs[table]) as cursor:
                if len(keys) > 1 and _is_free(cursor, min(keys), max(keys)):
                    return [None] * len(keys)  # new registers: as a rule nothing is around them
                found: list[Any] = list(map(cursor.get, keys))
        except lmdb.Error as e:
            raise self._damage(table, str(e)) from e
        if None not in found:
            return self._open_all(table, keys, found)
        there = [stored is not None for stored in found]
        values = self._open_all(table, list(compress(keys, there)), list(compress(found, there)))
        following = iter(values)
        return [next(following) if is_there else None for is_there in there]

    def _open_all(self, table: str, keys: list[bytes], found: list[bytes]) -> list[bytes | None]:
        """The values of rows.

        Raises:
            StoreDamaged
        """
        if max(map(len, found), default=0) <= LARGE_BYTES:
            values = list(map(_value_of, found))
            ends = map(checksum_bytes, values, self._seeds_of(table, keys))
            if list(map(add, values, ends)) == found:
                return values
        return list(map(self._open, repeat(table), keys, found))

    def scan(self, table: str, lo: bytes, hi: bytes) -> Iterator[Item]:
        open_, seed = self._open, self._seeds[table]
        try:
            with self._txn.cursor(db=self._dbs[table]) as cursor:
                if not cursor.set_range(lo):
                    return
                for key, stored in cursor.iternext(keys=True, values=True):
                    if key >= hi:
                        return
                    if len(stored) <= LARGE_BYTES:
                        value = stored[:-SUM_BYTES]
                        if stored[-SUM_BYTES:] == checksum_bytes(value, checksum(key, seed)):
                            yield key, value
                            continue
                    yield key, open_(table, key, stored)
        except lmdb.Error as e:
            raise self._damage(table, str(e)) from e

    def stored(self, table: str, after: bytes, rows: int, size: int) -> list[Item]:
        """The next rows with keys above `after`, as they are stored: up to `rows`, or `size` bytes.

        Raises:
            StoreDamaged: the table cannot be walked.
        """
        out: list[Item] = []
        try:
            with self._txn.cursor(db=self._dbs[table]) as cursor:
                if not cursor.set_range(after + b"\0"):
                    return out
                for item in cursor.iternext(keys=True, values=True):
                    out.append(item)
                    size -= len(item[1])
                    if len(out) == rows or size <= 0:
                        break
                for key, _ in out:
                    if key <= after or not cursor.set_key(key):
                        raise self._damage(table, f"the row {key.hex()} is not where it belongs")
                    after = key
        except lmdb.Error as e:
            raise self._damage(table, str(e)) from e
        return out

    def growth(self, tables: Iterable[str], changes: Changed) -> int:
        """By how many bytes changes make some tables larger."""
        growth = 0
        for table in tables:
            for key, value in changes.get(table, {}).items():
                stored = self._txn.get(key, db=self._dbs[table])
                growth -= len(key) + len(stored) if stored is not None else 0
                if value is not None:
                    growth += len(key) + len(value)
                    growth += 0 if len(value) > LARGE_BYTES else SUM_BYTES
        return growth

    def descend(self, table: str, key: bytes) -> Iterator[Item]:
        """The items with keys up to `key`, in descending order."""
        try:
            with self._txn.cursor(db=self._dbs[table]) as cursor:
                found = _seek(cursor, key)
                while found:
                    at = cursor.key()
                    yield at, self._open(table, at, cursor.value())
                    found = cursor.prev()
        except lmdb.Error as e:
            raise self._damage(table, str(e)) from e

    def floor(self, table: str, key: bytes) -> Item | None:
        try:
            with self._txn.cursor(db=self._dbs[table]) as cursor:
                if not _seek(cursor, key):
                    return None
                at, stored = cursor.item()
        except lmdb.Error as e:
            raise self._damage(table, str(e)) from e
        return at, self._open(table, at, stored)

    def pages(self) -> int:
        """How many pages the tables take."""
        try:
            stats = [self._txn.stat(db) for db in (*self._dbs.values(), self._ends_db)]
        except lmdb.Error:
            return self._pages  # there is no transaction any more: the last answer
        self._pages = sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)
        return self._pages


def map_bytes_for(file_bytes: int) -> int:
    """How much to map of a file of that size: it grows before the map is looked at again."""
    wanted = KNOBS.store_map_bytes
    while wanted < 2 * file_bytes + KNOBS.store_map_bytes // 2:
        wanted *= 2
    return wanted


_value_of = itemgetter(slice(None, -SUM_BYTES))
"""The value of a stored row that is not large."""


def _decode(stored: bytes) -> State | None:
    content = stored[:-SUM_BYTES]
    if stored[-SUM_BYTES:] != checksum_bytes(content):
        return None
    return msgspec.msgpack.decode(content, type=State)


def _is_free(cursor: lmdb.Cursor, lo: bytes, hi: bytes) -> bool:
    """Whether there is no row from `lo` to `hi`."""
    return not cursor.set_range(lo) or bytes(cursor.key()) > hi


def _seek(cursor: lmdb.Cursor, key: bytes) -> bool:
    """Go to `key` or the last key before it; false if there is none."""
    if not cursor.set_range(key):
        return cursor.last()
    return cursor.key() == key or cursor.prev()
