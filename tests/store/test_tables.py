"""The tables in LMDB: what they hold and count, and that no row is believed that is not whole."""

from __future__ import annotations

import itertools
import random

import lmdb
import pytest

from wormspace.errors import NewerFormat, StoreDamaged
from wormspace.store import lmdb_tables
from wormspace.store.checksum import SUM_BYTES, checksum, checksum_bytes
from wormspace.store.files import SYSTEM
from wormspace.store.lmdb_tables import Tables, map_bytes_for

LARGE = 40
"""A value with a checksum of its own is larger, in these tests."""

SALT = b"the-salt"


@pytest.fixture
def tables(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_tables, "LARGE_BYTES", LARGE)
    held = Tables(SYSTEM, tmp_path, ("t", "u"), 0)
    yield held
    held.close()


def put(tables: Tables, **rows: bytes | None) -> None:
    """Rows of `t`."""
    tables.apply({"t": {key.encode(): value for key, value in rows.items()}}, 1000)


def stored_bytes(tables: Tables, table: str) -> int:
    """What the rows of a table take."""
    return sum(len(key) + len(stored) for key, stored in tables.stored(table, b"", 99, 99_999))


def end_of(key: bytes, value: bytes, table: str = "t") -> int:
    whole = checksum_bytes(value, checksum(key, checksum(table.encode())))
    return int.from_bytes(whole, "big")


@pytest.mark.parametrize("seed", range(6))
def test_rows_of_all_sizes_are_a_dictionary_and_their_sum_is_known(tables, seed: int) -> None:
    rng = random.Random(seed)
    model: dict[str, dict[bytes, bytes]] = {"t": {}, "u": {}}
    keys = [bytes([n]) for n in range(12)]
    for _ in range(30):
        changes: dict[str, dict[bytes, bytes | None]] = {"u": {}}
        for table in rng.sample(["t", "u"], rng.randint(1, 2)):
            some = rng.sample(keys, rng.randint(1, 4))
            sizes = (0, 1, LARGE - SUM_BYTES, LARGE - SUM_BYTES + 1, LARGE, LARGE + 1, 99)
            changes[table] = {
                key: None if rng.random() < 0.3 else rng.randbytes(rng.choice(sizes))
                for key in some
            }
        grown = tables.growth(["t"], changes) + stored_bytes(tables, "t")
        tables.apply(
            changes, max(len(v or b"") for rows in changes.values() for v in [b"", *rows.values()])
        )
        assert stored_bytes(tables, "t") == grown
        for table, rows in changes.items():
            for key, value in rows.items():
                model[table].pop(key, None)
                if value is not None:
                    model[table][key] = value
        for table, rows in model.items():
            ordered = sorted(rows.items())
            assert list(tables.scan(table, b"", b"\xff")) == ordered
            assert list(tables.scan(table, b"\3", b"\7")) == [
                r for r in ordered if b"\3" <= r[0] < b"\7"
            ]
            some = rng.sample(keys, rng.randint(0, 9))
            assert tables.get_many(table, some) == [rows.get(key) for key in some]
            assert [tables.get(table, key) for key in some] == [rows.get(key) for key in some]
            at = rng.choice(keys)
            below = [r for r in ordered if r[0] <= at]
            assert tables.floor(table, at) == (below[-1] if below else None)
            assert list(tables.descend(table, at)) == below[::-1]
            total = sum(end_of(key, value, table) for key, value in rows.items())
            assert tables.sums[table].total == total % lmdb_tables._MODULUS
        ends = sum(len(value) > LARGE for rows in model.values() for value in rows.values())
        assert tables._txn.stat(tables._ends_db)["entries"] == ends


