"""The journal: what was appended comes back, in order, up to the first record that is not whole."""

import errno
import os
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wormspace.errors import StoreError
from wormspace.store import blocks, journal
from wormspace.store.journal import NAMES, STEP_BYTES, Journal

RECORDS = [b"a", b"bc" * 50, b"d" * 3000, b"e"]


def opened(path, after=0, sync=True):
    """A journal and what it held after record `after`."""
    j = Journal(path, sync=sync)
    return j, list(j.recover(after))


def written(path, records):
    j, _ = opened(path)
    for record in records:
        j.append(record)
    j.close()
    return j


def test_what_was_appended_comes_back_in_order(tmp_path):
    written(tmp_path, RECORDS)
    j, found = opened(tmp_path)
    assert found == RECORDS
    assert j.last == len(RECORDS)
    j.append(b"more")
    j.close()
    assert opened(tmp_path)[1] == [*RECORDS, b"more"]
    assert opened(tmp_path, after=3)[1] == [b"e", b"more"]


@pytest.mark.parametrize("back", range(1, 60))
def test_a_torn_last_record_is_nobodys(tmp_path, back):
    """Any suffix of the last record may be missing: those before it stand, the next takes over."""
    j = written(tmp_path, [*RECORDS, b"torn" * 12])
    with (tmp_path / NAMES[0]).open("r+b") as file:
        file.seek(j.size - min(back, 56))
        file.write(bytes(56))
    j, found = opened(tmp_path)
    assert found == RECORDS
    j.append(b"next")
    j.close()
    assert opened(tmp_path)[1] == [*RECORDS, b"next"]


def test_a_damaged_record_before_others_is_refused(tmp_path):
    """It had been durable, so somebody may have been told: the server must not come back."""
    written(tmp_path, RECORDS)
    content = bytearray((tmp_path / NAMES[0]).read_bytes())
    content[content.index(b"bcbc") + 10] ^= 1
    (tmp_path / NAMES[0]).write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        opened(tmp_path)
    assert opened(tmp_path, sync=False)[1] == RECORDS[:1]


def test_a_journal_that_is_gone_is_refused(tmp_path):
    with pytest.raises(StoreError, match="missing"):
        opened(tmp_path, after=5)


def test_records_that_are_gone_are_refused(tmp_path):
    j, _ = opened(tmp_path)
    for record in RECORDS:
        j.append(record)
    j.switch()
    j.append(b"later")
    j.close()
    assert opened(tmp_path)[1] == [*RECORDS, b"later"]
    (tmp_path / NAMES[0]).write_bytes(b"")
    with pytest.raises(StoreError, match="missing"):
        opened(tmp_path)
    assert opened(tmp_path, after=4)[1] == [b"later"]


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=300), st.none()), max_size=30), st.data())
@settings(max_examples=60, deadline=None)
def test_files_are_used_again_and_again(tmp_path_factory, steps, data):
    """None is a checkpoint of all there is."""
    path = tmp_path_factory.mktemp("journal")
    j, _ = opened(path)
    held, checkpoint = [], 0
    for step in steps:
        if step is None:
            checkpoint = len(held)
            j.switch()
        else:
            j.append(step)
            held.append(step)
    j.close()
    after = data.draw(st.integers(checkpoint, len(held)))
    again, found = opened(path, after)
    assert found == held[after:]
    again.append(b"next")
    again.close()
    assert opened(path, after)[1] == [*held[after:], b"next"]


def test_a_record_can_be_taken_back(tmp_path):
    j, _ = opened(tmp_path)
    j.append(b"stays")
    j.append(b"goes" * 100)
    j.retract()
    assert opened(tmp_path)[1] == [b"stays"]
    j.append(b"instead")
    j.close()
    assert opened(tmp_path)[1] == [b"stays", b"instead"]


def test_a_value_cannot_pass_for_a_record(tmp_path):
    """A user may know this format, but not the salt."""
    forged = b"forged"
    for salt in (b"", bytes(8)):
        crc = zlib.crc32(forged, zlib.crc32(struct.pack(">Q", 2), zlib.crc32(salt)))
        record = struct.pack(">II", len(forged), crc) + forged
        path = tmp_path / str(len(salt))
        path.mkdir()
        j, _ = opened(path)
        j.append(record * 20)
        j.retract()
        j.append(b"x" * (len(record) - 8))  # the next record would begin where a forged one does
        j.close()
        assert opened(path)[1] == [b"x" * (len(record) - 8)]


def test_a_disk_without_room_refuses_and_changes_nothing(tmp_path, monkeypatch):
    j, _ = opened(tmp_path)
    j.append(b"first")

    def full(files, fd, parts, at):
        if at >= STEP_BYTES:
            os.pwrite(fd, b"half", at)
            raise OSError(errno.ENOSPC, "no room")
        return write_all(files, fd, parts, at)

    write_all = journal.write_all
    monkeypatch.setattr(journal, "write_all", full)
    with pytest.raises(OSError, match="no room"):
        j.append(bytes(STEP_BYTES))
    with pytest.raises(OSError, match="no room"):
        j.append(bytes(STEP_BYTES - 1000), spare=2000)
    assert (tmp_path / NAMES[0]).stat().st_size == STEP_BYTES
    j.append(b"small")
    j.close()
    assert opened(tmp_path)[1] == [b"first", b"small"]


def failing(*_):
    raise OSError(errno.EIO, "input/output error")


def test_a_disk_that_fails_to_sync_is_trusted_no_more(tmp_path, monkeypatch):
    j, _ = opened(tmp_path)
    monkeypatch.setattr(os, "pwritev", failing)
    with pytest.raises(StoreError, match="the disk failed"):
        j.append(b"x")


# ------------------------------------------------------------ past the cache


def test_records_of_all_sizes_are_found(tmp_path):
    j, _ = opened(tmp_path)
    sizes = [1, 4080, 8, 4096, 100_000, 1, 3000, 300_000, 5]
    payloads = [bytes([n]) * size for n, size in enumerate(sizes, 1)]
    for payload in payloads:
        j.append(payload)
    j.append(b"taken back")
    j.retract()
    j.append(b"last")
    j.close()
    assert opened(tmp_path)[1] == [*payloads, b"last"]


@pytest.mark.parametrize("missing", ["DIRECT", "DSYNC"])
def test_what_a_system_lacks_is_done_without(tmp_path, monkeypatch, missing):
    monkeypatch.setattr(blocks, missing, 0)
    j, _ = opened(tmp_path)
    assert j._current.blocks is None
    j.append(b"x")
    j.close()
    assert opened(tmp_path)[1] == [b"x"]
