"""Listening, on every implementation: history then live, each thing once."""

import asyncio
import contextlib

import pytest

from wormspace import Address, Allocated, BadAddress, Closed, SegmentsTrimmed, UsageError, Written


@contextlib.asynccontextmanager
async def listening(source):
    """A listener that is closed at the end, and a way to take events off it."""

    async def take(count, limit_s=20.0):
        async with asyncio.timeout(limit_s):
            return [await anext(source) for _ in range(count)]

    try:
        yield take
    finally:
        await source.close()


def written(segment, offset, value):
    return Written(Address(segment, offset), value)


async def heard_by_all(segment, count):
    """Wait until no server has a write still to come: that would be part of the present."""
    async with asyncio.timeout(20):
        while True:
            held = [rows for rows in (await segment.inspect()).values() if rows is not None]
            if all(sum(r.value is not None for r in rows) >= count for rows in held):
                return
            await asyncio.sleep(0.01)


async def test_history_comes_in_the_order_of_addresses(space):
    for number in range(3):
        segment = await space.alloc(b"m%d" % number, size=3)
        await segment.unsafe_write(2, b"two")
        await segment.unsafe_write(0, b"zero")
        await heard_by_all(segment, 2)
    async with listening(space.listen()) as take:
        assert await take(9) == [
            event
            for number in range(3)
            for event in (
                Allocated(number, 3, b"m%d" % number),
                written(number, 0, b"zero"),
                written(number, 2, b"two"),
            )
        ]


async def test_history_then_the_present_without_a_gap_or_a_repeat(space, other):
    segment = await space.alloc(size=20)
    token = (await segment.capture()).token
    await segment.write_range(0, [b"%d" % i for i in range(10)], token)
    async with listening(other.space(space.name).listen()) as take:
        assert await take(11) == [
            Allocated(0, 20, b""),
            *(written(0, i, b"%d" % i) for i in range(10)),
        ]
        for i in range(10, 20):
            await segment.write(i, b"%d" % i, token)
            assert await take(1) == [written(0, i, b"%d" % i)]


async def test_a_replayed_or_completed_write_is_told_once(segment, space):
    async with listening(space.listen()) as take:
        assert await take(1) == [Allocated(0, 8, b"for a test")]
        token = (await segment.capture()).token
        await segment.write(0, b"v", token)
        await segment.write(0, b"v", token)
        await segment.capture()
        await segment.read(0)
        second = (await segment.capture(1)).token
        await segment.write(1, b"next", second)
        assert await take(2) == [written(0, 0, b"v"), written(0, 1, b"next")]


async def test_allocations_are_told_as_they_happen(space):
    async with listening(space.listen()) as take:
        for number in range(3):
            await space.alloc(b"%d" % number, size=number + 1)
            assert await take(1) == [Allocated(number, number + 1, b"%d" % number)]


async def test_trims_are_told_as_they_happen(space):
    segments = [await space.alloc(size=1) for _ in range(3)]
    async with listening(space.listen()) as take:
        assert len(await take(3)) == 3
        await space.trim(1)
        assert await take(1) == [SegmentsTrimmed(1, 2)]
        await segments[2].unsafe_write(0, b"v")
        assert await take(1) == [written(2, 0, b"v")]


async def test_the_trim_of_a_segment_is_told_once_also_when_all_of_it_was_delivered(space):
    first, second = [await space.alloc(size=1) for _ in range(2)]
    async with listening(space.listen()) as take:
        assert len(await take(2)) == 2
        await first.unsafe_write(0, b"all of it")
        assert await take(1) == [written(0, 0, b"all of it")]
        await space.trim(0)
        assert await take(1) == [SegmentsTrimmed(0, 1)]
        await space.trim(0)
        await second.unsafe_write(0, b"v")
        assert await take(1) == [written(1, 0, b"v")]


async def test_trimmed_history_is_told_as_trimmed(space):
    for _ in range(3):
        await space.alloc(size=1)
    await space.trim_prefix(2)
    async with listening(space.listen()) as take:
        gone = []
        while sum(e.stop - e.segment for e in gone) < 2:
            gone += await take(1)
        assert {n for e in gone for n in range(e.segment, e.stop)} == {0, 1}
        assert await take(1) == [Allocated(2, 1, b"")]


async def test_a_listener_may_begin_in_the_middle(space):
    segment = await space.alloc(size=4)
    token = (await segment.capture()).token
    await segment.write_range(0, [b"0", b"1", b"2"], token)
    later = await space.alloc(b"later", size=1)
    async with listening(space.listen(Address(0, 2))) as take:
        events = await take(3)
        assert [e for e in events if isinstance(e, Written)] == [written(0, 2, b"2")]
        await segment.write(3, b"3", token)
        assert await take(1) == [written(0, 3, b"3")]
    async with listening(space.listen(1)) as take:
        assert await take(1) == [Allocated(1, 1, b"later")]
        await later.unsafe_write(0, b"v")
        assert await take(1) == [written(1, 0, b"v")]


async def test_a_listener_may_begin_where_nothing_is_yet(space):
    async with listening(space.listen(2)) as take:
        for _ in range(3):
            await space.alloc(size=1)
        assert await take(1) == [Allocated(2, 1, b"")]


async def test_a_listener_of_one_segment_hears_of_no_other(space):
    first, second = [await space.alloc(size=2) for _ in range(2)]
    async with listening(first.listen()) as take:
        assert await take(1) == [Allocated(0, 2, b"")]
        await second.unsafe_write(0, b"not heard")
        await first.unsafe_write(0, b"heard")
        await first.unsafe_write(1, b"too")
        assert await take(2) == [written(0, 0, b"heard"), written(0, 1, b"too")]


async def test_two_listeners_both_hear_everything(space, other):
    segment = await space.alloc(size=4)
    mine, theirs = space.listen(), other.space(space.name).listen()
    async with listening(mine) as take_mine, listening(theirs) as take_theirs:
        await take_mine(1)
        await take_theirs(1)
        for i in range(4):
            await segment.unsafe_write(i, b"%d" % i)
        expected = [written(0, i, b"%d" % i) for i in range(4)]
        assert await take_mine(4) == expected
        assert await take_theirs(4) == expected


async def test_a_sequential_writer_is_heard_in_order_while_history_is_read(space, other):
    """The listener starts in the middle of the writing; more than one page is history."""
    count = 700
    segment = await space.alloc(size=count)
    token = (await segment.capture()).token
    await segment.write_range(0, [b"%d" % i for i in range(300)], token)

    async def write():
        for i in range(300, count):
            await segment.write(i, b"%d" % i, token)

    writing = asyncio.ensure_future(write())
    async with listening(other.space(space.name).listen()) as take:
        events = await take(count + 1, limit_s=60)
    await writing
    offsets = [e.address.offset for e in events[1:]]
    assert offsets == list(range(count))


async def test_listening_stops_when_the_consumer_does(space, segment):
    source = space.listen()
    assert isinstance(await anext(source), Allocated)
    await source.close()
    await segment.unsafe_write(0, b"unheard")
    with pytest.raises(StopAsyncIteration):
        await anext(source)


async def test_closing_the_client_ends_its_listeners(door, name):
    worm = await door.open()
    source = worm.space(name).listen()
    waiting = asyncio.ensure_future(anext(source))
    await worm.space(name).tail()
    await worm.close()
    with pytest.raises(Closed):
        await waiting


async def test_a_listener_of_nothing_is_misuse(space):
    with pytest.raises(BadAddress):
        space.listen(-1)
    with pytest.raises(UsageError):
        space.listen(3, stop=3)
