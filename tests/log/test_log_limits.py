"""Servers that take small values only: the log asks for their limit, and keeps to it."""

import random

import pytest

import wormspace
from wormspace.server.embedded import registers_of
from wormspace.server.node import Node
from wormspace.store.memory_engine import MemoryEngine
from wormspace.worm import Worm

LIMIT = 2000


@pytest.fixture
def worm(runner):
    async def connect():
        rng = random.Random(1)
        registers = registers_of(Node(MemoryEngine(), max_value=LIMIT), "small", rng)
        return Worm(registers, rng, 5.0, embedded=True)

    client = runner.run(connect())
    yield client
    runner.run(client.close())


async def test_what_fits_is_appended_and_what_does_not_is_refused_with_the_limit(worm):
    log = await worm.log("orders", segment_size=8)
    sizes = [0, 1, 100, 1000, 1800]
    await log.append_many([bytes(size) for size in sizes] * 20)
    for size in range(1850, 2100, 10):
        try:
            position = await log.append(bytes(size), headers={"k": "v"}, streams=["s"])
        except wormspace.ValueTooLarge as e:
            assert "at most" in str(e), size  # noqa: PT017 - others are appended
        else:
            assert len((await log.read(position)).body) == size
    assert len([e for e in await log.read_range(0) if len(e.body) <= 1800]) == 100


@pytest.mark.parametrize("body", [b"", b"x"])
async def test_streams_that_leave_no_room_are_said_to(worm, body):
    log = await worm.log("orders", segment_size=8)
    with pytest.raises(wormspace.ValueTooLarge, match="headers and streams of an entry take") as e:
        await log.append(body, streams=[f"stream {n}" for n in range(60)])
    assert "0 at most" not in str(e.value)


async def test_batches_of_many_small_entries_keep_to_the_limit(worm):
    log = await worm.log("orders", segment_size=64)
    rng = random.Random(2)
    expected = []
    for _ in range(30):
        bodies = [bytes(rng.choice([0, 0, 1, 30])) for _ in range(rng.randint(1, 400))]
        streams = [f"s{rng.randrange(9)}" for _ in range(rng.choice([0, 0, 1, 3]))]
        await log.append_many(bodies, streams=streams, headers={"k": "v"} if streams else {})
        expected += bodies
    assert [e.body for e in await log.read_range(0)] == expected


async def test_a_table_of_streams_that_is_too_large_for_a_seal_is_cut(worm):
    log = await worm.log("orders", segment_size=8)
    names = [f"a stream with a long name, number {i}" for i in range(120)]
    for name in names:
        await log.append(b"x", streams=[name])
    await log.close()
    again = await worm.log("orders")
    for i, name in enumerate(names[::10]):
        assert [e.position for e in await again.read_stream(name)] == [10 * i]
