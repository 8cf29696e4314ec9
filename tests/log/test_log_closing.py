"""What is opened is forgotten when it is closed, and whoever waits is told; gaps are told, too."""

import asyncio
import gc
import weakref

import pytest
from test_log_suite import collect

import wormspace
from wormspace.log import LogTrimmed
from wormspace.log.log import Log


@pytest.fixture
def worm(runner):
    async def connect():
        return await wormspace.connect("memory:")

    client = runner.run(connect())
    yield client
    runner.run(client.close())


PUBLIC_CALLS = {
    "append": lambda log: log.append(b"x"),
    "append_many": lambda log: log.append_many([b"x"]),
    "append_many of none": lambda log: log.append_many([]),
    "read": lambda log: log.read(0),
    "read_range": lambda log: log.read_range(0),
    "tail": lambda log: log.tail(),
    "first": lambda log: log.first(),
    "fill": lambda log: log.fill(0),
    "read_stream": lambda log: log.read_stream("s"),
    "streams": lambda log: log.streams(),
    "trim": lambda log: log.trim(0),
    "trim_older": lambda log: log.trim_older(1),
    "trim_larger": lambda log: log.trim_larger(1),
    "info": lambda log: log.info(),
    "load": lambda log: log.cursor("c").load(),
    "commit": lambda log: log.cursor("c").commit(1),
    "listen": lambda log: anext(log.listen()),
    "stand_by": lambda log: log.stand_by(),
}


def test_each_public_call_is_in_the_table():
    public = {
        name
        for name, member in vars(Log).items()
        if not name.startswith("_") and callable(member) and name not in ("open", "close", "cursor")
    }
    assert public - {"name"} <= PUBLIC_CALLS.keys() | {"open"}


async def test_whatever_is_called_on_a_closed_log_is_closed(worm):
    log = await worm.log("orders")
    await log.append(b"x")
    cursor, listening = log.cursor("c"), log.listen(1)
    await log.close()
    await log.close()
    for call in PUBLIC_CALLS.values():
        with pytest.raises(wormspace.Closed, match="closed"):
            await call(log)
    for call in (cursor.load(), cursor.commit(1), anext(listening)):
        with pytest.raises(wormspace.Closed):
            await call


@pytest.mark.parametrize("stream", [None, "s"])
async def test_a_subscription_that_waits_ends_with_its_log(worm, stream):
    log = await worm.log("orders")
    await log.append(b"x", streams=["s"])
    listening = log.listen(stream=stream)
    assert (await anext(listening)).body == b"x"
    waiting = asyncio.ensure_future(anext(listening))
    await asyncio.sleep(0.05)
    await log.close()
    with pytest.raises(wormspace.Closed):
        await asyncio.wait_for(waiting, 5)
    with pytest.raises(StopAsyncIteration):
        await anext(listening)


async def test_appends_that_wait_are_told_when_the_log_is_closed(worm):
    log = await worm.log("orders")
    appending = [asyncio.ensure_future(log.append(b"x")) for _ in range(3)]
    await asyncio.sleep(0)
    await log.close()
    told = await asyncio.wait_for(asyncio.gather(*appending, return_exceptions=True), 5)
    assert all(isinstance(error, wormspace.Closed) for error in told)
    other = await worm.log("orders")
    assert await other.append(b"y") == 0


async def test_logs_that_were_closed_are_forgotten(worm):
    tasks = asyncio.all_tasks()
    opened = []
    for i in range(20):
        log = await worm.log("orders")
        await log.append(b"x", streams=["s"])
        await log.cursor("c").commit(i)
        for stream in (None, "s"):
            await collect(log.listen(0, stream=stream), 1)
        await log.close()
        opened.append(weakref.ref(log))
        del log
    await asyncio.sleep(0.05)
    gc.collect()
    assert not [log for log in opened if log() is not None]
    assert asyncio.all_tasks() == tasks


async def test_subscriptions_that_were_dropped_are_forgotten(worm):
    log = await worm.log("orders")
    await log.append(b"x", streams=["s"])
    tasks = asyncio.all_tasks()
    for stream in (None, "s"):
        for _ in range(20):
            listening = log.listen(stream=stream)
            await anext(listening)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(listening), 0.01)
            del listening
    gc.collect()
    await asyncio.sleep(0.05)
    gc.collect()
    assert len(log._sources) == 0
    assert asyncio.all_tasks() <= tasks


