"""One file of the journal, over a system that reads and writes little at a time."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
from tests.store.calls import Calls

from wormspace.errors import NewerFormat, StoreDamaged
from wormspace.knobs import turned
from wormspace.runtime import disk
from wormspace.store import blocks, journal_file
from wormspace.store.blocks import BLOCK
from wormspace.store.checksum import checksum
from wormspace.store.journal_file import BATCH, CLOSING, JournalFile

HERE = Path("journal.0")
SALT, OTHER = b"salt-one", b"salt-two"
HEAD = 29
"""Bytes of a record before its payload."""


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """A system without special writes."""
    monkeypatch.setattr(disk, "DSYNC", 0)


def file_on(system: Calls, salt: bytes = SALT, size: int = BLOCK + 1) -> JournalFile:
    """A file that is begun, with room."""
    file = JournalFile(system, HERE)
    file.grow(size)
    if salt:
        file.begin(salt)
    return file


def read(system: Calls, first: int = 1) -> tuple[JournalFile, list[tuple[int, int, bytes]]]:
    """The file opened anew, and its records."""
    file = JournalFile(system, HERE)
    file.first = first
    return file, list(file.records())


@pytest.mark.parametrize("most", [7, 1000, 1 << 30])
@pytest.mark.parametrize("sync", [True, False])
def test_records_of_all_sizes_come_back_in_order(most: int, sync: bool, monkeypatch) -> None:
    monkeypatch.setattr(journal_file, "PIECE_BYTES", 100)
    system = Calls(most=most)
    with turned(store_journal_step_bytes=4096):
        file = file_on(system, size=BLOCK + 2000)
    sizes = [0, 1, 70, 71, 72, 200, 41, 42, 43, 0]
    end = BLOCK
    for n, size in enumerate(sizes):
        assert file.end == end
        system.made.clear()
        file.append(5 + n, CLOSING if n == 3 else BATCH, bytes([n]) * size, sync=sync)
        end += file.bytes_of(size)
        assert system.names().count("sync_data") == sync
    assert file.bytes_of(10) == HEAD + 10
    again, found = read(system, 5)
    expected = [
        (5 + n, CLOSING if n == 3 else BATCH, bytes([n]) * size) for n, size in enumerate(sizes)
    ]
    assert found == expected
    assert (again.end, again.salt, again.size, again.first) == (end, SALT, 2 * BLOCK, 5)
    assert again._piece == (0, b"")
    assert again.first_number() == 5
    with pytest.raises(StoreDamaged, match="record 6 is not whole, though record 14 follows"):
        read(system, 6)
    again.close()
    assert system.made[-1] == ("close", again.fd)


def test_a_file_is_read_in_pieces_and_not_a_record_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(journal_file, "PIECE_BYTES", 1000)
    system = Calls()
    file = file_on(system)
    for number in range(1, 31):
        file.append(number, BATCH, bytes(71), sync=False)
    system.made.clear()
    list(file.records())
    reads = [made for made in system.made if made[0] == "read"]
    assert len([size for _, _, size, _ in reads if size == 1000]) == 4  # ten records in each


def test_a_record_that_ends_with_the_file_is_one_and_one_beyond_it_is_none() -> None:
    with turned(store_journal_step_bytes=4096):
        system = Calls()
        file = file_on(system)
        file.append(1, BATCH, bytes(BLOCK - HEAD), sync=True)
        assert len(system.content) == file.end == file.size == 2 * BLOCK
        assert [n for n, _, _ in read(system)[1]] == [1]
        del system.content[-1]
        assert read(system)[1] == []
        assert JournalFile(system, HERE).first_number() == 1
        del system.content[BLOCK + HEAD :]
        assert JournalFile(system, HERE).first_number() == 1
        del system.content[-1]
        assert JournalFile(system, HERE).first_number() == 0


def test_a_record_of_another_use_of_the_file_is_none() -> None:
    system = Calls()
    file = file_on(system)
    for number in (1, 2):
        file.append(number, BATCH, b"old", sync=True)
    file.begin(OTHER)
    assert (file.salt, file.end) == (OTHER, BLOCK)
    assert file.first_number() == 0
    assert read(system)[1] == []
    file.append(7, BATCH, b"new", sync=True)
    assert read(system, 7)[1] == [(7, BATCH, b"new")]
    file.begin(b"")
    assert file.first_number() == 0


@pytest.mark.parametrize("torn", [1, 2, 3])
def test_a_record_that_is_not_whole_is_damage_only_if_a_later_one_follows(torn: int) -> None:
    system = Calls()
    file = file_on(system)
    for number in (1, 2, 3):
        file.append(number, BATCH, b"abcd", sync=True)
    at = BLOCK + (torn - 1) * (HEAD + 4)
    system.content[at + HEAD] ^= 1
    again = JournalFile(system, HERE)
    records = again.records()
    for number in range(1, torn):
        assert next(records) == (number, BATCH, b"abcd")
        assert again.end == BLOCK + number * (HEAD + 4)
    if torn == 3:
        assert list(records) == []
    else:
        says = f"byte {at}: record {torn} is not whole, though record 3 follows it, so up to "
        says += rf"{4 - torn} commits that were durable are lost \({torn - 1} before them"
        with pytest.raises(StoreDamaged, match=says):
            next(records)
    assert again.end == at
    assert again._piece == (0, b"")


@pytest.mark.parametrize("shift", [0, 1, HEAD - 2, HEAD - 1, HEAD, HEAD + 1])
def test_a_later_record_is_found_wherever_it_is(shift: int, monkeypatch) -> None:
    """Across the pieces in which it is looked for, and up to the file's last byte."""
    monkeypatch.setattr(journal_file, "PIECE_BYTES", 64)
    system = Calls()
    with turned(store_journal_step_bytes=4096):
        file = file_on(system)
    record = journal_file._RECORD.pack(SALT, 3, BATCH, 0, 0)
    for at in (BLOCK + 1 + 64 - shift, BLOCK + 1, file.size - HEAD):
        system.content[BLOCK:] = bytes(BLOCK)
        system.content[at : at + HEAD] = record
        assert file._last_number(BLOCK, 1) == 3, at
        assert file._last_number(at - 1, 1) == 3
        assert file._last_number(at, 1) is None
        assert file._last_number(BLOCK, 3) is None
    system.content[file.size - HEAD + 1 :] = record[:-1]  # it would end behind the file
    assert file._last_number(BLOCK, 1) is None


