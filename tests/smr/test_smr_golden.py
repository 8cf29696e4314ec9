"""What this version has written: every later one reads it, or says that it must be updated.

The files in tests/golden/smr are hexadecimal, one item a line.  They are never rewritten: a new
format gets files of its own beside them.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from wormspace.errors import NewerFormat
from wormspace.smr import LocalSnapshots, StateMachine, Table, command
from wormspace.smr.calls import encode_calls
from wormspace.smr.engine import Engine
from wormspace.smr.records import (
    FORMAT,
    KIND,
    NOOP,
    SEAL,
    SKIP,
    Batch,
    Mark,
    Member,
    Packet,
    SegmentMetadata,
    decode_record,
    decode_segment_metadata,
    encode,
    encode_segment_metadata,
)
from wormspace.smr.snapshots import FORMAT as SNAPSHOT_FORMAT
from wormspace.smr.snapshots import Snapshot, restore
from wormspace.smr.versions import encode_upgrade
from wormspace.space import Address, stamp

GOLDEN = Path(__file__).parents[1] / "golden" / "smr"


def golden(name):
    return [bytes.fromhex(line) for line in (GOLDEN / name).read_text().split()]


class Point(msgspec.Struct, frozen=True):
    x: int
    y: float


class ShelfV1(StateMachine):
    count: int = 0

    @command
    def put(self, name: str, amount: int = 1) -> int:
        self.count += amount
        return self.count


class Shelf(ShelfV1, version=2, replaces=ShelfV1):
    best: Point | None = None
    anything: Any = None
    names: dict[str, list[int]] = {}  # noqa: RUF012
    order: list[float] = []  # noqa: RUF012
    tags: set[str] = set()  # noqa: RUF012
    rows: Table[tuple[str, int], bytes]

    @command
    def fill(self) -> dict[str, list[int]]:
        self.best = Point(1, 2.5)
        self.anything = {"a": [1, None, True]}
        self.names["z"] = [1, 2]
        self.names["a"] = []
        self.order.append(0.5)
        self.tags.add("only")
        self.rows["a", 1] = b"\x00\xff"
        self.rows["a", 0] = b""
        return self.names


LEADER = Member("one", b"12345678", "10.0.0.1", 7101)
OTHER = Member("two", b"87654321", "10.0.0.2", 7102)


def registers():
    """A short life: version 1, an upgrade, version 2, and what else can be in a register."""
    put, fill = Shelf.declaration.methods["put"], Shelf.declaration.methods["fill"]
    client = b"abcdefgh"
    packets = [
        Packet(client, 1, 1, encode_calls([put, put], [("a", 3), ("b", 2)])),
        Packet(client, 2, 1, encode_upgrade(Shelf), True),
        Packet(client, 3, 2, encode_calls([fill, put], [(), ("c", -1)]), True),
    ]
    return [
        encode(Batch(1764340000 * 10**9, 7, packets[:1])),
        NOOP,
        encode(Batch(1764340001 * 10**9, 8, packets[1:2], Mark(Address(0, 1), bytes(16)), True)),
        SKIP,
        encode(Batch(1764340002 * 10**9, 9, packets[2:], None, False, Mark(Address(0, 3), b"x"))),
        SEAL,
    ]


def lived():
    engine = Engine(ShelfV1(), Shelf)
    engine.identity = LEADER.id
    for raw in golden("registers-1.hex"):
        if decode_record(raw, engine.position) != decode_record(SKIP, engine.position):
            engine.chains.clear()  # the claims in the files are none
            engine.apply(raw, 64)
    return engine


def segments_metadata():
    shape = ShelfV1.declaration.shape
    return [
        SegmentMetadata(LEADER, [OTHER], [], "sticky", "ShelfV1", 1, shape),
        SegmentMetadata(LEADER, [], [LEADER, OTHER], "rotating"),
        SegmentMetadata(LEADER, [], [], "rotating", space=OTHER.id),
    ]


def written():
    """All files, by name, as this version writes them."""
    files = {
        "metadata-2.hex": [
            encode_segment_metadata(segment_metadata) for segment_metadata in segments_metadata()
        ],
        "registers-1.hex": registers(),
    }
    if (GOLDEN / "registers-1.hex").exists():
        files["snapshot-2.hex"] = list(Snapshot(lived()).pieces())
    return files


def test_what_is_written_is_what_was_written():
    for name, raws in written().items():
        assert golden(name) == raws, name
    assert len(written()) == 3


def test_segments_metadata_of_format_1_are_read():
    assert [
        decode_segment_metadata(raw, "it") for raw in golden("metadata-1.hex")
    ] == segments_metadata()[:2]
    assert [
        decode_segment_metadata(raw, "it") for raw in golden("metadata-2.hex")
    ] == segments_metadata()
    with pytest.raises(NewerFormat, match="update"):
        decode_segment_metadata(stamp(KIND, FORMAT + 1, b"whatever that may be"), "it")


def look(machine):
    assert machine.count == 4
    assert machine.best == Point(1, 2.5)
    assert machine.anything == {"a": [1, None, True]}
    assert list(machine.names.items()) == [("z", [1, 2]), ("a", [])]
    assert (machine.order, machine.tags) == ([0.5], {"only"})
    assert list(machine.rows.items()) == [(("a", 0), b""), (("a", 1), b"\x00\xff")]


def test_registers_of_format_1_lead_to_the_same_state():
    engine = lived()
    look(engine.machine)
    assert engine.position == Address(1, 0)


FILE_HEAD = b"\x00\x00\x00\x27wormspace snapshot\x01" + bytes.fromhex(
    "00000000000000010000000000000000fbc05f16"
)
"""What a file begins with: how far the snapshot goes; at first, files did not say it."""


@pytest.fixture(
    params=[("snapshot-1.hex", b""), ("snapshot-1.hex", FILE_HEAD), ("snapshot-2.hex", FILE_HEAD)],
    ids=["1, headless", "1, with a head", "2"],
)
def file(tmp_path, request):
    """The snapshot as a file."""
    name, head = request.param
    pieces = golden(name)
    path = LocalSnapshots(tmp_path)._path("it")
    whole = b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces)
    path.write_bytes(head + whole)
    return path


async def test_a_snapshot_of_each_format_is_read(file):
    engine = await restore(Shelf, LocalSnapshots(file.parent).load("it"))
    look(engine.machine)
    assert (engine.position, engine.time_ns) == (Address(1, 0), 1764340002 * 10**9)
    assert engine.identity in (b"", LEADER.id)
    assert set(engine.sessions.dump().clients[0][1].outcomes) == {2, 3}


async def test_a_file_says_how_far_its_snapshot_goes(file):
    async def nothing():
        return
        yield b""

    whole = file.read_bytes()
    await LocalSnapshots(file.parent).save("it", Address(0, 9), nothing())
    assert (file.read_bytes() == whole) == whole.startswith(FILE_HEAD)


async def test_a_snapshot_of_a_newer_format_says_that_it_must_be_updated(file):
    head = ["head", SNAPSHOT_FORMAT + 1, {"whatever": "that may be"}]
    raw = encode(head)
    file.write_bytes(len(raw).to_bytes(4, "big") + raw)
    with pytest.raises(NewerFormat, match="update"):
        await restore(Shelf, LocalSnapshots(file.parent).load("it"))


if __name__ == "__main__":
    for _ in range(2):
        for name, raws in written().items():
            if not (GOLDEN / name).exists():
                (GOLDEN / name).write_text("".join(raw.hex() + "\n" for raw in raws))
