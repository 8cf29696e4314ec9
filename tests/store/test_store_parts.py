"""Trust, pace, room, locks, sums and the scrub, each against what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path

import lmdb
import pytest
from tests.store.calls import Calls

from wormspace.errors import StoreDamaged, StoreError, StoreFull, StoreLocked
from wormspace.knobs import KNOBS, turned
from wormspace.runtime.disk import Buffer
from wormspace.store import lmdb_tables
from wormspace.store import scrub as scrubbing
from wormspace.store.files import SystemFiles
from wormspace.store.lmdb_tables import Sum, map_bytes_for
from wormspace.store.lock import DirectoryLock
from wormspace.store.pace import FAST_S, Pace
from wormspace.store.room import SCARCE_BYTES, Room
from wormspace.store.roots import Checkpoint, Roots
from wormspace.store.scrub import Scrub
from wormspace.store.trust import Trust

HERE = Path("/data/store")


# ---------------------------------------------------------------- pace


class Clock:
    """A clock that the work moves."""

    at = 100.0

    def now(self) -> float:
        return self.at


def test_the_loop_writes_itself_after_enough_fast_writes_and_no_large_record() -> None:
    clock = Clock()
    pace = Pace(clock)

    def write(seconds: float) -> None:
        def work() -> None:
            clock.at += seconds

        pace.timed(work)()

    small = KNOBS.store_inline_bytes
    for _ in range(KNOBS.store_inline_after):
        assert not pace.allows(0)
        write(FAST_S / 2)
    assert [pace.allows(size) for size in (0, small, small + 1)] == [True, True, False]
    assert pace.slow == 0
    write(2 * FAST_S)
    assert (pace.allows(0), pace.slow) == (False, 1)
    for _ in range(KNOBS.store_inline_after - 1):
        write(0)
    assert not pace.allows(0)
    write(0)
    write(0)
    assert pace.allows(small)
    write(1)
    assert (pace.allows(0), pace.slow) == (False, 2)


# ---------------------------------------------------------------- trust


def test_after_a_failure_nothing_is_trusted_and_the_first_one_is_told(caplog) -> None:
    trust = Trust(HERE)
    with trust:
        pass
    with pytest.raises(StoreFull), trust:
        raise StoreFull("no room")
    trust.check()
    assert trust.failed == ""
    cause = ValueError("broken")
    with pytest.raises(StoreError, match=f"^{HERE}: broken$") as caught, trust:
        raise cause
    assert caught.value.__cause__ is cause
    with pytest.raises(StoreError, match="broken"), trust:
        pytest.fail("nothing runs any more")
    trust.fail(OSError("another"))
    with pytest.raises(StoreError, match=f"^{HERE}: broken$"):
        trust.check()
    assert [r.levelname for r in caplog.records] == ["CRITICAL"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyError(), f"{HERE}: KeyError"),
        (StoreDamaged(f"{HERE}/data.mdb: torn"), f"{HERE}/data.mdb: torn"),
        (asyncio.CancelledError(), f"{HERE}: a commit was cancelled half-way"),
        (KeyboardInterrupt(), f"{HERE}: KeyboardInterrupt"),
    ],
)
def test_what_failed_is_said_with_its_place_once(error, says: str) -> None:
    trust = Trust(HERE)
    raised = StoreError if isinstance(error, Exception) else type(error)
    with pytest.raises(raised) as caught, trust:
        raise error
    assert trust.failed == says
    assert type(caught.value) is raised


# ---------------------------------------------------------------- room


class Disk(Calls):
    """A disk of a kind, with so much room."""

    def __init__(self, free: int = 1 << 40, kind: str = "ext4") -> None:
        super().__init__()
        self.free, self.of_kind = free, kind

    def free_bytes(self, path: Path) -> int:
        self._step("free_bytes", path)
        return self.free

    def kind(self, path: Path) -> str:
        return self.of_kind if path == HERE else "?"


@pytest.mark.parametrize(("kind", "told"), [("ext4", 0), ("", 0), ("tmpfs", 1), ("ramfs", 1)])
def test_a_disk_in_memory_is_told(kind: str, told: int, caplog) -> None:
    Room(Disk(kind=kind), HERE, 5).warn_of_memory()
    assert len(caplog.records) == told


@pytest.mark.parametrize("code", [None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_room_is_tried_and_given_back(code: int | None) -> None:
    disk = Disk()
    disk.failing["reserve"] = [code]
    room = Room(disk, HERE, 5)
    if code == errno.EIO:
        with pytest.raises(OSError, match="rror"):
            room.is_there()
    else:
        assert room.is_there() == (code is None)
    assert disk.made == [("reserve", 5, 0, KNOBS.store_probe_bytes), ("truncate", 5, 0)]


def os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (os_error(errno.ENOSPC), StoreFull, "no room on the disk"),
        (os_error(errno.EDQUOT), StoreFull, "no room on the disk"),
        (os_error(errno.EMFILE), StoreError, "raise the limit"),
        (os_error(errno.ENFILE), StoreError, "raise the limit"),
        (os_error(errno.EIO), StoreError, "the disk failed"),
        (os_error(errno.EPERM), StoreError, rf"^{HERE}: \[Errno {errno.EPERM}\]"),
        (os_error(errno.EROFS), StoreError, rf"^{HERE}: \[Errno {errno.EROFS}\]"),
        (ValueError("odd"), StoreError, f"^{HERE}: odd$"),
        (ValueError(os.strerror(errno.ENOSPC)), StoreError, "No space"),
        (lmdb.CorruptedError("x"), StoreDamaged, "the tables are damaged"),
        (lmdb.VersionMismatchError("x"), StoreDamaged, "the tables are damaged"),
        (lmdb.DiskError("x"), StoreFull, "no room on the disk"),
        (lmdb.Error(os.strerror(errno.ENOSPC)), StoreFull, "no room on the disk"),
        (lmdb.Error("x"), StoreError, f"^{HERE}: x$"),
    ],
)
def test_an_error_says_what_it_means(error: Exception, kind: type, says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        raise Room(Disk(), HERE, 5).explain(error)
    assert type(caught.value) is kind


def test_an_error_of_ours_is_passed_on() -> None:
    error = StoreDamaged("x")
    assert Room(Disk(), HERE, 5).explain(error) is error


@pytest.mark.parametrize(
    ("free", "reserve", "full"),
    [
        (SCARCE_BYTES - 1, None, True),
        (SCARCE_BYTES, None, False),
        (SCARCE_BYTES + 1, None, False),
        (SCARCE_BYTES, errno.EDQUOT, True),
        (SCARCE_BYTES, errno.EIO, False),
    ],
)
def test_a_write_that_was_cut_short_is_looked_into(free: int, reserve, full: bool) -> None:
    disk = Disk(free)
    disk.failing["reserve"] = [reserve]
    error = Room(disk, HERE, 5).explain(lmdb.Error(f"mdb_txn_commit: {os.strerror(errno.EIO)}"))
    assert type(error) is (StoreFull if full else StoreError)


# ---------------------------------------------------------------- locks


@pytest.mark.parametrize("code", [None, errno.EBADF, errno.EOPNOTSUPP])
def test_file_and_directory_are_locked_where_directories_can_be(code: int | None) -> None:
    system = Calls()
    system.failing["lock"] = [None, code]
    lock = DirectoryLock(system, HERE)
    assert system.made == [
        ("open", HERE, os.O_RDONLY | os.O_DIRECTORY),
        ("open", HERE / "lock", os.O_RDWR | os.O_CREAT),
        ("lock", 8),
        ("lock", 7),
    ]
    assert lock.fd == 8
    system.made.clear()
    lock.close()
    assert system.made == [("close", 8), ("close", 7)]


@pytest.mark.parametrize("failing", [[errno.EAGAIN], [None, errno.EAGAIN], [errno.EBADF]])
def test_a_lock_that_is_not_had_is_told_and_leaves_nothing_open(failing) -> None:
    system = Calls()
    system.failing["lock"] = failing
    with pytest.raises(StoreLocked if errno.EAGAIN in system.failing["lock"] else OSError):
        DirectoryLock(system, HERE)
    assert system.names()[-2:] == ["close", "close"]


# ---------------------------------------------------------------- sums and the scrub


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("place", [None, *"abcdefg"])
@pytest.mark.parametrize("size", [0, 1, 2, 8])
def test_a_sum_is_of_the_rows_that_are_there(size: int, place: str | None, at_once: bool) -> None:
    rng = random.Random(size)
    changes = [(rng.choice("abcdef"), rng.randbytes(8)) for _ in range(size)]
    held, there = Sum(5), {}
    for key in [] if place is None else ["", place]:
        held.pass_row(key.encode(), bytes(8))
    if at_once and changes:
        there = {key.encode(): end for key, end in sorted(changes)}
        held.add_many(there, list(there.values()), min(there), max(there))
    else:
        for name, end in changes:
            key = name.encode()
            if key in there:
                held.remove(key, there.pop(key))
            else:
                held.add(key, end)
                there[key] = end
    whole = sum(int.from_bytes(end, "big") for end in there.values())
    passed = sum(
        int.from_bytes(end, "big")
        for key, end in there.items()
        if place is not None and key <= place.encode()
    )
    modulus = (1 << 64) - 1
    assert held.total % modulus == (5 + whole) % modulus
    assert held.passed % modulus == passed % modulus


def test_a_row_that_the_scrub_passes_counts_from_there() -> None:
    held = Sum()
    assert (held.total, held.passed, held.place) == (0, 0, None)
    held.pass_row(b"b", (7).to_bytes(8, "big"))
    held.pass_row(b"d", (2).to_bytes(8, "big"))
    assert (held.total, held.passed, held.place) == (0, 9, b"d")


class Rows:
    """Tables of rows, some of them damaged."""

    def __init__(self, **tables: list[tuple[bytes, bool]]) -> None:
        self.rows = tables
        self.sums = {name: Sum(len(held)) for name, held in tables.items()}
        self.asked: list[tuple] = []

    def stored(self, table: str, after: bytes, rows: int, size: int):
        self.asked.append((table, after, rows, size))
        return [(k, b"w" if whole else b"d") for k, whole in self.rows[table] if k > after][:rows]

    def checked(self, table: str, key: bytes, stored: bytes):
        return (b"" if stored == b"w" else None), (1).to_bytes(8, "big")


def test_the_scrub_walks_one_table_after_the_other_and_around(caplog) -> None:
    tables = Rows(t=[(b"a", True), (b"b", False), (b"c", True)], u=[], v=[], other=[(b"x", False)])
    scrub = Scrub(tables, ("t", "u", "v"))
    with turned(store_scrub_rows=2):
        for _ in range(5):
            scrub.step()
    asked = [("t", b""), ("t", b"b"), ("t", b"c"), ("u", b""), ("v", b"")]
    assert tables.asked == [(*one, 2, scrubbing.STEP_BYTES) for one in asked]
    assert (scrub.rounds, scrub.rows, scrub.damaged) == (1, 3, {("t", b"b")})
    assert tables.sums["t"].total == 3
    for _ in range(4):
        scrub.step()
    assert (scrub.rounds, scrub.rows) == (2, 6)
    assert len([r for r in caplog.records if r.levelname == "CRITICAL"]) == 1


def test_rows_that_are_missing_are_found_at_the_end_of_a_walk_and_only_there() -> None:
    tables = Rows(t=[(b"a", True)], u=[])
    tables.sums["t"].total = 2
    scrub = Scrub(tables, ("t", "u"))
    scrub.step()
    with pytest.raises(StoreDamaged, match="table 't': rows are missing"):
        scrub.step()


def test_beside_a_damaged_row_what_there_is_counts_until_the_next_walk() -> None:
    tables = Rows(t=[(b"a", False)])
    tables.sums["t"].total = 2
    scrub = Scrub(tables, ("t",))
    scrub.step()
    scrub.step()
    assert tables.sums["t"].total == 1
    scrub.step()
    scrub.step()  # the same damaged row is no news: all that should be there is
    tables.sums["t"].total = 3
    scrub.step()
    with pytest.raises(StoreDamaged, match="missing"):
        scrub.step()


def test_so_many_damaged_rows_are_named_and_no_more(monkeypatch, caplog) -> None:
    monkeypatch.setattr(scrubbing, "MOST_NAMED", 2)
    tables = Rows(t=[(bytes([i]), False) for i in range(1, 6)])
    scrub = Scrub(tables, ("t",))
    scrub.step()
    scrub.step()
    assert scrub.damaged == {("t", b"\1"), ("t", b"\2")}
    assert len(caplog.records) == 2
    tables.sums["t"].total = 1  # a damaged row that is not named makes this walk prove nothing too
    scrub.step()
    scrub.step()
    assert tables.sums["t"].total == 5


def test_the_map_is_twice_the_file_and_half_a_step_more() -> None:
    with turned(store_map_bytes=1 << 20):
        step = KNOBS.store_map_bytes
        assert [map_bytes_for(size) // step for size in (0, step // 4, step // 4 + 1)] == [1, 1, 2]
        assert map_bytes_for(3 * step // 4) == 2 * step
        assert map_bytes_for(3 * step // 4 + 1) == 4 * step
    assert lmdb_tables.VERSION == 1


# ---------------------------------------------------------------- roots


class Unsynced(SystemFiles):
    """Knows what was written and may yet be lost."""

    def __init__(self) -> None:
        self.left: set[int] = set()

    def write(self, fd: int, parts: Sequence[Buffer], at: int, flags: int = 0) -> int:
        self.left.add(fd)
        return super().write(fd, parts, at, flags)

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.left.discard(fd)

    def rename(self, old: Path, new: Path) -> None:
        assert not self.left, "it has a name before it is on disk"
        super().rename(old, new)


def test_a_checkpoint_is_on_disk_before_it_has_a_name_and_before_it_counts(tmp_path) -> None:
    files = Unsynced()
    roots = Roots(tmp_path, files)
    for number in (1, 2, 3):
        roots.save(Checkpoint(number, b"the-salt", number, 8192, b"pages"))
        assert not files.left
    roots.close()


class Failing(SystemFiles):
    """The system, which writes so many times more."""

    left = 1 << 30

    def write(self, fd, parts, at, flags=0):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.EIO, "the disk is broken")
        return super().write(fd, parts, at, flags)


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, number, left) -> None:
    files = Failing()
    roots = Roots(tmp_path, files)
    for n in range(1, number + 1):
        roots.save(Checkpoint(n, b"the-salt", n, 0, b"pages"))
    files.left = left
    with contextlib.suppress(OSError):
        roots.save(Checkpoint(number + 1, b"the-salt", 1, 0, b"pages"))
    roots.close()
    found = Roots(tmp_path, SystemFiles())
    assert found.saved.number == roots.saved.number >= number
    found.close()


def test_of_roots_that_were_cut_a_whole_slot_counts_and_less_is_damage(tmp_path) -> None:
    roots = Roots(tmp_path, SystemFiles())
    for number in (1, 2):
        roots.save(Checkpoint(number, b"the-salt", number, 0, b"pages"))
    roots.close()
    whole = (tmp_path / "roots").read_bytes()
    for size in range(len(whole) + 1):
        (tmp_path / "roots").write_bytes(whole[:size])
        try:
            found = Roots(tmp_path, SystemFiles())
        except StoreDamaged:
            assert size < len(whole)
        else:
            assert found.saved in (roots.saved, Checkpoint(1, b"the-salt", 1, 0, b"pages"))
            found.close()
