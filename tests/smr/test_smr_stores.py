"""Places for snapshots: files and their names, how they are written, read and looked at."""

import asyncio
import os
import zlib

import pytest

from wormspace.errors import BadAddress
from wormspace.knobs import turned
from wormspace.smr import BadSnapshot, LocalSnapshots, MemorySnapshots
from wormspace.smr import stores as stores_module
from wormspace.smr.stores import LONGEST, _reaches, _read_some, _to_its_end, _write_all
from wormspace.space import Address

MAGIC = b"wormspace snapshot\x01"


async def stream(*pieces):
    for piece in pieces:
        yield piece


def load(store, name="it"):
    async def taken():
        return [piece async for piece in store.load(name)]

    return asyncio.run(taken())


def save(store, segment, *pieces, name="it", offset=0):
    asyncio.run(store.save(name, Address(segment, offset), stream(*pieces)))


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def headed(*pieces, segment=0, offset=0):
    """A file as it is written."""
    position = segment.to_bytes(8, "big") + offset.to_bytes(8, "big")
    first = MAGIC + position + zlib.crc32(position).to_bytes(4, "big")
    return b"".join(len(one).to_bytes(4, "big") + one for one in (first, *pieces))


def test_each_name_has_a_file_of_its_own_which_any_system_allows(tmp_path):
    store = LocalSnapshots(tmp_path)
    names = ["a", "a/b", "A", "é", "x" * (LONGEST // 2), "x" * (LONGEST // 2 + 1), "y" * 101]
    for n, name in enumerate(names):
        save(store, n, b"%d" % n, name=name)
    for n, name in enumerate(names):
        assert load(store, name) == [b"%d" % n]
    files = {path.name for path in tmp_path.glob("*.snapshot")}
    assert len(files) == len(names)
    assert {"61.snapshot", "612f62.snapshot", b"x".hex() * 100 + ".snapshot"} <= files
    assert sum(file.startswith("sha256-") for file in files) == 2
    assert max(map(len, files)) <= LONGEST + len(".snapshot")


@pytest.mark.parametrize("count", range(6))
def test_what_was_kept_comes_back_piece_by_piece_and_is_written_some_at_a_time(
    tmp_path, monkeypatch, count
):
    writes = []
    write_all = stores_module._write_all
    monkeypatch.setattr(
        stores_module,
        "_write_all",
        lambda fd, held: writes.append(len(held)) or write_all(fd, held),
    )
    store, pieces = LocalSnapshots(tmp_path), [b"x" * n for n in range(1, count + 1)]
    with turned(smr_pieces_per_write=2):
        save(store, 3, *pieces, offset=5)
        assert load(store) == pieces
    assert store._path("it").read_bytes() == headed(*pieces, segment=3, offset=5)
    assert [n for n in writes if n] == [4] * ((count + 1) // 2) + [2] * ((count + 1) % 2)
    assert _reaches(store._path("it")) == Address(3, 5)
    assert load(store, "another") == []


def test_a_file_from_before_files_said_how_far_they_go_is_read(tmp_path):
    store = LocalSnapshots(tmp_path)
    store._path("it").write_bytes(b"\0\0\0\x01a\0\0\0\x02bb")
    assert load(store) == [b"a", b"bb"]
    assert _reaches(store._path("it")) == Address(0, 0)
    store._path("it").write_bytes(b"")
    assert load(store) == []
    store._path("it").write_bytes(headed())
    assert load(store) == []


def test_a_file_that_ends_within_a_piece_is_refused_wherever_that_is(tmp_path):
    store, whole = LocalSnapshots(tmp_path), headed(b"a", b"bcd", b"")
    path = store._path("it")
    ends = {0, len(headed()), len(headed(b"a")), len(headed(b"a", b"bcd")), len(whole)}
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        for at_once in (1, 16):
            with turned(smr_pieces_per_write=at_once):
                if size in ends:
                    assert (
                        load(store) == [b"a", b"bcd", b""][: max(0, sorted(ends).index(size) - 1)]
                    )
                else:
                    with pytest.raises(BadSnapshot, match="cut short"):
                        load(store)
    path.write_bytes(headed(b"a") + b"\xff\xff\xff\xff" + bytes(10))
    with pytest.raises(BadSnapshot, match=str(path)):
        load(store)


def test_so_many_pieces_are_read_at_a_time(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"".join(b"\0\0\0\x01%c" % n for n in range(5)))
    with turned(smr_pieces_per_write=2), path.open("rb") as file:
        assert [len(_read_some(file)) for _ in range(4)] == [2, 2, 1, 0]


def test_of_a_damaged_file_nobody_knows_how_far_it_goes(tmp_path):
    whole = headed(b"a", segment=7, offset=9)
    path = tmp_path / "file"
    assert _reaches(path) == Address(0, 0)
    path.write_bytes(whole)
    assert _reaches(path) == Address(7, 9)
    for damage in range(len(headed())):
        raw = bytearray(whole)
        raw[damage] ^= 1
        path.write_bytes(raw)
        size_of_first = damage < 4  # which says nothing of how far
        assert _reaches(path) == (Address(7, 9) if size_of_first else Address(0, 0))
        path.write_bytes(whole[:damage])
        assert _reaches(path) == Address(0, 0)
        store = LocalSnapshots(tmp_path)
        store._path("it").write_bytes(whole[:damage])
        save(store, 1, b"whole")
        assert load(store) == [b"whole"], "and the next one replaces it"


def test_what_the_system_writes_only_in_part_is_written_on(tmp_path, monkeypatch):
    system, path = os.write, tmp_path / "file"
    monkeypatch.setattr(os, "write", lambda fd, rest: system(fd, rest[:3]))
    with path.open("wb", buffering=0) as file:
        assert _write_all(file.fileno(), [b"abc", b"", b"defgh"]) == []
        assert _write_all(file.fileno(), []) == []
    assert path.read_bytes() == b"abcdefgh"


def test_one_has_the_claim_on_a_name_and_leaves_others_what_is_theirs(tmp_path):
    store = LocalSnapshots(tmp_path / "new" / "place")
    save(store, 1, b"kept")
    place = tmp_path / "new" / "place"
    ours, others = place / "6974.0a.partial", place / "6975.0a.partial"
    for left in (ours, others):
        left.write_bytes(b"half")
    before = descriptors()
    claim = store.claim("it")
    assert claim is not None
    assert (ours.exists(), others.exists()) == (False, True)
    assert descriptors() == before + 1
    assert store.claim("it") is None
    assert descriptors() == before + 1, "who was refused holds nothing"
    other = store.claim("iu")
    assert other is not None
    assert not others.exists()
    for one in (claim, other):
        one.close()
    assert descriptors() == before
    again = store.claim("it")
    assert again is not None
    again.close()
    assert load(store) == [b"kept"]
    with pytest.raises(BadAddress):
        store.claim("")


def test_what_is_under_way_in_a_thread_is_waited_for():
    async def work():
        assert await _to_its_end(lambda one, *, two: one + two, 1, two=2) == 3
        with pytest.raises(OSError, match="eio"):
            await _to_its_end(fails)

    def fails():
        raise OSError(5, "eio")

    asyncio.run(work())


def test_in_memory_the_newest_is_kept():
    store = MemorySnapshots()
    assert load(store) == []
    save(store, 2, b"a", b"b")
    assert load(store) == [b"a", b"b"]
    save(store, 1, b"older")
    save(store, 2, b"as old")
    assert load(store) == [b"a", b"b"]
    save(store, 2, b"newer", offset=1)
    save(store, 1, b"another", name="that")
    assert (load(store), load(store, "that")) == ([b"newer"], [b"another"])


def test_of_two_that_go_as_far_the_later_one_is_kept(tmp_path):
    store = LocalSnapshots(tmp_path)
    for segment, offset, kept in ((3, 1, True), (3, 1, True), (3, 0, False), (3, 2, True)):
        save(store, segment, b"%d" % offset, offset=offset)
        assert (load(store) == [b"%d" % offset]) is kept
    assert not list(tmp_path.glob("*.partial"))


def test_a_fork_has_no_claim(tmp_path):
    store = LocalSnapshots(tmp_path)
    claim = store.claim("it")
    (reads, writes), (is_there, says) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(writes)
        os.write(says, b"!")
        os.read(reads, 1)
        os._exit(0)
    os.close(reads)
    os.read(is_there, 1)  # what is done after a fork in the child has been done
    assert store.claim("it") is None
    claim.close()
    again = store.claim("it")
    assert again is not None, "a process that only forked has it for as long as it lives"
    again.close()
    for fd in (writes, is_there, says):
        os.close(fd)
    assert os.waitpid(child, 0)[1] == 0
