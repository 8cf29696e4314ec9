"""Snapshots: whole or refused, taken while commands go on, and the way back for who was away."""

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest
from digests import state_digest
from smr_worlds import Group, Witness, run_faulty

import wormspace
from wormspace.errors import NewerFormat, Trimmed
from wormspace.sim import World
from wormspace.smr import (
    BadSnapshot,
    Fixed,
    KeyValue,
    Leaderless,
    LocalSnapshots,
    MemorySnapshots,
    NoSnapshot,
    Rotating,
    ShapeChanged,
    StateMachine,
    Sticky,
    Table,
    TrimBehindSnapshots,
    TrimWhenApplied,
    Tuning,
    command,
)
from wormspace.smr.durability import save
from wormspace.smr.engine import Engine
from wormspace.smr.errors import NothingKept
from wormspace.smr.rotating import RotatingProposer
from wormspace.smr.snapshots import Snapshot, restore
from wormspace.smr.term import Term
from wormspace.space import Address


class Rows(StateMachine):
    rows: Table[int, bytes]
    order: dict[str, int] = {}  # noqa: RUF012
    count: int = 0

    @command
    def put(self, key: int, value: bytes) -> int:
        self.rows[key] = value
        self.count += 1
        return self.count


async def stream(pieces):
    for piece in pieces:
        yield piece


def filled(rows, size=10):
    engine = Engine(Rows())
    for key in range(rows):
        engine.machine.rows[key] = bytes(size)
    engine.machine.order = {"z": 1, "a": 2}
    return engine


async def test_a_snapshot_brings_back_what_was_there_when_it_was_taken():
    engine = filled(2000, 300)
    digest = state_digest(engine)
    snapshot = Snapshot(engine)
    pieces = []
    for piece in snapshot.pieces():
        pieces.append(piece)
        engine.machine.rows[len(pieces) * 100] = b"changed meanwhile"
        engine.machine.count += 1
    snapshot.close()
    assert len(pieces) > 3
    back = await restore(Rows, stream(pieces))
    assert state_digest(back) == digest
    assert list(back.machine.order) == ["z", "a"], "a dictionary keeps its order"


async def test_a_restored_table_has_its_keys_in_order_before_anybody_looks():
    back = await restore(Rows, stream(list(Snapshot(filled(2000)).pieces())))
    assert len(back.machine.rows._keys) == 2000


async def test_a_snapshot_that_is_cut_short_or_damaged_is_refused():
    pieces = list(Snapshot(filled(3000, 200)).pieces())
    for some in (pieces[:-1], pieces[:1], pieces[1:], [*pieces[:1], *pieces[2:]]):
        with pytest.raises(BadSnapshot):
            await restore(Rows, stream(some))
    with pytest.raises(NothingKept):
        await restore(Rows, stream([]))
    with pytest.raises(ShapeChanged, match="Rows"):
        await restore(KeyValue, stream(pieces))


async def test_local_snapshots_survive_and_a_partial_one_is_never_seen(tmp_path):
    store = LocalSnapshots(tmp_path)
    assert [piece async for piece in store.load("a/b")] == []
    engine = filled(100)
    await save(store, "a/b", engine)

    async def fails():
        yield b"some"
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        await store.save("a/b", engine.position, fails())
    back = await restore(Rows, store.load("a/b"))
    assert state_digest(back) == state_digest(engine)
    (file,) = tmp_path.glob("*.snapshot")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(BadSnapshot, match="cut short"):
        await restore(Rows, store.load("a/b"))


async def test_the_event_loop_waits_for_no_disk_while_a_snapshot_is_kept(tmp_path, monkeypatch):
    called = []

    def note(name, system):
        def noted(*arguments):
            called.append((name, threading.current_thread() is threading.main_thread()))
            return system(*arguments)

        monkeypatch.setattr(os, name, noted)

    for name in ("write", "fsync", "replace"):
        note(name, getattr(os, name))
    store = LocalSnapshots(tmp_path)
    for _ in range(2):  # the second one replaces the first
        await save(store, "a", filled(3000, 300))
    assert {name for name, _ in called} == {"write", "fsync", "replace"}
    assert not [name for name, in_the_loop in called if in_the_loop]


