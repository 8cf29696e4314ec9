"""Entries that share a register: where they are, and what becomes of them as one."""

import asyncio
import random

import pytest
from test_log_suite import collect, leave_a_hole

from wormspace.knobs import KNOBS
from wormspace.log import LogTrimmed
from wormspace.log.records import read_batch


async def slots(log):
    """How many registers the log takes."""
    return await log._segmented_log.end()


async def mixed(log, seed=0):
    """Appends of all kinds, some of which are lost; returns what should be at each position."""
    rng = random.Random(seed)
    expected = {}
    for n in range(60):
        bodies = [f"{n}.{i}".encode() for i in range(rng.choice((1, 1, 2, 7, 40)))]
        if rng.random() < 0.2:
            first = await leave_a_hole(log, bodies)
            expected.update(dict.fromkeys(range(first, first + len(bodies))))
        else:
            positions = await log.append_many(bodies)
            expected.update(zip(positions, bodies, strict=True))
    expected[await log.append(b"the end")] = b"the end"
    assert sorted(expected) == list(range(len(expected))), "positions are dense"
    return expected


async def test_what_is_appended_in_one_turn_shares_a_register(make):
    log = await make()
    await log.append(b"first")
    before = await slots(log)
    appends = [log.append(str(i).encode(), headers={"n": str(i)}) for i in range(50)]
    many = log.append_many([b"x"] * 50, streams=["s"])
    positions = await asyncio.gather(*appends)
    await many
    assert await slots(log) <= before + 2
    assert positions == list(range(1, 51))
    entries = await log.read_range(1, 51)
    assert [(e.body, dict(e.headers)) for e in entries] == [
        (str(i).encode(), {"n": str(i)}) for i in range(50)
    ]


async def test_a_batch_is_no_larger_than_it_may_be(make):
    log = await make()
    bodies = [
        bytes(size)
        for size in (10, KNOBS.log_batch_bytes - 100, 1000, 3 * KNOBS.log_batch_bytes, 5, 5, 70_000)
    ]
    await log.append_many(bodies)
    entries = await log.read_range(0)
    assert [len(e.body) for e in entries] == [len(body) for body in bodies]
    batches = [
        read_batch(raw, 0) for raw in await log._segmented_log.read(0, await slots(log)) if raw
    ]
    assert all(
        len(p.bodies) == 1 or sum(map(len, p.bodies)) <= KNOBS.log_batch_bytes for p in batches
    )
    assert len(batches) == 5


@pytest.mark.parametrize("seed", range(3))
async def test_every_position_is_found_by_one_who_knows_nothing(make, seed):
    expected = await mixed(await make(), seed)
    positions = list(expected)
    random.Random(seed).shuffle(positions)
    for position in positions[:5]:
        fresh = await make()
        assert (await fresh.fill(position) or NOTHING).body == expected[position]
    fresh = await make()
    for position in positions:
        entry = await fresh.fill(position)
        assert entry == await fresh.read(position)
        assert (entry or NOTHING).body == expected[position]


async def test_every_range_is_what_lies_in_it(make):
    log = await make()
    expected = await mixed(log)
    rng = random.Random(1)
    for _ in range(30):
        start, stop = sorted(rng.choices(range(len(expected) + 1), k=2))
        entries = await log.read_range(start, stop)
        held = {p: expected[p] for p in range(start, stop) if expected[p] is not None}
        assert {e.position: e.body for e in entries} == held


async def test_a_subscriber_begins_in_the_middle_of_a_batch(make):
    log = await make()
    await log.append_many([str(i).encode() for i in range(30)])
    await log.append_many([str(i).encode() for i in range(30, 60)])
    heard = await collect(log.listen(17), 43)
    assert [e.position for e in heard] == list(range(17, 60))


async def test_a_subscriber_passes_over_what_was_lost_and_waits_for_what_is_ahead(make):
    log = await make()
    hearing = asyncio.create_task(collect(log.listen(3), 3))
    await asyncio.sleep(0.05)
    await log.append_many([b"0", b"1", b"2", b"3"])
    lost = await leave_a_hole(log, [b"lost"] * 10)
    after = await log.append_many([b"a", b"b"])
    assert [e.position for e in await hearing] == [3, *after]
    assert after[0] == lost + 10


async def test_a_log_is_trimmed_in_the_middle_of_a_batch(make):
    log = await make()
    for i in range(40):
        await log.append_many([bytes(10)] * 10, streams=[f"s{i % 2}"])
    assert await log.trim(215) == 215
    with pytest.raises(LogTrimmed):
        await log.read(214)
    assert await log.trim_larger(10 * 100) == 300
    fresh = await make()
    assert [e.position for e in await fresh.read_range(await fresh.first())] == list(
        range(300, 400)
    )
    assert [e.position for e in await fresh.read_stream("s1")][:11] == [*range(310, 320), 330]
    assert await fresh.tail() == 400


async def test_positions_go_on_after_all_was_trimmed_and_the_sequencer_left(make):
    log = await make(segment_size=4)
    for _ in range(10):
        await log.append_many([b"x"] * 25)
    assert await log.trim(250) == 250
    await log.close()
    again = await make(segment_size=4)
    assert await again.append(b"y") == 250
    assert await again.tail() == 251


async def test_a_stream_is_the_entries_that_name_it_and_no_others_of_the_batch(make):
    log = await make()
    for n in range(20):
        await asyncio.gather(
            *(log.append(f"{n}.{i}".encode(), streams=["abc"[i % 3]]) for i in range(9))
        )
    mine = [e.body for e in await log.read_stream("b")]
    assert mine == [f"{n}.{i}".encode() for n in range(20) for i in (1, 4, 7)]
    assert await log.streams() == {"a": 177, "b": 178, "c": 179}


class Nothing:
    body = None


NOTHING = Nothing()