async def test_who_reads_many_segments_keeps_few_handles(worm):
    log = await worm.log("orders", segment_size=4)
    await log.append(b"x")
    for _ in range(400):
        await log.append(b"x")
    await log.read_range(0)
    assert len(log._segmented_log._segments) <= 64


@pytest.mark.parametrize("stream", [None, "s"])
async def test_who_stops_waiting_for_an_entry_loses_none(worm, stream):
    log = await worm.log("orders", segment_size=8)
    listening = log.listen(stream=stream)
    heard, limit = [], 0.0005
    for i in range(60):
        await log.append(b"%d" % i, streams=["s"])
        while len(heard) <= i:
            try:
                heard.append(await asyncio.wait_for(anext(listening), limit))
            except TimeoutError:
                limit = (limit * 1.7) % 0.02 or 0.0005
    assert [int(entry.body) for entry in heard] == list(range(60))


async def test_all_handles_in_an_embedded_space_see_all_streams(worm):
    one, two = await worm.log("orders"), await worm.log("orders")
    hearing = two.listen(stream="s")
    for i in range(10):
        log, other = (one, two) if i % 2 else (two, one)
        assert await log.append(b"%d" % i, streams=["s", f"t{i}"]) == i
        assert await other.streams() == {"s": i} | {f"t{k}": k for k in range(i + 1)}
        assert [int(e.body) for e in await other.read_stream("s")] == list(range(i + 1))
        assert int((await anext(hearing)).body) == i
    await one.close()
    assert await two.append(b"on") == 10


# ------------------------------------------------------------------ gaps


async def test_a_stream_that_was_trimmed_before_it_was_delivered_is_told(worm):
    log = await worm.log("orders", segment_size=4)
    for i in range(40):
        await log.append(b"%d" % i, streams=["s"] if i % 4 == 0 else [])
    listening = log.listen(0, stream="s")
    assert int((await anext(listening)).body) == 0
    behind = log.listen(3, stream="s")
    await log.trim(33)
    assert [int((await anext(listening)).body) for _ in range(9)] == list(range(4, 40, 4))
    with pytest.raises(LogTrimmed) as told:
        await anext(behind)
    assert told.value.first == 33
    with pytest.raises(LogTrimmed):
        await log.read_stream("s", 3)
    assert [e.position for e in await log.read_stream("s")] == [36]


async def test_a_stream_trimmed_while_its_subscriber_is_away_is_told(worm):
    log = await worm.log("orders", segment_size=4)
    await log.append(b"0", streams=["s"])
    listening = log.listen(stream="s")
    await anext(listening)
    for _ in range(20):
        await log.append(b"unseen", streams=["s"])
    tail = await log.tail()
    await log.trim(tail)
    with pytest.raises(LogTrimmed):
        await asyncio.wait_for(collect(listening, 1), 10)


async def test_a_trim_that_takes_nothing_of_a_stream_is_no_gap(worm):
    log = await worm.log("orders", segment_size=4)
    await log.append(b"0", streams=["s"])
    listening, quiet = log.listen(stream="s"), log.listen(stream="quiet")
    assert (await anext(listening)).body == b"0"
    for hearing in (listening, quiet):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(hearing), 0.3)
    for _ in range(30):
        await log.append(b"another's")
    for hearing in (listening, quiet):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(hearing), 0.5)
    await log.trim(20)
    await log.append(b"1", streams=["s", "quiet"])
    assert (await asyncio.wait_for(anext(listening), 10)).body == b"1"
    assert (await asyncio.wait_for(anext(quiet), 10)).body == b"1"


# ------------------------------------------------------------------ idle subscribers


@pytest.mark.parametrize("options", [{}, {"capture_ahead": False}])
async def test_who_only_asks_for_a_stream_takes_no_slot_and_no_right(worm, options):
    log = await worm.log("orders", segment_size=8, **options)
    await log.append(b"x", streams=["s"])
    for _ in range(3):
        for _ in range(9):
            await log.append(b"y")
        end = await log._segmented_log.end()
        for _ in range(20):
            assert [e.position for e in await log.read_stream("s")] == [0]
            await log.streams()
        assert await log._segmented_log.end() == end