async def test_state_that_was_not_declared_is_not_forgotten_in_silence():
    engine = filled(1)
    with pytest.raises(AttributeError, match="extra is not declared"):
        engine.machine.extra = 3
    vars(engine.machine)["extra"] = 3
    with pytest.raises(BadSnapshot, match="extra"):
        Snapshot(engine)


async def test_a_large_snapshot_does_not_stop_the_replica_from_serving():
    async with wormspace.connect("memory:") as worm:
        replica = await worm.replicate(Rows, "rows", tuning=Tuning(audit_s=0))
        machine = replica._core.learner.engine.machine
        for key in range(200_000):
            machine.rows[key] = b"%0200d" % key
        await replica.put(7, b"x")
        waits = []
        done = False

        async def serve():
            while not done:
                began = time.perf_counter()
                await replica.put(7, b"x")
                waits.append(time.perf_counter() - began)

        serving = asyncio.ensure_future(serve())
        began = time.perf_counter()
        await save(MemorySnapshots(), "rows", replica._core.learner.engine)
        took = time.perf_counter() - began
        done = True
        await serving
        assert len(waits) > 50
        assert max(waits) < took / 5, (max(waits), took)
        await replica.close()


async def segments_left(worm, name):
    space = worm.space(name)
    return await space.head(), await space.tail()


SMALL = Tuning(segment_size=8)


async def test_a_replica_restarts_from_its_own_snapshot_and_the_rest_of_the_space(tmp_path):
    durability = TrimBehindSnapshots(tmp_path, registers=4, copies=1, every_s=0.02)
    async with wormspace.connect("memory:") as worm:
        options = {"durability": durability, "tuning": SMALL, "leadership": Sticky(0.1)}
        async with await worm.replicate(Rows, "rows", **options) as replica:
            for key in range(100):
                await replica.put(key, b"v")
            await asyncio.sleep(0.2)
        head, _ = await segments_left(worm, "rows")
        assert head > 5
        async with await worm.replicate(Rows, "rows", **options) as replica:
            assert await replica.put(0, b"w") == 101


async def at_the_very_end(replica, space):
    """Put until the last segment that was allocated is used up; returns how many, and where."""
    count = 0
    while True:
        at = replica.status().applied
        if at.segment and at == (await space.tail(), 0):
            return count, at
        assert count < 1000, "never at the end of the last segment"
        count = await replica.put(count, b"v")


@pytest.fixture
def extends_late(monkeypatch):
    """Who leads, or has turns, allocates no second segment: as if it died before it did."""
    monkeypatch.setattr(Term, "_extend", lambda self: None)
    allocate = RotatingProposer._allocate

    async def first_alone(proposer):
        if proposer._context.learner.highest < 0:
            await allocate(proposer)

    monkeypatch.setattr(RotatingProposer, "_allocate", first_alone)
    return monkeypatch


@pytest.mark.parametrize("trims", [False, True])
@pytest.mark.parametrize("way", [Sticky(0.1), Rotating(0.1), Leaderless(), Fixed("r", 0.1)])
async def test_all_replicas_restart_from_snapshots_at_the_very_end_of_the_last_segment(
    way, trims, extends_late
):
    """No event tells of that segment any more, and somebody must lead none the less."""
    store = MemorySnapshots()
    options = {"tuning": Tuning(segment_size=4), "leadership": way, "replica": "r"}
    async with wormspace.connect("memory:") as worm:
        space = worm.space("rows")
        async with await worm.replicate(Rows, "rows", **options) as replica:
            count, at = await at_the_very_end(replica, space)
            await save(store, "rows", replica._core.learner.engine)
        assert at == (await space.tail(), 0)
        if trims:
            await space.trim_prefix(at.segment)
        extends_late.undo()
        options["durability"] = TrimBehindSnapshots(store, registers=10_000)
        async with await worm.replicate(Rows, "rows", timeout=10, **options) as replica:
            assert await replica.put(0, b"w") == count + 1
            assert replica.status().applied > at


