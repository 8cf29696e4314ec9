"""The journal: what was appended comes back, in order, up to a torn end; damage is refused."""

import errno
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wormspace.errors import NewerFormat, StoreDamaged
from wormspace.knobs import KNOBS
from wormspace.store import blocks, journal_file
from wormspace.store.blocks import BLOCK
from wormspace.store.files import SYSTEM, SystemFiles
from wormspace.store.journal import NAMES, Journal

RECORDS = [b"a", b"bc" * 50, b"d" * 3000, b"e"]


def made(path, records=(), files=SYSTEM):
    """A new journal, ready to be used, and the checkpoint that it begins with."""
    j = Journal(path, sync=True, files=files)
    j.create()
    j.prepare()
    for record in records:
        j.append(record)
    return j, (0, *j.place)


def opened(path, checkpoint, sync=True):
    """A journal that is there, and what it held after the checkpoint."""
    j = Journal(path, sync=sync)
    try:
        return j, list(j.recover(*checkpoint))
    except BaseException:
        j.close()
        raise


def written(path, records):
    j, checkpoint = made(path, records)
    j.close()
    return j, checkpoint


def found(path, checkpoint, sync=True):
    j, records = opened(path, checkpoint, sync)
    j.close()
    return records


def edit(path, at, new):
    """Change a file where it is."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(new)


def test_what_was_appended_comes_back_in_order(tmp_path):
    _, (_, *place) = written(tmp_path, RECORDS)
    j, records = opened(tmp_path, (0, *place))
    assert records == RECORDS
    assert j.last == len(RECORDS)
    j.append(b"more")
    j.close()
    assert found(tmp_path, (0, *place)) == [*RECORDS, b"more"]
    assert found(tmp_path, (3, *place)) == [b"e", b"more"]


@pytest.mark.parametrize("back", [*range(1, 20), 30, 48, 60, 77])
def test_a_torn_last_record_is_nobodys(tmp_path, back):
    """Any suffix of the last record may be missing: those before it stand, the next takes over."""
    j, checkpoint = written(tmp_path, [*RECORDS, b"torn" * 12])
    edit(tmp_path / NAMES[0], j.size - back, bytes(back))
    j, records = opened(tmp_path, checkpoint)
    assert records == RECORDS
    j.append(b"next")
    j.close()
    assert found(tmp_path, checkpoint) == [*RECORDS, b"next"]


@pytest.mark.parametrize("how", ["a bit", "its sector", "all of them", "an older copy"])
@pytest.mark.parametrize("marked_by", ["mark", "opening", "growing"])
def test_a_last_record_that_was_marked_as_durable_is_no_torn_end(tmp_path, how, marked_by):
    j, checkpoint = made(tmp_path, RECORDS[:1])
    older = (tmp_path / NAMES[0]).read_bytes()
    for record in RECORDS[1:]:
        j.append(record)
    end = j.size
    if marked_by != "opening":
        j.mark()
    if marked_by == "growing":
        j._files[1].grow(2 << 20)  # its header is written again
    j.close()
    if marked_by == "opening":
        j, _ = opened(tmp_path, checkpoint)
        j.prepare()
        j.close()
    content = bytearray((tmp_path / NAMES[0]).read_bytes())
    if how == "a bit":
        content[end - 1] ^= 1
    elif how == "its sector":
        content[end - end % 512 : end] = bytes(end % 512)
    elif how == "all of them":
        content[BLOCK:] = bytes(len(content) - BLOCK)
    else:
        content[BLOCK:] = older.ljust(len(content), b"\0")[BLOCK:]
    (tmp_path / NAMES[0]).write_bytes(content)
    with pytest.raises(StoreDamaged, match=r"up to 4 were durable"):
        opened(tmp_path, checkpoint)


def test_a_mark_that_rotted_is_none(tmp_path):
    j, checkpoint = made(tmp_path, RECORDS)
    j.mark()
    j.close()
    for at in range(2048, 2048 + 24):
        edit(tmp_path / NAMES[1], at, b"\xa7")
    assert found(tmp_path, checkpoint) == RECORDS


def test_without_sync_nothing_is_marked_as_durable(tmp_path):
    j = Journal(tmp_path, sync=False)
    j.create()
    j.append(b"a")
    j.prepare()
    j.mark()
    assert j._files[1].mark == (b"", 0)
    j.close()


def test_a_value_that_is_a_copy_of_the_journal_is_not_taken_for_records(tmp_path):
    """A torn record that holds older records is a torn record."""
    j, checkpoint = made(tmp_path, RECORDS)
    j.append((tmp_path / NAMES[0]).read_bytes()[: j.size])
    j.close()
    edit(tmp_path / NAMES[0], j.size - 8, bytes(8))
    assert found(tmp_path, checkpoint) == RECORDS


MANY = [b"%03d" % n * 100 for n in range(60)]


def damages(size):
    """(name, where, bytes) of what may happen to synced bytes in the midst of a file."""
    yield "a sector zeroed", BLOCK + 1024, bytes(512)
    yield "a block zeroed", 2 * BLOCK, bytes(4096)
    yield "old content", 2 * BLOCK, b"\x55" * 4096
    yield "all but the last record", BLOCK, bytes(size - BLOCK - 329)
    yield "the salt", BLOCK, b"\0"
    yield "the number", BLOCK + 8, b"\xff"
    yield "the kind", BLOCK + 16, b"\x02"
    yield "the length", BLOCK + 17, b"\xff"
    yield "the length, a little", BLOCK + 20, b"\x01"
    yield "the checksum", BLOCK + 21, b"\0\0"
    yield "the payload", BLOCK + 29, b"\xff"


@pytest.mark.parametrize("name", [name for name, _, _ in damages(1 << 16)])
def test_damage_to_what_was_synced_is_refused(tmp_path, name):
    j, checkpoint = written(tmp_path, MANY)
    [(at, new)] = [(at, new) for n, at, new in damages(j.size) if n == name]
    edit(tmp_path / NAMES[0], at, new)
    with pytest.raises(StoreDamaged, match=r"journal\.0 is damaged at byte \d+.*are lost"):
        opened(tmp_path, checkpoint)
    j, records = opened(tmp_path, checkpoint, sync=False)
    assert records == MANY[: len(records)]
    assert "are lost" in j.lost
    j.close()


def test_every_bit_of_a_record_counts(tmp_path):
    """Before others it is damage, as the last one it is a torn end; never another record."""
    j, checkpoint = written(tmp_path, [b"one", b"two"])
    whole = (tmp_path / NAMES[0]).read_bytes()
    second = BLOCK + j._current.bytes_of(3)
    for bit in range(8 * BLOCK, 8 * j.size):
        at = bit // 8
        edit(tmp_path / NAMES[0], at, bytes([whole[at] ^ 1 << bit % 8]))
        if at < second:
            with pytest.raises(StoreDamaged):
                opened(tmp_path, checkpoint)
        else:
            assert found(tmp_path, checkpoint) == [b"one"]
        edit(tmp_path / NAMES[0], at, whole[at : at + 1])


@pytest.mark.parametrize("left", [0, 10, BLOCK, BLOCK + 100, 1 << 19, (1 << 20) - 1, 1 << 20])
def test_a_file_that_was_cut_is_refused(tmp_path, left):
    j, checkpoint = made(tmp_path, RECORDS)
    j.append(bytes(1 << 20))
    j.close()
    assert (tmp_path / NAMES[0]).stat().st_size == 2 << 20
    os.truncate(tmp_path / NAMES[0], left)
    with pytest.raises(StoreDamaged, match=r"journal.*(damaged|missing)"):
        opened(tmp_path, checkpoint)


def test_a_journal_that_is_gone_is_refused(tmp_path):
    _, checkpoint = written(tmp_path, RECORDS)
    (tmp_path / NAMES[0]).unlink()
    with pytest.raises(StoreDamaged, match="missing from record 1 on"):
        opened(tmp_path, checkpoint)


def switched(path, saved):
    """Four records, a switch, and one more, which is marked as durable in the file before it.

    `saved`: the checkpoint between them is durable.
    """
    j, checkpoint = made(path, RECORDS)
    j.switch()
    if saved:
        checkpoint = (j.last, *j.place)
        j.release()
    j.append(b"later")
    j.mark()
    j.close()
    return checkpoint


@pytest.mark.parametrize("saved", [True, False])
def test_the_journal_goes_on_in_the_other_file(tmp_path, saved):
    checkpoint = switched(tmp_path, saved)
    j, records = opened(tmp_path, checkpoint)
    assert records == ([] if saved else RECORDS) + [b"later"]
    assert j.goes_on is not saved
    j.close()


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("how", ["removed", "an older copy", "emptied"])
def test_a_second_file_that_is_not_the_one_that_was_named_is_refused(tmp_path, saved, how):
    other = tmp_path / NAMES[1]
    made(tmp_path, RECORDS[:1])[0].close()
    shutil.copy(other, tmp_path / "copy")
    for name in NAMES:
        (tmp_path / name).unlink()
    checkpoint = switched(tmp_path, saved)
    if how == "removed":
        other.unlink()
    elif how == "emptied":
        other.write_bytes(b"")
    else:
        shutil.copy(tmp_path / "copy", other)
    with pytest.raises(StoreDamaged, match="missing from record 5 on"):
        opened(tmp_path, checkpoint)


@pytest.mark.parametrize("how", ["a bit", "its sector"])
def test_a_record_that_names_the_next_file_and_rotted_is_damage(tmp_path, how):
    """It is the last one of its file, and is no torn end: the next file has records."""
    checkpoint = switched(tmp_path, saved=False)
    j = Journal(tmp_path, sync=True)
    end = [j._files[0].end for _ in j._files[0].records()][-1]
    j.close()
    content = bytearray((tmp_path / NAMES[0]).read_bytes())
    if how == "a bit":
        content[end - 20] ^= 1
    else:
        content[end - 512 : end] = bytes(512)
    (tmp_path / NAMES[0]).write_bytes(content)
    with pytest.raises(StoreDamaged, match=r"does not name .*, which goes on with record 5"):
        opened(tmp_path, checkpoint)


def test_a_journal_that_ends_before_its_checkpoint_is_refused(tmp_path):
    _, (_, *place) = written(tmp_path, RECORDS)
    with pytest.raises(StoreDamaged, match="ends with record 4"):
        opened(tmp_path, (5, *place))


def test_a_newer_format_is_told_from_damage(tmp_path, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr(journal_file, "VERSION", 2)
        _, checkpoint = written(tmp_path, RECORDS)
    with pytest.raises(NewerFormat, match=r"format 2.*up to 1: update"):
        opened(tmp_path, checkpoint)


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=300), st.none()), max_size=30), st.data())
@settings(max_examples=60, deadline=None)
def test_files_are_used_again_and_again(tmp_path_factory, steps, data):
    """None is a checkpoint of all there is, of which not all are brought to disk in time."""
    path = tmp_path_factory.mktemp("journal")
    j, checkpoint = made(path)
    held, durable, pending = [], 0, None
    for step in steps:
        if step is not None:
            j.append(step)
            held.append(step)
        elif j.is_prepared:
            j.switch()
            pending = (len(held), *j.place)
        if data.draw(st.booleans()):
            j.mark()
        if pending and data.draw(st.booleans()):
            checkpoint, durable, pending = pending, pending[0], None
            j.release()
            j.prepare()
    assert list(j.again(durable)) == held[durable:]
    j.close()
    again, records = opened(path, checkpoint)
    assert records == held[durable:]
    again.append(b"next")
    again.close()
    assert found(path, checkpoint) == [*held[durable:], b"next"]


def test_what_is_left_behind_a_gap_does_not_come_back(tmp_path):
    """Without sync a gap is dropped with all behind it, and the journal goes on elsewhere."""
    _, checkpoint = written(tmp_path, MANY)
    edit(tmp_path / NAMES[0], 2 * BLOCK, bytes(512))
    j, records = opened(tmp_path, checkpoint, sync=False)
    j.prepare()
    j.switch()
    checkpoint = (j.last, *j.place)
    j.release()
    j.append(b"next")
    j.close()
    assert len(records) < len(MANY)
    assert found(tmp_path, checkpoint) == [b"next"]


# ------------------------------------------------------------ errors of the system


class Full(SystemFiles):
    """No room behind the first step of a file."""

    def write(self, fd, parts, at, flags=0):
        if at + sum(map(len, parts)) > KNOBS.store_journal_step_bytes:
            os.pwrite(fd, b"half", at)
            raise OSError(errno.ENOSPC, "no room")
        return super().write(fd, parts, at, flags)


def test_no_room_changes_nothing(tmp_path):
    step = KNOBS.store_journal_step_bytes
    j, checkpoint = made(tmp_path, files=Full())
    j.append(b"first")
    with pytest.raises(OSError, match="no room"):
        j.append(bytes(step))
    with pytest.raises(OSError, match="no room"):
        j.append(bytes(step - 10_000), spare=20_000)
    assert (tmp_path / NAMES[0]).stat().st_size == step
    j.append(b"small")
    j.close()
    assert found(tmp_path, checkpoint) == [b"first", b"small"]


def test_records_of_all_sizes_are_found(tmp_path):
    sizes = [1, 4080, 8, 4096, 100_000, 1, 3000, 300_000, 5]
    payloads = [bytes([n]) * size for n, size in enumerate(sizes, 1)]
    _, checkpoint = written(tmp_path, payloads)
    assert found(tmp_path, checkpoint) == payloads


@pytest.mark.parametrize("missing", ["DIRECT", "DSYNC"])
def test_what_a_system_lacks_is_done_without(tmp_path, monkeypatch, missing):
    monkeypatch.setattr(blocks, missing, 0)
    j, checkpoint = made(tmp_path, [b"x"])
    assert not j._current.past_cache
    j.close()
    assert found(tmp_path, checkpoint) == [b"x"]
