"""LMDB's tables as a view: every row carries a checksum, which is verified when it is read.

    row         value, checksum (8) of table, key and value
    "state"     one more table, with one row: format version, the number of the last record of the
                journal that the tables have, the salt of the file that goes on from there, and for
                each table the XOR of its rows' checksums

A row that was changed on disk, or moved to another key, is `StoreDamaged` and never a value.  A row
that is gone cannot say so itself: a page of rows that was lost or is an older one is found when the
XOR of all rows is not what it was (`scrub.py`).  The state tells the tables of this checkpoint from
an older copy of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import add, xor
from pathlib import Path
from typing import cast

import lmdb
import msgspec

from wormspace.errors import NewerFormat, StoreDamaged
from wormspace.knobs import KNOBS
from wormspace.store.changes import Tables as Changed
from wormspace.store.checksum import SUM_BYTES, checksum, checksum_bytes
from wormspace.store.engine import Item
from wormspace.store.files import Files
from wormspace.store.trust import ADVICE

STATE = b"state"
VERSION = 1
_ROW = b"state"


class State(msgspec.Struct, frozen=True, array_like=True):
    """What the tables say of themselves at a checkpoint."""

    version: int
    number: int
    salt: bytes
    sums: dict[str, int]


class Sum:
    """The XOR of a table's checksums: of all rows, and of those that a scrub has passed.

    Attributes:
        total: of all rows.
        passed: of the rows with keys up to `place`.
        place: how far the scrub is; None if it is elsewhere.
    """

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self.passed = 0
        self.place: bytes | None = None

    def change(self, keys: list[bytes], sums: list[int]) -> None:
        """These checksums come to the keys, or go from them."""
        if not sums:
            return
        self.total ^= reduce(xor, sums)
        place = self.place
        if place is not None:
            for key, held in zip(keys, sums, strict=True):
                if key <= place:
                    self.passed ^= held


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
        self._env = files.open_tables(path, self.map_bytes, len(names) + 1)
        try:
            self._dbs = {name: self._env.open_db(name.encode()) for name in names}
            self._state_db = self._env.open_db(STATE)
            self._seeds = {name: checksum(name.encode()) for name in names}
            self.page_bytes = int(self._env.stat()["psize"])
            self.damaged = 0
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
            As `restart`.
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
            raise NewerFormat(
                f"the tables in {self._path} have format {state.version}, and this wormspace knows "
                f"those up to {VERSION}: update it"
            )
        return state

    def abort(self) -> None:
        """Drop what changed since the last commit."""
        self._txn.abort()

    def commit(self, number: int, salt: bytes) -> None:
        """Hand what changed to the operating system.  `begin` the next transaction then.

        Args:
            number, salt: the journal's last record, and its file that goes on from there.

        Raises:
            lmdb.Error, OSError: what changed is dropped.
        """
        sums = {name: held.total for name, held in self.sums.items()}
        content = msgspec.msgpack.encode(State(VERSION, number, salt, sums))
        self._txn.put(_ROW, content + checksum_bytes(content), db=self._state_db)
        self._txn.commit()

    def sync(self) -> None:
        """Wait until the disk has what was committed."""
        self._env.sync(True)

    def close(self) -> None:
        """Close the tables, without what changed since the last commit."""
        self._txn.abort()
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

    def apply(self, changes: Changed) -> None:
        """Put and delete.

        Raises:
            lmdb.Error: some of it may be done; `abort`.
        """
        for table, changed in changes.items():
            if not changed:
                continue
            keys = list(changed)
            with self._txn.cursor(db=self._dbs[table]) as cursor:
                if None not in changed.values() and _is_free(cursor, keys):
                    self._insert(cursor, table, changed)
                else:
                    self._replace(cursor, table, changed)

    def _insert(self, cursor: lmdb.Cursor, table: str, changed: dict[bytes, bytes | None]) -> None:
        """New rows where nothing is."""
        seed = self._seeds[table]
        rows = cast(dict[bytes, bytes], changed)
        sums = [checksum(value, checksum(key, seed)) for key, value in rows.items()]
        ends = [held.to_bytes(SUM_BYTES, "big") for held in sums]
        cursor.putmulti(zip(rows, map(add, rows.values(), ends), strict=True))
        self.sums[table].change(list(rows), sums)

    def _replace(self, cursor: lmdb.Cursor, table: str, changed: dict[bytes, bytes | None]) -> None:
        """Rows where there may be others."""
        seed = self._seeds[table]
        keys: list[bytes] = []
        sums: list[int] = []
        for key, value in changed.items():
            if value is not None:
                new = checksum(value, checksum(key, seed))
                old = cursor.replace(key, value + new.to_bytes(SUM_BYTES, "big"))
                keys.append(key)
                sums.append(new)
            else:
                old = cursor.pop(key)
            if old is not None:
                keys.append(key)
                sums.append(int.from_bytes(old[-SUM_BYTES:], "big"))
        self.sums[table].change(keys, sums)

    # ------------------------------------------------------------ reading

    def _open(self, table: str, key: bytes, stored: bytes) -> bytes:
        """The value of a row.

        Raises:
            StoreDamaged
        """
        value = stored[:-SUM_BYTES]
        if stored[-SUM_BYTES:] == checksum_bytes(value, checksum(key, self._seeds[table])):
            return value
        raise self._damage(table, f"the row {key.hex()} is not what was written")

    def _damage(self, table: str, what: str) -> StoreDamaged:
        self.damaged += 1
        return StoreDamaged(f"{self._path}/data.mdb, table {table!r}: {what}. {ADVICE}")

    def get(self, table: str, key: bytes) -> bytes | None:
        try:
            stored = self._txn.get(key, db=self._dbs[table])
        except lmdb.Error as e:
            raise self._damage(table, str(e)) from e
        return None if stored is None else self._open(table, key, stored)

    def get_many(self, table: str, keys: list[bytes]) -> list[bytes | None]:
        try:
            with self._txn.cursor(db=self._dbs[table]) as cursor:
                if len(keys) > 1 and _is_free(cursor, keys):
                    return [None] * len(keys)  # new registers: as a rule nothing is around them
                get = cursor.get
                found = [get(key) for key in keys]
        except lmdb.Error as e:
            raise self._damage(table, str(e)) from e
        open_ = self._open
        return [
            None if stored is None else open_(table, key, stored)
            for key, stored in zip(keys, found, strict=True)
        ]

    def scan(self, table: str, lo: bytes, hi: bytes) -> Iterator[Item]:
        open_ = self._open
        try:
            with self._txn.cursor(db=self._dbs[table]) as cursor:
                if not cursor.set_range(lo):
                    return
                for key, stored in cursor.iternext(keys=True, values=True):
                    if key >= hi:
                        return
                    yield key, open_(table, key, stored)
        except lmdb.Error as e:
            raise self._damage(table, str(e)) from e

    def stored(self, table: str, after: bytes | None, limit: int) -> list[Item]:
        """Up to `limit` rows with keys above `after`, as they are stored: for the scrub.

        Raises:
            StoreDamaged: the table cannot be walked.
        """
        out: list[Item] = []
        try:
            with self._txn.cursor(db=self._dbs[table]) as cursor:
                at = after + b"\0" if after is not None else b""
                if not (cursor.set_range(at) if at else cursor.first()):
                    return out
                for item in cursor.iternext(keys=True, values=True):
                    out.append(item)
                    if len(out) == limit:
                        break
        except lmdb.Error as e:
            raise self._damage(table, str(e)) from e
        return out

    def is_whole(self, table: str, key: bytes, stored: bytes) -> bool:
        """Whether a stored row is what was written."""
        value = stored[:-SUM_BYTES]
        return stored[-SUM_BYTES:] == checksum_bytes(value, checksum(key, self._seeds[table]))

    def row_bytes(self, table: str, key: bytes) -> int:
        """The bytes of a row, whole or not; 0 if there is none."""
        stored = self._txn.get(key, db=self._dbs[table])
        return 0 if stored is None else len(key) + len(stored) - SUM_BYTES

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
        return next(self.descend(table, key), None)

    def pages(self) -> int:
        """How many pages the tables take."""
        stats = [self._txn.stat(db) for db in self._dbs.values()]
        return sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)


def map_bytes_for(file_bytes: int) -> int:
    """How much to map of a file of that size: it grows before the map is looked at again."""
    wanted = KNOBS.store_map_bytes
    while wanted < 2 * file_bytes + KNOBS.store_map_bytes // 2:
        wanted *= 2
    return wanted


def _decode(stored: bytes) -> State | None:
    content = stored[:-SUM_BYTES]
    if stored[-SUM_BYTES:] != checksum_bytes(content):
        return None
    return msgspec.msgpack.decode(content, type=State)


def _is_free(cursor: lmdb.Cursor, keys: list[bytes]) -> bool:
    """Whether there is no row from the first to the last of these keys."""
    return not cursor.set_range(min(keys)) or bytes(cursor.key()) > max(keys)


def _seek(cursor: lmdb.Cursor, key: bytes) -> bool:
    """Go to `key` or the last key before it; false if there is none."""
    if not cursor.set_range(key):
        return cursor.last()
    return cursor.key() == key or cursor.prev()