async def test_who_starts_at_the_end_of_a_segment_follows_the_leader_who_lives(extends_late):
    """And does not take its place: it looks up whose the segment is."""
    store = MemorySnapshots()
    options = {"tuning": Tuning(segment_size=4), "leadership": Sticky(2.0)}
    async with wormspace.connect("memory:") as worm:
        space = worm.space("rows")
        async with await worm.replicate(Rows, "rows", replica="r1", **options) as leader:
            _, at = await at_the_very_end(leader, space)
            await save(store, "rows", leader._core.learner.engine)
            options["durability"] = TrimBehindSnapshots(store, registers=10_000)
            async with await worm.replicate(Rows, "rows", replica="r2", **options) as other:
                for _ in range(200):
                    if other.status().leader is not None:
                        break
                    await asyncio.sleep(0.01)
                assert other.status().leader.name == "r1"
                assert other.status().applied == at
                assert await space.tail() == at.segment
            assert leader.status().leads


async def test_a_young_deployment_does_not_begin_with_the_state_of_another_one(tmp_path):
    durability = TrimBehindSnapshots(tmp_path, registers=4, copies=1, every_s=0.02)
    options = {"durability": durability, "tuning": SMALL, "leadership": Sticky(0.1)}
    async with (
        wormspace.connect("memory:") as worm,
        await worm.replicate(Rows, "rows", **options) as replica,
    ):
        for key in range(30):
            await replica.put(key, b"v")
        while not any(tmp_path.glob("*.snapshot")):  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.02)
    async with wormspace.connect("memory:") as worm:
        with pytest.raises(wormspace.WrongIdentity, match="a place for snapshots of its own"):
            await worm.replicate(Rows, "rows", **options)
        assert await worm.spaces() == []


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_another_deployment_neither_begins_with_a_snapshot_nor_replaces_it(
    tmp_path, kind, caplog
):
    """However long its space is: at a restart, and where the place is free again while it runs."""
    shared, own = tmp_path / "shared", tmp_path / "own"

    def keeping(directory):
        durability = TrimBehindSnapshots(directory, registers=4, copies=1, every_s=0.02)
        return {"durability": durability, "tuning": SMALL, "leadership": Sticky(0.1)}

    def space(name):
        return wormspace.connect("memory:" if kind == "memory" else f"file:{tmp_path / name}")

    async def until(is_so):
        async with asyncio.timeout(20):
            while not is_so():  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.02)

    def kept():
        return {path.name: path.read_bytes() for path in shared.glob("*.snapshot")}

    async with space("a") as here, space("b") as there:
        async with await here.replicate(Rows, "rows", **keeping(shared)) as replica:
            second = await there.replicate(Rows, "rows", **keeping(shared))
            for key in range(20):
                await replica.put(key, b"v")
            await until(kept)
        held = kept()
        for key in range(60):
            await second.put(key, b"w")
        await until(lambda: "WrongIdentity" in caplog.text)
        await second.close()
        assert (await segments_left(there, "rows"))[0] == 0, "nothing of it was kept"
        with pytest.raises(wormspace.WrongIdentity, match=r"rows: .*a place for snapshots of its"):
            await there.replicate(Rows, "rows", **keeping(shared))
        assert kept() == held
        async with await there.replicate(Rows, "rows", **keeping(own)) as second:
            assert await second.put(0, b"w") == 61
        async with await here.replicate(Rows, "rows", **keeping(shared)) as replica:
            assert await replica.put(0, b"w") == 21


class Overloaded:
    """A place that raises what nobody here knows of."""

    def __init__(self):
        self.asked = []

    async def save(self, name, position, pieces):
        raise AssertionError("what cannot be looked at may be another's, and is not replaced")

    async def load(self, name):
        self.asked.append(name)
        raise LookupError("503 slow down")
        yield b""


async def test_a_place_that_fails_stops_no_replica(caplog):
    async with wormspace.connect("memory:") as worm:
        place = Overloaded()
        keeping = TrimBehindSnapshots(place, registers=1, every_s=0.01)
        async with await worm.replicate(Rows, "rows", durability=keeping) as replica:
            await replica.put(1, b"1")
            async with asyncio.timeout(10):
                while len(place.asked) < 3:  # noqa: ASYNC110 - to begin with, and to save: twice
                    await asyncio.sleep(0.01)
            await replica.put(2, b"2")
            assert not replica.status().failed
        assert await worm.space("rows").head() == 0
    assert "503 slow down" in caplog.text


