"""Registers that hold no entries: errors that name them, for those who ask; the log goes on."""

import asyncio

import msgspec
import pytest
from test_log_suite import collect

import wormspace
from wormspace.errors import NewerFormat
from wormspace.log import DamagedEntry
from wormspace.log.records import FORMAT, BatchRecord, Group, encode

HOSTILE = [
    b"x",
    b"\x00" * 300,
    b"\xff",
    encode("text"),
    encode([]),
    encode([FORMAT]),
    encode([FORMAT, 0, 0, b"w", 1, 0, ["text"], [], {}]),
    encode([FORMAT, 0, 0, b"w", 1, 0, [], [], {}]),
    encode([FORMAT, -1, 0, b"w", 1, 0, [b"x"], [], {}]),
    encode([FORMAT, 1 << 63, 0, b"w", 1, 0, [b"x"], [], {}]),
    encode([FORMAT, 0, 0, b"w", 1, 0, [b"x"], [[2, {}, []]], {}]),
    encode([FORMAT, 0, 0, b"w", 1, 0, [b"x"], [[1, {}, ["s"]]], {}]),
    encode([FORMAT, 0, 0, b"w", 1, 0, [b"x"], [], {"s": [1 << 60]}]),
    encode([FORMAT, 0, 0, b"w", 1, 0, [b"x"], [[1, {"n": b"x"}, []]], {}]),
    encode([2, 0, 0, b"w", 1, 0, [b"x"], [], {}]),
    encode([FORMAT - 1, 0]),
    encode(BatchRecord(0, 0, b"w", 1, 0, (b"x",), (Group(1, {}, ("s",)),), {"s": (5,)})),
]
"""What a broken or a hostile client may write."""


@pytest.fixture
def worm(runner):
    async def connect():
        return await wormspace.connect("memory:")

    client = runner.run(connect())
    yield client
    runner.run(client.close())


