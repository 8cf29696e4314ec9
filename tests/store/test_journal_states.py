"""What the two files of a journal are at each step, and what it says of them."""

from __future__ import annotations

import os

import pytest

from wormspace.errors import StoreDamaged, StoreError
from wormspace.store.blocks import BLOCK
from wormspace.store.files import SystemFiles
from wormspace.store.journal import NAMES, Journal
from wormspace.store.journal_file import BATCH, CLOSING, JournalFile


class Counted(SystemFiles):
    """The system, with salts that can be told apart; it counts writes."""

    def __init__(self) -> None:
        self.salts, self.writes = 0, 0

    def random(self, size: int) -> bytes:
        self.salts += 1
        return b"salt-%03d" % self.salts

    def write(self, fd, parts, at, flags=0):
        self.writes += 1
        return super().write(fd, parts, at, flags)


def opened(path, sync: bool = True) -> Journal:
    return Journal(path, sync=sync, files=Counted())


def created(path, *records: bytes, sync: bool = True) -> Journal:
    """A new journal with some records."""
    j = opened(path, sync)
    j.create()
    for record in records:
        j.append(record)
    return j


def content(path, number: int) -> list[tuple[int, bytes]]:
    """Kind and payload of the records of one file."""
    file = JournalFile(SystemFiles(), path / NAMES[number])
    file.first = file.first_number()
    found = [(kind, payload) for _, kind, payload in file.records()]
    file.close()
    return found


def cut(path, number: int) -> None:
    with (path / NAMES[number]).open("r+b") as file:
        file.truncate(2 * BLOCK)


def test_a_journal_that_was_made_and_not_written_is_unused(tmp_path) -> None:
    j = opened(tmp_path)
    assert j.is_unused
    j.create()
    assert j.is_unused
    assert j.place == (b"salt-001", 1)
    j.create()  # it was not made to the end, the first time
    assert j.place == (b"salt-001", 1)
    assert j.size == BLOCK
    assert j.disk_bytes == sum((tmp_path / name).stat().st_size for name in NAMES)
    assert all((tmp_path / name).stat().st_size > BLOCK for name in NAMES)
    j.append(b"a")
    assert not j.is_unused
    j.close()
    for file in j._files:
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(file.fd)
    j = opened(tmp_path)
    assert not j.is_unused
    j.close()


def test_a_journal_whose_second_file_was_begun_is_in_use(tmp_path) -> None:
    j = created(tmp_path)
    j.prepare()
    assert not j.is_unused
    j.close()


def test_files_are_prepared_taken_up_closed_and_released_in_turn(tmp_path) -> None:
    j = created(tmp_path, b"a", b"b")
    assert (j.last, j.is_prepared, j.goes_on) == (2, False, False)
    j.prepare()
    assert (j.is_prepared, j.next_salt, j.place) == (True, b"salt-002", (b"salt-001", 1))
    j.switch()
    assert (j.is_prepared, j.goes_on, j.place) == (False, True, (b"salt-002", 3))
    assert not j.is_settled(1, 0)  # the other file is to be closed
    j.append(b"c")
    assert j.is_settled(1, 0)
    assert content(tmp_path, 0) == [(BATCH, b"a"), (BATCH, b"b"), (CLOSING, b"salt-002")]
    assert content(tmp_path, 1) == [(BATCH, b"c")]
    j.release()
    assert not j.goes_on
    j.prepare()
    j.switch()
    assert j.place == (b"salt-003", 4)
    j.append(b"d")
    assert content(tmp_path, 1) == [(BATCH, b"c"), (CLOSING, b"salt-003")]
    j.close()
    j = opened(tmp_path)
    assert list(j.recover(2, b"salt-002", 3)) == [b"c", b"d"]
    assert (j.last, j.goes_on, j.place) == (4, True, (b"salt-003", 4))
    j.prepare()
    j.skip()
    j.switch()
    assert j.place[1] == 6
    j.close()


def test_a_file_that_is_prepared_again_is_not_closed_any_more(tmp_path) -> None:
    """It has another use by then."""
    j = created(tmp_path, b"a")
    j.prepare()
    j.switch()
    j.release()
    j.prepare()
    j.append(b"b")
    assert content(tmp_path, 0) == []
    j.close()


def test_room_is_there_for_a_record_and_what_is_spared(tmp_path) -> None:
    j = created(tmp_path)
    left = (tmp_path / NAMES[0]).stat().st_size - j.size - JournalFile.bytes_of(0)
    for payload, spare, fits in ((left, 0, True), (left + 1, 0, False), (left - 9, 9, True)):
        assert j.is_settled(payload, spare) == fits
    assert not j.is_settled(left - 9, 10)
    before = j.disk_bytes
    j.append(bytes(left - 9), spare=9)
    assert j.disk_bytes == before
    j.append(b"")
    assert j.disk_bytes > before
    j.close()