@pytest.mark.parametrize("size", [1, LARGE - SUM_BYTES, LARGE, 99])
def test_a_row_of_which_a_bit_changed_is_no_value_to_anybody(tables, size: int) -> None:
    whole = {name: bytes([ord(name)]) * size for name in "abc"}
    put(tables, **whole)
    keys = [name.encode() for name in whole]
    stored = tables._txn.get(b"b", db=tables._dbs["t"])
    met = 0
    for at in {0, len(stored) - 1, len(stored) // 2}:
        for bit in (1, 128):
            wrong = bytearray(stored)
            wrong[at] ^= bit
            tables._txn.put(b"b", bytes(wrong), db=tables._dbs["t"])
            for read in (
                lambda: tables.get("t", b"b"),
                lambda: tables.get_many("t", keys),
                lambda: tables.get_many("t", [b"b", b"x"]),
                lambda: tables.floor("t", b"bb"),
                lambda: list(tables.scan("t", b"", b"z")),
                lambda: list(tables.descend("t", b"b")),
            ):
                with pytest.raises(StoreDamaged, match="the row 62 is not what was written"):
                    read()
                met += 1
            assert tables.get_many("t", [b"a", b"c"]) == [whole["a"], whole["c"]]
            assert tables.checked("t", b"b", bytes(wrong))[0] is None
    assert tables.damaged == met
    tables._txn.put(b"b", stored, db=tables._dbs["t"])
    assert tables.get_many("t", keys) == list(whole.values())


def test_between_two_rows_it_is_free(tables) -> None:
    put(tables, b=b"1", e=b"2")
    with tables._txn.cursor(db=tables._dbs["t"]) as cursor:
        for lo, hi in itertools.combinations_with_replacement("abcdef", 2):
            is_free = not any(lo <= key <= hi for key in "be")
            assert lmdb_tables._is_free(cursor, lo.encode(), hi.encode()) == is_free


def test_rows_are_walked_so_many_and_so_much_at_a_time(tables) -> None:
    put(tables, **dict.fromkeys("abcdef", b"v" * 10))
    row = 10 + SUM_BYTES
    for after, rows, size, found in (
        (b"", 3, 1000, "abc"),
        (b"c", 3, 1000, "def"),
        (b"c", 9, 1000, "def"),
        (b"bb", 1, 1000, "c"),
        (b"", 9, 1, "a"),
        (b"", 9, row, "a"),
        (b"", 9, row + 1, "ab"),
        (b"f", 9, 1000, ""),
    ):
        assert [key.decode() for key, _ in tables.stored("t", after, rows, size)] == list(found)


def test_what_was_committed_is_there_again_and_what_was_not_is_dropped(tables, tmp_path) -> None:
    assert tables.committed is None
    before = tables.committed_pages
    put(tables, a=b"1")
    tables.commit(5, SALT)
    tables.begin()
    assert (tables.committed.number, tables.committed.salt) == (5, SALT)
    assert tables.committed_pages > before
    sums = tables.sums["t"].total
    assert sums == end_of(b"a", b"1")
    put(tables, b=b"2")
    tables.abort()
    tables.restart()
    assert list(tables.scan("t", b"", b"z")) == [(b"a", b"1")]
    assert tables.sums["t"].total == sums
    tables.close()
    again = Tables(SYSTEM, tmp_path, ("t", "u"), 0)
    assert (again.get("t", b"a"), again.sums["t"].total) == (b"1", sums)
    assert again.pages() == 1
    put(again, b=bytes(2000))  # its checksum is in a table of its own
    assert again.pages() == 2
    again.close()


def test_a_commit_that_fails_drops_what_changed(tables) -> None:
    put(tables, a=b"1")
    tables.commit(1, SALT)
    tables.begin()
    put(tables, b=b"2")
    real, tables._state_db = tables._state_db, None
    with pytest.raises(lmdb.Error):
        tables.commit(2, SALT)
    tables._state_db = real
    with pytest.raises(lmdb.Error):  # that transaction is over
        tables._txn.get(b"a", db=tables._dbs["t"])
    tables.restart()
    assert list(tables.scan("t", b"", b"z")) == [(b"a", b"1")]
    assert tables.committed.number == 1


def test_the_tables_say_what_of_them_is_not_theirs(tables, tmp_path) -> None:
    for stored, error in (
        (b"nonsense", StoreDamaged),
        (_state(lmdb_tables.VERSION + 1), NewerFormat),
        (_state(lmdb_tables.VERSION)[:-1] + b"\0", StoreDamaged),
        (_state(lmdb_tables.VERSION)[:-1] + b"\xff", StoreDamaged),
    ):
        tables._txn.put(lmdb_tables._ROW, stored, db=tables._state_db)
        with pytest.raises(error):
            tables._read_state()


def _state(version: int) -> bytes:
    content = lmdb_tables.msgspec.msgpack.encode(lmdb_tables.State(version, 1, SALT, {}))
    return content + checksum_bytes(content)


def test_the_map_grows_when_it_must_and_is_asked_for_first(tables, monkeypatch) -> None:
    put(tables, a=b"1")
    tables.commit(1, SALT)
    first = tables.map_bytes
    assert first == map_bytes_for(0)
    assert not tables.needs_addresses(0)
    assert not tables.needs_addresses(3 * first // 4)
    assert tables.needs_addresses(3 * first // 4 + 1)
    asked: list[int] = []
    monkeypatch.setattr(type(SYSTEM), "check_addresses", lambda self, size: asked.append(size))
    tables.grow(0)
    assert (asked, tables.map_bytes) == ([2 * first], 2 * first)
    assert tables._env.info()["map_size"] == 2 * first
    tables.grow(4 * first)
    assert tables.map_bytes == map_bytes_for(4 * first)

    def none(self, size):
        raise OSError("no addresses")

    monkeypatch.setattr(type(SYSTEM), "check_addresses", none)
    before = tables.map_bytes
    with pytest.raises(OSError, match="addresses"):
        tables.grow(0)
    assert tables.map_bytes == before == tables._env.info()["map_size"]
    tables.begin()
    assert tables.get("t", b"a") == b"1"


def test_what_refuses_says_why_to_every_read(tables) -> None:
    put(tables, a=b"1")
    pages = tables.pages()
    tables.refuse("the scrub found what cannot be")
    for read in (
        lambda: tables.get("t", b"a"),
        lambda: tables.get_many("t", [b"a"]),
        lambda: tables.floor("t", b"a"),
        lambda: list(tables.scan("t", b"", b"z")),
        lambda: list(tables.descend("t", b"a")),
    ):
        with pytest.raises(StoreDamaged, match="what cannot be"):
            read()
    assert tables.pages() == pages
