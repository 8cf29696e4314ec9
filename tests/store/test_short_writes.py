"""A system may write and read less than it was told; what was written is there all the same."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from tests.store.calls import Calls

from wormspace.runtime import disk
from wormspace.store import blocks
from wormspace.store.blocks import BLOCK, BlockWriter, Unsupported

HERE = Path("f")
WROTE = 0x40
DIRECT = 0x4000


@pytest.fixture
def direct(monkeypatch):
    """A system that can write past its cache."""
    monkeypatch.setattr(blocks, "DIRECT", DIRECT)
    monkeypatch.setattr(blocks, "DSYNC", WROTE)


@pytest.mark.parametrize("most", [1, 3, 10, 100])
def test_all_of_it_is_read_or_what_there_is(most: int) -> None:
    content = bytes(range(50))
    system = Calls(content, most)
    assert disk.read_all(system, 7, 20, 5) == content[5:25]
    assert len(system.names()) == -(-20 // most)
    assert disk.read_all(system, 7, 20, 40) == content[40:]
    assert disk.read_all(system, 7, 0, 40) == b""


@pytest.mark.parametrize("most", [1, 3, 10, 100])
def test_all_of_it_is_written_in_its_place_and_with_its_flags(most: int) -> None:
    system = Calls(bytes(8), most)
    disk.write_all(system, 7, [b"abcd", b"", b"efgh", b"ij"], 2, 9)
    assert system.content == bytes(2) + b"abcdefghij"
    assert [(fd, flags) for _, fd, _, _, flags in system.made] == [(7, 9)] * -(-10 // most)
    assert [left for _, _, _, left, _ in system.made] == list(range(10, 0, -most))


def test_a_system_that_writes_nothing_is_an_error() -> None:
    system = Calls(most=0)
    with pytest.raises(OSError, match="writes nothing"):
        disk.write_all(system, 7, [b"a"], 0)
    disk.write_all(system, 7, [b""], 0)


@pytest.mark.parametrize("flag", [0, WROTE])
def test_what_is_durable_was_waited_for_in_one_call_or_another(flag: int, monkeypatch) -> None:
    monkeypatch.setattr(disk, "DSYNC", flag)
    system = Calls()
    disk.write_durably(system, 7, [b"ab", b"c"], 4)
    assert system.content == bytes(4) + b"abc"
    wrote = ("write", 7, 4, 3, flag)
    assert system.made == ([wrote] if flag else [wrote, ("sync_data", 7)])


def test_the_names_of_a_directory_are_waited_for_and_its_descriptor_is_closed() -> None:
    system = Calls()
    system.failing["sync"] = [None, errno.EIO]
    disk.sync_directory(system, HERE)
    assert system.made == [("open", HERE, os.O_RDONLY | os.O_DIRECTORY), ("sync", 7), ("close", 7)]
    with pytest.raises(OSError, match="rror"):
        disk.sync_directory(system, HERE)
    assert system.made[-1][0] == "close"


class Directories(Calls):
    """A system with names of directories."""

    def __init__(self, *there: str, late: str = "") -> None:
        super().__init__()
        self.there, self.late = set(there), late

    def size_at(self, path: Path) -> int | None:
        return 0 if str(path) in self.there else None

    def make_directory(self, path: Path) -> None:
        if str(path) == self.late:
            raise FileExistsError
        self.there.add(str(path))
        self.made.append(("make", str(path)))


def test_each_new_directory_is_on_disk_before_the_one_in_it_is_made() -> None:
    system = Directories("/", "/a")
    disk.make_directories(system, Path("/a/b/c"))
    kept = [what if name == "make" else str(what) for name, what, *_ in system.made]
    assert kept == ["/a/b", "/a", "7", "7", "/a/b/c", "/a/b", "8", "8"]
    assert system.names().count("sync") == 2
    disk.make_directories(system, Path("/a/b/c"))
    assert system.made == []
    disk.make_directories(Directories("/", late="/x"), Path("/x"))


# ---------------------------------------------------------------- whole blocks

SIZES = [0, 1, 30, BLOCK - 1, BLOCK, BLOCK + 1, 5000]


@pytest.mark.parametrize("most", [512, 5 * 512, 1 << 30])
@pytest.mark.parametrize("seed", range(8))
def test_a_write_leaves_what_is_before_it_and_zeros_up_to_the_blocks_end(seed, most) -> None:
    """It follows the last one, or is anywhere."""
    rng = random.Random(seed)
    done = [
        (rng.random() < 0.5, rng.randrange(3 * BLOCK), rng.sample(SIZES, rng.randrange(4)))
        for _ in range(6)
    ]
    fill = seed
    before = bytes([fill]) * (12 * BLOCK)
    system, model, end = Calls(before, most), bytearray(before), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "DIRECT", DIRECT)
        patch.setattr(blocks, "DSYNC", WROTE)
        writer = BlockWriter(system, HERE, 3)
        assert ("open", HERE, os.O_WRONLY | DIRECT) in system.made
        for follows, anywhere, sizes in done:
            at = end if follows else anywhere
            parts = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
            end = at + sum(sizes)
            system.made.clear()
            writer.write(parts, at)
            last = -(-end // BLOCK) * BLOCK
            model.extend(bytes(max(0, last - len(model))))
            model[at:last] = b"".join(parts) + bytes(last - end)
            assert system.content == model
            fds = {(name, fd) for name, fd, *_ in system.made if name != "buffer"}
            assert fds <= {("write", 7), ("read", 3)}
            assert {made[-1] for made in system.made if made[0] == "write"} <= {WROTE}
            first = next((made for made in system.made if made[0] == "write"), None)
            if first is not None:
                assert first[2:4] == (at - at % BLOCK, last - at + at % BLOCK)
    writer.close()
    assert system.made[-1] == ("close", 7)


def test_what_follows_the_last_write_is_not_read_for(direct) -> None:
    system = Calls(bytes(BLOCK))
    writer, at = BlockWriter(system, HERE, 3), 0
    system.made.clear()
    for size in (100, 5000, 3 * BLOCK - 5100, 7, 1):
        writer.write([bytes(size)], at)
        at += size
    assert system.names() == ["write"] * 5
    writer.write([b"x"], 50)
    assert "read" in system.names()
    system.failing["write"] = [errno.EIO]
    with pytest.raises(OSError, match="rror"):
        writer.write([b"y"], 51)
    system.made.clear()
    writer.write([b"y"], 51)  # after an error, what is on disk is looked at again
    assert "read" in system.names()


@pytest.mark.parametrize("spare", [0, 1])
def test_a_buffer_that_is_too_small_grows_once(direct, spare: int) -> None:
    system = Calls(bytes(BLOCK))
    writer = BlockWriter(system, HERE, 3)
    assert [made for made in system.made if made[0] == "buffer"] == [("buffer", 64 * BLOCK)]
    system.made.clear()
    for _ in range(2):
        writer.write([bytes(64 * BLOCK + spare)], 0)
    grown = [made for made in system.made if made[0] == "buffer"]
    assert grown == ([("buffer", 2 * 65 * BLOCK)] if spare else [])


def test_a_system_that_writes_no_block_is_an_error(direct) -> None:
    system = Calls(bytes(BLOCK))
    writer = BlockWriter(system, HERE, 3)
    system.most = 0
    with pytest.raises(OSError, match="writes nothing"):
        writer.write([b"a"], 0)


@pytest.mark.parametrize("call", ["open", "write"])
@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.EIO])
def test_what_a_file_system_does_not_offer_is_told_from_a_failure(direct, call, code) -> None:
    system = Calls(bytes(BLOCK))
    system.failing[call] = [code]
    with pytest.raises(OSError if code == errno.EIO else Unsupported):
        BlockWriter(system, HERE, 3)
    assert system.names().count("close") == (call == "write")


@pytest.mark.parametrize(("direct", "dsync"), [(0, WROTE), (DIRECT, 0), (0, 0)])
def test_without_both_flags_there_is_none(monkeypatch, direct: int, dsync: int) -> None:
    monkeypatch.setattr(blocks, "DIRECT", direct)
    monkeypatch.setattr(blocks, "DSYNC", dsync)
    system = Calls(bytes(BLOCK))
    with pytest.raises(Unsupported):
        BlockWriter(system, HERE, 3)
    assert system.made == []


def test_where_directories_cannot_be_opened_nobody_waits_for_their_names(monkeypatch) -> None:
    monkeypatch.setattr(disk, "DIRECTORY", None)
    system = Calls()
    disk.sync_directory(system, HERE)
    assert system.made == []