def test_a_number_that_no_file_of_this_size_can_hold_is_no_record() -> None:
    system = Calls()
    with turned(store_journal_step_bytes=4096):
        file = file_on(system)
    most = file.size // HEAD
    for number, found in ((1 + most, None), (most, most), (2, 2), (1, None)):
        packed = journal_file._RECORD.pack(SALT, number, BATCH, 0, 0)
        system.content[BLOCK + 100 : BLOCK + 100 + HEAD] = packed
        assert file._last_number(BLOCK, 1) == found
    for at, number in ((300, 5), (500, 9), (700, 4)):
        packed = journal_file._RECORD.pack(SALT, number, BATCH, 0, 0)
        system.content[BLOCK + at : BLOCK + at + HEAD] = packed
    assert file._last_number(BLOCK, 1) == 9


def test_a_file_grows_by_whole_steps_and_says_so_in_its_header() -> None:
    system = Calls()
    with turned(store_journal_step_bytes=4096):
        file = JournalFile(system, HERE)
        file.grow(1)
        assert system.names()[-2:] == ["write", "sync"]
        assert (file.size, len(system.content)) == (4096, 4096)
        for size in (0, 1, 4096):
            file.grow(size)
        assert system.made == []
        file.begin(SALT)
        system.made.clear()
        file.grow(4097)
        assert file.size == len(system.content) == 8192
        assert system.names() == ["write", "sync", "write", "sync_data"]
        assert JournalFile(system, HERE)._promised == 8192


@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_file_that_cannot_grow_is_as_it_was(call: str) -> None:
    system = Calls(most=1000)
    with turned(store_journal_step_bytes=4096):
        file = JournalFile(system, HERE)
        file.grow(1)
        system.failing[call] = [None, errno.ENOSPC] if call == "write" else [errno.ENOSPC]
        with pytest.raises(OSError, match="No space"):
            file.grow(4097)
        assert file.size == len(system.content) == 4096
        assert system.made[-1] == ("truncate", file.fd, 4096)


