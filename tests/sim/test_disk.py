"""The simulated disk keeps the store's contract, and breaks where a disk may."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wormspace.errors import StoreError, StoreFull, StoreLocked
from wormspace.sim import DiskOptions, World
from wormspace.sim.latency import constant
from wormspace.store.engine import Engine
from wormspace.store.memory_engine import MemoryEngine

KEYS = st.binary(min_size=1, max_size=2)
CHANGES = st.lists(st.tuples(st.sampled_from("ab"), KEYS, st.none() | st.binary(max_size=2)))


def change(batch, changes):
    for table, key, value in changes:
        if value is None:
            batch.delete(table, key)
        else:
            batch.put(table, key, value)


def look(view):
    """Everything a view can say about a few keys."""
    keys = [b"\x00", b"\x01", b"\x80", b"\xff", b"\xff\xff", b"\x01\x01"]
    return [
        (
            list(view.scan(table, b"", b"\xff\xff\xff")),
            list(view.scan(table, b"\x01", b"\x80")),
            view.get_many(table, keys),
            [view.floor(table, key) for key in keys],
        )
        for table in ("a", "b", "nowhere")
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CHANGES, st.booleans()), max_size=5))
def test_it_agrees_with_the_memory_engine(batches):
    async def drive(engine: Engine):
        model = MemoryEngine()
        for changes, keep in batches:
            ours, theirs = engine.begin(), model.begin()
            before = look(engine.view)
            change(ours, changes)
            change(theirs, changes)
            assert look(ours) == look(theirs)
            assert look(engine.view) == before
            if keep:
                await engine.commit(ours)
                await model.commit(theirs)
            else:
                ours.abort()
                theirs.abort()
            assert look(engine.view) == look(model.view)

    with World(1, disk=DiskOptions.instant()) as world:
        world.run(drive(world.host("s1").disk().open()))


async def _commit(engine, key, value=b"x"):
    batch = engine.begin()
    batch.put("t", key, value)
    await engine.commit(batch)


def on_a_disk(body, seed=1, **options):
    """Run `body(world, disk)` as the driver."""
    with World(seed, disk=DiskOptions(**options)) as world:
        return world.run(body(world, world.host("s1").disk()), deadline_s=1000)


def test_a_commit_takes_time_and_readers_see_the_state_before_it():
    async def body(world, disk):
        engine = disk.open()
        committing = asyncio.ensure_future(_commit(engine, b"k"))
        await asyncio.sleep(0.9)
        assert engine.view.get("t", b"k") is None
        with pytest.raises(RuntimeError, match="one batch"):
            engine.begin()
        await committing
        assert world.now == 1
        assert engine.view.get("t", b"k") == b"x"

    on_a_disk(body, commit_s=constant(1.0))


def test_a_full_or_failing_disk_changes_nothing_and_recovers():
    async def body(world, disk):
        engine = disk.open()
        await _commit(engine, b"a")
        disk.full = True
        with pytest.raises(StoreFull):
            await _commit(engine, b"b")
        disk.full, disk.failing = False, True
        with pytest.raises(StoreError):
            await _commit(engine, b"b")
        disk.failing = False
        assert disk.items("t") == [(b"a", b"x")]
        await _commit(engine, b"b")
        assert disk.items("t") == [(b"a", b"x"), (b"b", b"x")]

    on_a_disk(body)


def test_a_stalled_disk_holds_commits_and_a_slow_one_delays_them():
    async def body(world, disk):
        engine = disk.open()
        disk.stall(True)
        committing = asyncio.ensure_future(_commit(engine, b"a"))
        await asyncio.sleep(50)
        assert not committing.done()
        disk.stall(False)
        await committing
        disk.slowness = 30
        start = world.now
        await _commit(engine, b"b")
        assert world.now - start == 30

    on_a_disk(body, commit_s=constant(1.0))


def test_a_cancelled_wait_does_not_stop_the_commit():
    async def body(world, disk):
        engine = disk.open()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await _commit(engine, b"a")
        assert disk.items("t") == []
        await asyncio.sleep(1)
        assert disk.items("t") == [(b"a", b"x")]
        await _commit(engine, b"b")

    on_a_disk(body, commit_s=constant(1.0))


def _crash_during_commit(seed):
    with World(seed, disk=DiskOptions(commit_s=constant(1.0))) as world:
        disk = world.host("s1").disk()

        async def victim():
            engine = disk.open()
            await _commit(engine, b"before")
            batch = engine.begin()
            batch.put_many("t", [(bytes([n]), b"x") for n in range(10)])
            await engine.commit(batch)

        process = world.spawn("s1", victim)
        world.after(1.5, process.crash)
        world.run(asyncio.sleep(5))
        return len(disk.items("t"))


def test_a_commit_under_way_at_a_crash_survives_wholly_or_not_at_all():
    assert {_crash_during_commit(seed) for seed in range(20)} == {1, 11}


def _keys_after(crash, durability, seed):
    with World(seed, disk=DiskOptions(write_back_s=30)) as world:
        disk = world.host("s1").disk()

        async def victim():
            engine = disk.open(durability)
            for n in range(10):
                await _commit(engine, bytes([n]), bytes([n]))
                await _commit(engine, b"last", bytes([n]))
            await asyncio.Event().wait()

        process = world.spawn("s1", victim)
        world.run(asyncio.sleep(1))
        process.crash() if crash == "process" else world.host("s1").crash()
        return [key for key, _ in disk.items("t")], dict(disk.items("t")).get(b"last")


def test_what_was_synced_survives_any_crash():
    for crash in ("process", "host"):
        for seed in range(5):
            keys, last = _keys_after(crash, "sync", seed)
            assert (len(keys), last) == (11, b"\x09")


def test_what_the_os_holds_survives_its_process_but_a_suffix_is_lost_with_the_host():
    assert len(_keys_after("process", "os", 1)[0]) == 11
    survivors = set()
    for seed in range(20):
        keys, last = _keys_after("host", "os", seed)
        numbered = [key for key in keys if key != b"last"]
        assert numbered == [bytes([n]) for n in range(len(numbered))]  # a prefix of the commits
        assert last in (None, *numbered[-2:])
        survivors.add(len(keys))
    assert len(survivors) > 4


def test_what_the_os_wrote_back_survives_the_host():
    async def body(world, disk):
        engine = disk.open("os")
        await _commit(engine, b"old")
        await asyncio.sleep(10)
        world.host("s1").crash()
        assert disk.items("t") == [(b"old", b"x")]

    on_a_disk(body, write_back_s=5)


def test_memory_outlives_nothing():
    assert _keys_after("process", "memory", 1) == ([], None)


def test_one_process_has_it_open():
    with World(1) as world:
        disk = world.host("s1").disk()

        async def holder():
            disk.open()
            await asyncio.Event().wait()

        process = world.spawn("s1", holder)
        world.run(asyncio.sleep(1))
        with pytest.raises(StoreLocked):
            disk.open()
        process.crash()
        disk.open()


def test_an_unknown_durability_is_refused():
    with World(1) as world, pytest.raises(ValueError, match="sync, os, memory"):
        world.host("s1").disk().open("perhaps")