def test_what_was_written_is_read_again_while_it_is_in_use(tmp_path) -> None:
    j = created(tmp_path, b"a", b"b")
    j.prepare()
    j.switch()
    j.append(b"c")
    j.append(b"d")
    for after, found in ((0, [b"a", b"b", b"c", b"d"]), (1, [b"b", b"c", b"d"]), (3, [b"d"])):
        assert list(j.again(after)) == found
    writes = j._system.writes
    assert list(j.again(4)) == list(j.again(9)) == []
    assert j._system.writes == writes
    j.skip()  # record 5 was not written
    with pytest.raises(StoreError, match=r"journal\.1: what was written, up to 5, is gone"):
        list(j.again(0))
    j.close()


@pytest.mark.parametrize("sync", [True, False])
def test_how_far_it_is_durable_is_noted_once_in_the_other_file(sync, tmp_path) -> None:
    j = created(tmp_path, b"a", sync=sync)
    files = j._files
    writes = j._system.writes
    for _ in range(2):
        j.mark()
    assert (j._system.writes - writes, files[1].mark) == (
        (1, (b"salt-001", 1)) if sync else (0, (b"", 0))
    )
    j.append(b"b")
    j.prepare()
    assert files[1].mark == ((b"salt-001", 2) if sync else (b"", 0))
    j.switch()
    j.append(b"c")
    j.mark()
    assert files[0].mark == ((b"salt-002", 3) if sync else (b"", 0))
    j.close()


def test_commits_that_are_lost_are_counted(tmp_path) -> None:
    j = created(tmp_path, *(b"%d" % i for i in range(5)))
    j.mark()
    ends = [j._files[0].end for _ in j._files[0].records()]
    j.close()
    with (tmp_path / NAMES[0]).open("r+b") as file:
        file.seek(ends[1])
        file.write(bytes(ends[-1] - ends[1]))
    j = opened(tmp_path)
    with pytest.raises(StoreDamaged) as told:
        list(j.recover(0, b"salt-001", 1))
    assert f"damaged at byte {ends[1]}: it ends with record 2" in str(told.value)
    assert "those up to 5 were durable, so 3 commits are lost" in str(told.value)
    j.close()
    j = opened(tmp_path, sync=False)
    assert list(j.recover(0, b"salt-001", 1)) == [b"0", b"1"]
    assert "3 commits are lost" in j.lost
    assert "(durability is 'os'" in j.lost
    assert j.last == 2
    j.close()


def test_a_checkpoint_names_a_file_that_is_there_and_whole(tmp_path) -> None:
    created(tmp_path, b"a", b"b").close()
    j = opened(tmp_path)
    j.check(2, b"salt-001")
    assert j.last == 2
    with pytest.raises(StoreDamaged, match="missing from record 8 on"):
        j.check(7, b"salt-009")
    j.close()
    for number, error in ((1, None), (0, "has 8192 bytes of 1048576")):
        cut(tmp_path, number)
        j = opened(tmp_path)
        if error is None:
            j.check(2, b"salt-001")
        else:
            with pytest.raises(StoreDamaged, match=error):
                j.check(2, b"salt-001")
            with pytest.raises(StoreDamaged, match=error):
                list(j.recover(2, b"salt-001", 1))
        j.close()


@pytest.mark.parametrize(("after", "found"), [(2, []), (1, [b"b"]), (3, None)])
def test_a_journal_has_all_that_the_tables_have(after, found, tmp_path) -> None:
    created(tmp_path, b"a", b"b").close()
    j = opened(tmp_path)
    if found is None:
        with pytest.raises(StoreDamaged, match=r"ends with record 2, and the tables .* up to 3"):
            list(j.recover(after, b"salt-001", 1))
    else:
        assert list(j.recover(after, b"salt-001", 1)) == found
    j.close()


def test_the_other_file_may_have_records_of_before_and_none_of_later(tmp_path) -> None:
    j = created(tmp_path, b"a")
    j.prepare()
    j.switch()
    j.append(b"b")
    j.release()
    j.close()
    j = opened(tmp_path)
    assert list(j.recover(1, b"salt-002", 2)) == [b"b"]  # the first file is of before
    j.close()
    j = opened(tmp_path)
    file = j._files[0]
    list(file.records())
    file.end -= JournalFile.bytes_of(8)
    file.erase()  # it does not name the other one any more
    with pytest.raises(
        StoreDamaged, match=r"ends with record 1 and does not name .* with record 2"
    ):
        list(j.recover(0, b"salt-001", 1))
    j.close()
    j = opened(tmp_path, sync=False)
    assert list(j.recover(0, b"salt-001", 1)) == [b"a"]
    assert "does not name" in j.lost
    j.close()
