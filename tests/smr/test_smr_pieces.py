"""Large state: snapshots in pieces, made while commands go on, a bounded bit of work at a time."""

import asyncio
import gc
import random
import sys

import msgspec
import pytest
from digests import state_digest

import wormspace
from wormspace.knobs import KNOBS, least, turned
from wormspace.smr import StateMachine, Sticky, Table, TrimWhenApplied, Tuning, command
from wormspace.smr import snapshots as snapshots_module
from wormspace.smr.engine import Engine
from wormspace.smr.records import Packet
from wormspace.smr.snapshots import Audit, Snapshot, restore

ENCODE = msgspec.msgpack.encode


class Heap(StateMachine):
    """Containers of all kinds, in one another."""

    by_name: dict[str, list[int]] = {}  # noqa: RUF012
    in_order: list[int] = []  # noqa: RUF012
    tags: set[str] = set()  # noqa: RUF012
    deep: dict[str, dict[str, set[int]]] = {}  # noqa: RUF012
    rows: Table[str, int]
    plain: dict[str, bytes] = {}  # noqa: RUF012
    blob: bytes = b""

    @command
    def put(self, key: str, value: bytes) -> int:
        self.blob = value
        return len(self.blob)


def change(machine, rng):
    """Something, somewhere; as a command would."""
    name = rng.choice("abcdefgh")
    number = rng.randrange(100)
    what = rng.randrange(15)
    machine._journal.begin()
    if what == 0:
        machine.by_name.setdefault(name, []).append(number)
    elif what == 1:
        machine.by_name.pop(name, None)
    elif what == 2 and machine.by_name.get(name):
        machine.by_name[name].pop()
    elif what == 3:
        machine.in_order.insert(number % (len(machine.in_order) + 1), number)
    elif what == 4 and machine.in_order:
        del machine.in_order[number % len(machine.in_order)]
    elif what == 5:
        machine.tags.add(f"{name}{number}")
    elif what == 6:
        machine.tags.discard(f"{name}{number}")
    elif what == 7:
        machine.deep.setdefault(name, {}).setdefault(name, set()).add(number)
    elif what == 8 and name in machine.deep:
        machine.deep[name].setdefault("x", set()).clear()
    elif what == 9:
        machine.rows[name] = number
    elif what == 10:
        machine.by_name = {name: [number]} if number < 5 else dict(machine.by_name)
    elif what == 11:
        machine.blob = bytes(number)
    elif what == 12:
        machine.plain[f"{number}"] = name.encode()
    elif what == 13:
        machine.plain.pop(f"{number}", None)
    elif what == 14 and number < 10:
        machine.plain.clear()
    machine._journal.commit() if rng.random() < 0.8 else machine._journal.roll_back()


async def stream(pieces):
    for piece in pieces:
        yield piece


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("seed", range(12))
def test_a_snapshot_and_an_audit_are_of_one_moment_whatever_changes_meanwhile(seed, rows):
    rng = random.Random(seed)
    with turned(**{**least(), "smr_piece_rows": rows, "smr_part_bytes": 20}):
        engine = Engine(Heap())
        for _ in range(150):
            change(engine.machine, rng)
        engine.sessions.keep(Packet(b"c", 3, 1, b""), b"three" * 9, 5)
        engine.sessions.keep(Packet(b"c", 4, 1, b""), b"four", 6)
        digest, pieces = state_digest(engine), []
        snapshot, audit = Snapshot(engine), Audit(engine)
        held = engine.machine
        plain = ENCODE([held.by_name, held.in_order, held.plain])
        steps = audit.steps()
        for piece in snapshot.pieces():
            pieces.append(piece)
            next(steps, None)
            for _ in range(rng.randrange(4)):
                change(engine.machine, rng)
            engine.sessions.keep(Packet(b"c", 5, 4, b""), b"five", 7)
        for _ in steps:
            change(engine.machine, rng)
        snapshot.close()
        audit.close()
        assert audit.digest() == digest
        assert not engine.machine._journal.images
        back = asyncio.run(restore(Heap, stream(pieces)))
        assert state_digest(back) == digest
        restored = [back.machine.by_name, back.machine.in_order, back.machine.plain]
        assert ENCODE(restored) == plain, "order, too"
        assert back.sessions.find(Packet(b"c", 3, 1, b"")) == b"three" * 9
        assert back.sessions.find(Packet(b"c", 4, 1, b"")) == b"four"
        assert back.sessions.find(Packet(b"c", 5, 1, b"")) is None


def test_between_two_pieces_there_is_a_bounded_piece_of_work(monkeypatch):
    """Counted in what is encoded, for time depends on the machine."""
    encoded = [0]
    encode = snapshots_module.encode

    def counting(value):
        raw = encode(value)
        encoded[0] += len(raw)
        return raw

    engine = Engine(Heap())
    machine = engine.machine
    machine.by_name.update({f"{n:05}": [n] * 20 for n in range(20_000)})
    machine.in_order.extend(range(100_000))
    machine.tags.update(f"{n:020}" for n in range(20_000))
    machine.rows.update({f"{n:020}": n for n in range(20_000)})
    monkeypatch.setattr(snapshots_module, "encode", counting)
    snapshot, most, count, total = Snapshot(engine), 0, 0, 0
    encoded[0] = 0
    for piece in snapshot.pieces():
        most, count, total = max(most, encoded[0]), count + 1, total + len(piece)
        encoded[0] = 0
    assert total > 1_500_000
    assert count > total / KNOBS.smr_piece_bytes / 2
    # Each item once by itself, once in the chunk, once in the piece; and the last one of them.
    assert most < 4 * KNOBS.smr_piece_bytes