async def test_two_replicas_in_one_directory_are_one_copy(tmp_path):
    """Trimmed behind two snapshots that are one file, the state would be on one disk only."""
    async with wormspace.connect("memory:") as worm:
        options = {
            "durability": TrimBehindSnapshots(tmp_path, registers=4, copies=2, every_s=0.02),
            "tuning": SMALL,
            "leadership": Sticky(0.1),
        }
        async with (
            await worm.replicate(Rows, "rows", replica="one", **options) as first,
            await worm.replicate(Rows, "rows", replica="two", **options) as second,
        ):
            for key in range(60):
                await first.put(key, b"v")
            await asyncio.sleep(0.8)  # for both to have heard of each other
            kept = [replica._core.context.kept for replica in (first, second)]
            assert sorted(kept)[0] == Address(0, 0) < sorted(kept)[1]
            assert (await segments_left(worm, "rows"))[0] == 0
        async with await worm.replicate(Rows, "rows", replica="three", **options) as third:
            assert await third.put(0, b"w") == 61
            assert third._core.context.kept > Address(0, 0), "who had the claim is gone"


async def test_a_save_that_fails_leaves_nothing_and_what_a_crash_left_is_removed(tmp_path):
    store = LocalSnapshots(tmp_path / "deep" / "er")

    async def pieces(fails):
        yield b"piece"
        await asyncio.sleep(0)
        if fails:
            raise OSError(28, "No space left on device")
        yield b"last"

    await store.save("it", Address(1, 0), pieces(False))
    before = sorted((tmp_path / "deep" / "er").iterdir())
    with pytest.raises(OSError, match="No space"):
        await store.save("it", Address(2, 0), pieces(True))
    assert sorted((tmp_path / "deep" / "er").iterdir()) == before
    both = [store.save("it", Address(n, 0), pieces(False)) for n in range(2)]
    await asyncio.gather(*both)  # each has a file of its own until it is whole
    assert [piece async for piece in store.load("it")] == [b"piece", b"last"]
    other = [left.with_suffix(".0123.partial") for left in before]
    for left in other:
        left.write_bytes(b"half")
    claim = store.claim("it")
    assert claim is not None
    assert not any(left.exists() for left in other)
    assert LocalSnapshots(tmp_path / "deep" / "er").claim("it") is None
    assert store.claim("another") is not None
    claim.close()
    assert store.claim("it") is not None


def test_a_directory_for_snapshots_is_durable_with_its_parents(tmp_path, monkeypatch):
    synced = []
    fsync, names = os.fsync, {}
    open_ = os.open

    def opened(path, *arguments, **options):
        fd = open_(path, *arguments, **options)
        names[fd] = Path(path)
        return fd

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(names.get(fd)), fsync(fd)))
    place = tmp_path / "a" / "b" / "c"

    async def pieces():
        yield b"piece"

    asyncio.run(LocalSnapshots(place).save("it", Address(1, 0), pieces()))
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b", place} <= set(synced)


async def test_a_replica_that_comes_late_gets_the_state_from_one_that_runs():
    async with wormspace.connect("memory:") as worm:
        options = {"durability": TrimWhenApplied(1, every_s=0.02), "tuning": SMALL}
        async with await worm.replicate(Rows, "rows", **options) as first:
            for key in range(100):
                await first.put(key, b"v")
            await asyncio.sleep(0.1)
            assert (await segments_left(worm, "rows"))[0] > 5
            async with await worm.replicate(Rows, "rows", **options) as second:
                assert await second.put(0, b"w") == 101
                await asyncio.sleep(0.1)
                one, other = first._core.learner.engine, second._core.learner.engine
                assert state_digest(one) == state_digest(other)


async def test_without_any_snapshot_a_trimmed_beginning_is_an_error_and_no_empty_state(monkeypatch):
    monkeypatch.setattr("wormspace.smr.catching_up.CATCH_UP_S", 0.5)
    monkeypatch.setattr("wormspace.smr.catching_up.FETCH_TIMEOUT_S", 0.2)
    async with wormspace.connect("memory:") as worm:
        async with await worm.replicate(Rows, "rows", tuning=SMALL) as first:
            for key in range(40):
                await first.put(key, b"v")
        await worm.space("rows").trim_prefix(3)
        with pytest.raises(NoSnapshot, match="below 3"):
            await worm.replicate(Rows, "rows")