async def write_over(log, raw, slots=1):
    """Somebody takes the next slots, and writes this."""
    segmented_log = log._segmented_log
    end = await segmented_log.end()
    for slot in range(end, end + slots):
        segment = segmented_log.segment(slot // segmented_log.size)
        token = (
            await segment.capture(slot % segmented_log.size, slot % segmented_log.size + 1)
        ).token
        await segment.write(slot % segmented_log.size, raw, token)


async def damaged(worm, raw=b"garbage", slots=1):
    """Position 0, two positions lost to damage, and position 3; with a stream's too."""
    log = await worm.log("orders", segment_size=16, patience_s=0.0)
    await log.append(b"zero", streams=["s"])
    await write_over(log, raw, slots)
    position = await log.append_many([b"before", b"after"], streams=["s"])
    return log, position


@pytest.mark.parametrize("raw", HOSTILE, ids=lambda raw: repr(raw[:20]))
@pytest.mark.parametrize("slots", [1, 3])
async def test_a_log_serves_on_whatever_is_in_a_register(worm, raw, slots):
    log, (third, fourth) = await damaged(worm, raw, slots)
    for reader in (log, await worm.log("orders", patience_s=0.0)):
        assert await reader.tail() == fourth + 1
        assert (await reader.read(0)).body == b"zero"
        assert (await reader.read(third)).body == b"before"
        for call in (reader.read, reader.fill):
            with pytest.raises(DamagedEntry) as found:
                await call(1)
            assert (found.value.position, found.value.next) == (1, third)
        with pytest.raises(DamagedEntry):
            await reader.read_range(0)
        assert [e.body for e in await reader.read_range(0, 1)] == [b"zero"]
        assert [e.position for e in await reader.read_range(third)] == [third, fourth]
        assert [e.position for e in await reader.read_stream("s", third)] == [third, fourth]
        assert await reader.streams() == {"s": fourth}
        info = await reader.info()
        assert (info.first, info.tail) == (0, fourth + 1)
    assert await log.trim(2) == 2
    assert await log.append(b"and on") == fourth + 1


async def test_a_subscriber_is_told_once_and_goes_on_behind_it(worm):
    log, (third, _) = await damaged(worm)
    heard = []
    start, told = 0, []
    while len(heard) < 3:
        try:
            async for entry in log.listen(start):
                heard.append(entry.body)
                if len(heard) == 3:
                    break
        except DamagedEntry as e:
            told.append((e.position, e.next))
            start = e.next
    assert heard == [b"zero", b"before", b"after"]
    assert told == [(1, third)]


async def test_a_live_subscriber_is_told(worm):
    log = await worm.log("orders", segment_size=16, patience_s=0.0)
    await log.append(b"zero")
    hearing = log.listen(1)
    waiting = asyncio.ensure_future(anext(hearing))
    await asyncio.sleep(0.02)
    await write_over(log, b"garbage")
    position = await log.append(b"behind")
    with pytest.raises(DamagedEntry) as found:
        await asyncio.wait_for(waiting, 10)
    assert (found.value.position, found.value.next) == (1, position)
    assert (await collect(log.listen(found.value.next), 1))[0].body == b"behind"


async def test_where_no_position_is_missing_nothing_is_told(worm):
    log = await worm.log("orders", segment_size=16)
    await log.append(b"zero")
    await log.close()
    other = await worm.log("orders")
    await write_over(other, b"garbage")
    assert await other.append(b"one") == 1
    assert [e.body for e in await other.read_range(0)] == [b"zero", b"one"]


async def test_a_stream_whose_batch_is_damaged_says_so(worm):
    log = await worm.log("orders", segment_size=16, patience_s=0.0)
    await log.append(b"zero", streams=["s"])
    give_now, lost = log._appender._write_all, []

    async def overwritten(drafts, given, left):
        log._appender._write_all = give_now
        lost.append(given.first)
        await write_over(log, b"garbage")
        raise wormspace.Unavailable("the appender died")

    log._appender._write_all = overwritten
    with pytest.raises(wormspace.Unavailable):
        await log.append(b"lost", streams=["s"])
    position = await log.append(b"after", streams=["s"])
    with pytest.raises(DamagedEntry) as found:
        await log.read_stream("s")
    assert (found.value.position, found.value.next) == (lost[0], position)
    assert [e.body for e in await log.read_stream("s", found.value.next)] == [b"after"]
    hearing = log.listen(0, stream="s")
    with pytest.raises(DamagedEntry):
        await asyncio.wait_for(collect(hearing, 2), 10)


@pytest.mark.parametrize("raw", [b"garbage", encode([FORMAT, 0, {"s": [0, [1 << 50]]}, 0])])
async def test_a_seal_that_holds_something_else_costs_a_search_and_no_entry(worm, raw):
    log = await worm.log("orders", segment_size=4)
    for i in range(3):
        await log.append(b"%d" % i, streams=[f"s{i}"])
    segment = log._segmented_log.segment(0)
    token = (await segment.capture(4, 5)).token
    await segment.write(4, raw, token)
    await log._segmented_log.allocated(1)
    await log.close()
    other = await worm.log("orders")
    for i in range(3, 9):
        await other.append(b"%d" % i, streams=[f"s{i % 3}"])
    for i in range(3):
        assert [int(e.body) for e in await other.read_stream(f"s{i}")] == [i, i + 3, i + 6]


@pytest.mark.parametrize("raw", [b"garbage", encode([FORMAT, b"n", "not a number"]), b"\xff"])
async def test_a_mark_passes_over_what_is_no_value(worm, raw):
    log = await worm.log("orders", segment_size=4)
    for i in range(20):
        await log.append(b"%d" % i)
    await log.trim(7)
    await log.cursor("c").commit(3)
    for mark in (log.cursor("c")._cell, log._trim_point._cell):
        segmented_log = mark._segmented_log
        end = await segmented_log.end()
        segment = segmented_log.segment(end // segmented_log.size)
        token = (
            await segment.capture(end % segmented_log.size, end % segmented_log.size + 1)
        ).token
        await segment.write(end % segmented_log.size, raw, token)
    again = await worm.log("orders")
    assert await again.cursor("c").load() == 3
    assert await again.first() == 7
    assert await again.trim(9) == 9
    await again.cursor("c").commit(4)
    assert await log.cursor("c").load() == 4


async def test_records_of_a_newer_format_are_refused_by_name(worm):
    log = await worm.log("orders", segment_size=16)
    await log.append(b"zero")
    await write_over(log, encode([FORMAT + 1, 1, "whatever", "comes"]))
    for call in (log.tail(), log.read(1), log.read_range(0)):
        with pytest.raises(NewerFormat, match="update"):
            await call
    with pytest.raises(NewerFormat):
        await collect(log.listen(0), 2)


async def test_what_a_sequencer_is_asked_is_looked_at(worm):
    from wormspace.log.messages import Ask, read_question

    for ask in (
        Ask((1,), 1, ((1, {"s": 0}),)),
        Ask((1,), 1, ((-1, {"s": 0}),)),
        Ask((2,), 1, ((0, {"s": 2}),)),
    ):
        with pytest.raises(wormspace.UsageError):
            read_question(encode(ask))
    for raw in (b"", b"\xff", msgspec.msgpack.encode(["ask", [-1], 0]), encode(["ask", [1], -5])):
        with pytest.raises(wormspace.UsageError):
            read_question(raw)