def test_while_a_snapshot_is_taken_a_change_copies_no_values():
    """Of a million values, that alone took 30 ms, and as long again to forget them."""
    machine = (engine := Engine(Heap())).machine
    machine.plain.update({f"{n}": b"%d" % n for n in range(1000)})
    snapshot = Snapshot(engine)
    pieces = iter(snapshot.pieces())
    kept = [machine.plain[f"{n}"] for n in range(1, 999)]
    before = [sys.getrefcount(value) for value in kept]
    machine.plain["0"] = b"replaced"
    del machine.plain["999"]
    machine.plain["1000"] = b"new"
    assert [sys.getrefcount(value) for value in kept] == before
    back = asyncio.run(restore(Heap, stream(list(pieces))))
    assert list(back.machine.plain.items()) == [(f"{n}", b"%d" % n) for n in range(1000)]


def test_the_collector_of_cycles_does_not_look_at_values_that_can_be_in_none():
    """At a million of them a look takes 45 ms, whenever it likes."""
    engine = Engine(Heap())
    engine.machine.plain["a"] = b"b"
    engine.machine.by_name["a"] = [1]
    engine.machine.deep["a"] = {"b": {1}}
    back = asyncio.run(restore(Heap, stream(list(Snapshot(engine).pieces()))))
    for machine in (engine.machine, back.machine):
        values = [machine.plain, machine.in_order, machine.tags, machine.by_name["a"]]
        values.append(machine.deep["a"]["b"])
        assert not any(map(gc.is_tracked, values))
        assert all(map(gc.is_tracked, [machine.by_name, machine.deep, machine.deep["a"]]))


def test_no_piece_is_larger_than_a_message_may_be():
    engine = Engine(Heap())
    engine.machine.blob = bytes(20 << 20)
    engine.machine.by_name["a"] = list(range(1_000_000))
    engine.sessions.keep(Packet(b"c", 1, 1, b""), bytes(3 << 20), 0)
    pieces = list(Snapshot(engine).pieces())
    assert max(map(len, pieces)) < KNOBS.smr_part_bytes + 100
    back = asyncio.run(restore(Heap, stream(pieces)))
    assert state_digest(back) == state_digest(engine)
    assert len(back.sessions.find(Packet(b"c", 1, 1, b""))) == 3 << 20


async def test_more_plain_state_than_one_message_holds_is_joined():
    async with wormspace.connect("memory:") as worm:
        options = {
            "durability": TrimWhenApplied(1, every_s=0.02),
            "tuning": Tuning(segment_size=4, audit_s=0),
            "leadership": Sticky(0.3),
            "timeout": 60.0,
        }
        async with await worm.replicate(Heap, "heap", **options) as first:
            for _ in range(10):
                await first.put("a", b"x")
            # As if by commands: the log that would have them is trimmed.
            machine = first._core.learner.engine.machine
            machine.by_name.update({f"{n:06}": [n] * 9 for n in range(60_000)})
            machine.in_order.extend(range(3_000_000))
            await first.put("a", bytes(900_000))
            async with asyncio.timeout(60):
                while await worm.space("heap").head() < 2:  # noqa: ASYNC110 - nobody is told
                    await asyncio.sleep(0.01)
            async with await worm.replicate(Heap, "heap", **options) as second:
                assert await second.put("a", b"z") == 1
                await asyncio.sleep(0.1)
                one, other = first._core.learner.engine, second._core.learner.engine
                assert len(other.machine.in_order) == 3_000_000
                assert state_digest(one) == state_digest(other)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257])
async def test_containers_of_any_size_come_back(size):
    engine = Engine(Heap())
    engine.machine.by_name.update({str(n): [n] for n in range(size)})
    engine.machine.in_order.extend(range(size))
    back = await restore(Heap, stream(list(Snapshot(engine).pieces())))
    assert (back.machine.by_name, back.machine.in_order) == (
        engine.machine.by_name,
        engine.machine.in_order,
    )


async def test_a_replica_joins_although_the_space_is_trimmed_all_the_time():
    """What is behind a snapshot that is being fetched is kept until it was."""
    options = {
        "durability": TrimWhenApplied(1, every_s=0.005),
        "tuning": Tuning(segment_size=2, audit_s=0),
        "leadership": Sticky(0.3),
        "timeout": 60.0,
    }
    with turned(smr_piece_bytes=64, smr_piece_rows=2):
        async with (
            wormspace.connect("memory:") as worm,
            await worm.replicate(Heap, "heap", **options) as first,
        ):
            rows = {f"{n:06}": [n] * 9 for n in range(1500)}
            first._core.learner.engine.machine.by_name.update(rows)

            async def go_on():
                while True:
                    await first.put("a", b"x")
                    await asyncio.sleep(0)

            while await worm.space("heap").head() < 2:
                await first.put("a", b"x")
                await asyncio.sleep(0.01)
            going_on = asyncio.ensure_future(go_on())
            async with await worm.replicate(Heap, "heap", **options) as second:
                assert await second.put("a", b"z") == 1
                assert len(second._core.learner.engine.machine.by_name) == 1500
            assert not going_on.done()
            going_on.cancel()
            first._core.context.fetches.close()
            assert first._core.context.fetches.needed is None