async def test_trimming_waits_for_as_many_replicas_as_it_was_told():
    async with wormspace.connect("memory:") as worm:
        options = {"durability": TrimWhenApplied(2, every_s=0.02), "tuning": SMALL}
        async with await worm.replicate(Rows, "rows", replica="one", **options) as first:
            for key in range(50):
                await first.put(key, b"v")
            await asyncio.sleep(0.1)
            assert (await segments_left(worm, "rows"))[0] == 0
            async with await worm.replicate(Rows, "rows", replica="two", **options):
                await asyncio.sleep(0.6)
                head, _ = await segments_left(worm, "rows")
                assert head > 3
                with pytest.raises(Trimmed):
                    await worm.space("rows").segment(0)


@pytest.mark.parametrize("seed", range(4))
def test_worlds_in_which_the_beginning_is_trimmed_all_the_time(seed):
    shared = MemorySnapshots()
    strategies = [
        TrimWhenApplied(2, every_s=0.1),
        TrimBehindSnapshots(shared, registers=10, every_s=0.1),
    ]
    group = run_faulty(
        seed, options=lambda name: {"durability": strategies[seed % 2]}, size=4, replicas=3
    )
    assert group.answered > 100


def test_a_replica_that_was_away_for_long_catches_up_by_snapshot():
    with World(5) as world, Witness() as witness:
        options = {"durability": TrimWhenApplied(2, every_s=0.1), "leadership": Sticky(0.5)}
        group = Group(world, options=lambda name: options, size=4)

        async def drive():
            group.start_servers()
            group.start_replicas()
            await group.all_started()
            await asyncio.sleep(1)
            leader = await group.leader()
            away = next(name for name in group.names if name != leader)
            cut = world.network.cut([away])

            async def write():
                for i in range(60):
                    await group.replicas[leader].put("a", str(i))
                written.set()
                # What the replica has begun in this process must not end with it.
                await asyncio.Event().wait()

            written = asyncio.Event()
            world.spawn(leader, write, name="write")
            await written.wait()
            await asyncio.sleep(1)
            before = group.replicas[away].status().applied
            world.network.heal(cut)
            await asyncio.sleep(20)
            after = group.replicas[away].status()
            assert after.failed == ""
            assert after.applied.segment > before.segment + 5
            assert after.applied == group.replicas[leader].status().applied

        world.run(drive(), deadline_s=100)
        witness.check()


async def kept(place, segment, name="it"):
    async def pieces():
        yield b"%d" % segment

    await LocalSnapshots(place).save(name, Address(segment, 0), pieces())
    return [piece async for piece in LocalSnapshots(place).load(name)]


async def test_a_newer_snapshot_is_not_replaced_by_an_older_one(tmp_path):
    """Whoever saves: with the claim of one who died, a replica that is behind may."""
    assert await kept(tmp_path, 7) == [b"7"]
    assert await kept(tmp_path, 5) == [b"7"]
    assert await kept(tmp_path, 7) == [b"7"]
    assert await kept(tmp_path, 9) == [b"9"]
    assert await kept(tmp_path, 1, "other") == [b"1"]
    (path,) = tmp_path.glob(LocalSnapshots(tmp_path)._path("it").name)
    for damaged in (b"", path.read_bytes()[:20], path.read_bytes().replace(b"\x09", b"\xff")):
        path.write_bytes(damaged)  # how far that goes, nobody knows
        assert await kept(tmp_path, 3) == [b"3"]
    assert not list(tmp_path.glob("*.partial"))


async def test_a_file_of_a_newer_format_is_said_to_be_one(tmp_path):
    await kept(tmp_path, 7)
    path = LocalSnapshots(tmp_path)._path("it")
    path.write_bytes(path.read_bytes().replace(b"snapshot\x01", b"snapshot\x02"))
    with pytest.raises(NewerFormat, match="update"):
        [piece async for piece in LocalSnapshots(tmp_path).load("it")]


async def test_a_save_that_is_cancelled_closes_its_file_when_nobody_writes_to_it(
    tmp_path, monkeypatch
):
    writing, go_on, written = threading.Event(), threading.Event(), threading.Event()
    closed = []

    def slow(fd, rest):
        writing.set()
        go_on.wait(10)
        try:
            os.fstat(fd)
        except OSError:
            closed.append(fd)
        written.set()
        return len(rest)

    monkeypatch.setattr(os, "write", slow)
    saving = asyncio.ensure_future(kept(tmp_path, 7))
    await asyncio.to_thread(writing.wait, 10)
    saving.cancel()
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await saving
    await asyncio.to_thread(written.wait, 10)
    assert not closed