def test_a_file_that_was_cut_is_damaged() -> None:
    system = Calls()
    file = file_on(system)
    file.check_size()
    JournalFile(system, HERE).check_size()
    del system.content[-1]
    with pytest.raises(StoreDamaged, match=f"it has {file.size - 1} bytes of {file.size}"):
        JournalFile(system, HERE).check_size()


def test_marks_come_back_and_those_that_rotted_are_none() -> None:
    system = Calls()
    file = file_on(system)
    assert JournalFile(system, HERE).mark == (bytes(8), 0)  # as it is written where there is none
    file.begin(SALT, (OTHER, 7))
    assert JournalFile(system, HERE).mark == (OTHER, 7)
    system.made.clear()
    file.write_mark(OTHER, 9)
    assert system.made == [("write", file.fd, 2048, 24, 0)]
    assert file.mark == JournalFile(system, HERE).mark == (OTHER, 9)
    for at in (2048, 2056, 2071):
        system.content[at] ^= 1
        again = JournalFile(system, HERE)
        assert (again.mark, again.salt) == ((b"", 0), SALT)
        system.content[at] ^= 1


def test_only_a_whole_header_of_ours_is_believed(monkeypatch) -> None:
    system = Calls()
    file_on(system)
    whole = bytes(system.content)
    for at in (0, 8, 12, 20, 35):
        system.content[at] ^= 1
        again = JournalFile(system, HERE)
        assert (again.salt, again._promised) == (b"", 0)
        system.content[:] = whole
    del system.content[BLOCK - 1 :]
    assert JournalFile(system, HERE).salt == b""
    system.content[:] = whole[:BLOCK]
    assert JournalFile(system, HERE).salt == SALT
    head = struct.pack(">8sI8sQ", b"WSJOURNL", 2, SALT, 0)
    system.content[: len(head) + 8] = head + checksum(head).to_bytes(8, "big")
    system.made.clear()
    with pytest.raises(NewerFormat, match=r"format 2, .* up to 1: update"):
        JournalFile(system, HERE)
    assert system.names()[-1] == "close"


def test_a_file_is_opened_to_be_written_and_waited_for() -> None:
    system = Calls()
    file = JournalFile(system, HERE)
    assert system.made[0] == ("open", HERE, os.O_RDWR | os.O_CREAT)
    assert [made[:2] for made in system.made[1:3]] == [("size", file.fd), ("sync_data", file.fd)]
    assert (file.first, file.end, file.size) == (1, BLOCK, 0)
    system.failing["sync_data"] = [errno.EIO]
    with pytest.raises(OSError, match="rror"):
        JournalFile(system, HERE)
    assert system.names()[-1] == "close"


def test_what_is_erased_is_no_record_and_waited_for() -> None:
    system = Calls()
    file = file_on(system)
    file.append(1, BATCH, b"abcd", sync=True)
    before = file.end
    file.append(2, BATCH, b"torn", sync=True)
    file.end = before
    system.made.clear()
    file.erase()
    assert system.names() == ["write", "sync_data"]
    assert [n for n, _, _ in read(system)[1]] == [1]


def test_a_file_is_written_past_the_cache_where_that_can_be_had(monkeypatch) -> None:
    system = Calls()
    file = file_on(system)
    monkeypatch.setattr(blocks, "DIRECT", 0)
    file.avoid_cache()
    assert not file.past_cache
    monkeypatch.setattr(blocks, "DIRECT", 0x4000)
    monkeypatch.setattr(blocks, "DSYNC", 0x40)
    file.avoid_cache()
    assert file.past_cache
    system.made.clear()
    file.append(1, BATCH, b"abcd", sync=True)
    [(_, fd, at, size, flags)] = system.made
    assert (fd != file.fd, at, size, flags) == (True, BLOCK, BLOCK, 0x40)
    file.append(2, BATCH, b"abcd", sync=False)
    assert [n for n, _, _ in read(system)[1]] == [1, 2]
    system.made.clear()
    file.close()
    assert system.made == [("close", fd), ("close", file.fd)]


def test_a_file_that_grew_before_its_header_said_so_is_whole() -> None:
    system = Calls()
    file_on(system)
    system.content.extend(bytes(100))
    JournalFile(system, HERE).check_size()
