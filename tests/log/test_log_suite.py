"""What a log is, on everything that it runs on."""

import asyncio

import pytest

import wormspace
from wormspace.knobs import KNOBS
from wormspace.log import LogTrimmed, NotWritten
from wormspace.space import Segment


async def collect(source, count):
    entries = []
    async with asyncio.timeout(20):
        async for entry in source:
            entries.append(entry)
            if len(entries) == count:
                return entries
    return entries


async def test_an_entry_is_read_as_it_was_appended(make):
    log = await make()
    position = await log.append(b"body", headers={"by": "ann"}, streams=["a", "b"])
    entry = await log.read(position)
    assert (entry.position, entry.body, dict(entry.headers)) == (position, b"body", {"by": "ann"})
    assert set(entry.streams) == {"a", "b"}
    assert entry.time > 1e9


async def test_an_empty_body_is_an_entry_and_no_hole(make):
    log = await make()
    assert (await log.read(await log.append(b""))).body == b""


async def test_positions_rise_from_zero_across_segments(make):
    log = await make()
    assert [await log.append(b"x") for _ in range(50)] == list(range(50))
    assert await log.tail() == 50


async def test_concurrent_appends_have_positions_of_their_own(make):
    log = await make()
    positions = await asyncio.gather(*(log.append(str(i).encode()) for i in range(200)))
    assert sorted(positions) == list(range(200))
    entries = await log.read_range(0)
    assert [positions[int(e.body)] for e in entries] == list(range(200))


async def test_many_are_appended_in_their_order(make):
    log = await make()
    bodies = [str(i).encode() for i in range(100)]
    positions = await log.append_many(bodies, headers={"k": "v"})
    assert positions == sorted(set(positions))
    entries = await log.read_range(0)
    assert [e.body for e in entries] == bodies
    assert all(e.headers == {"k": "v"} for e in entries)


async def test_nothing_is_appended_where_one_entry_is_too_large(make):
    log = await make()
    with pytest.raises(wormspace.ValueTooLarge):
        await log.append_many([b"x", bytes(2 << 20)])
    assert await log.tail() == 0


async def test_what_is_not_there_yet_is_said(make):
    log = await make()
    with pytest.raises(NotWritten):
        await log.read(0)
    await log.append(b"x")
    with pytest.raises(NotWritten):
        await log.read(1)
    with pytest.raises(wormspace.UsageError):
        await log.read(-1)
    with pytest.raises(NotWritten):
        await log.fill(1)


async def test_the_end_of_a_read_range_is_the_tail(make):
    log = await make()
    await log.append_many([b"x"] * 20)
    assert len(await log.read_range(5, 100)) == 15
    assert await log.read_range(20, 30) == []


async def test_a_subscriber_gets_history_and_then_what_comes(make):
    log = await make()
    await log.append_many([b"old"] * 40)
    hearing = asyncio.create_task(collect(log.listen(), 80))
    await asyncio.sleep(0.05)
    for _ in range(40):
        await log.append(b"new")
    heard = await hearing
    assert [e.position for e in heard] == list(range(80))


async def test_a_subscriber_that_cannot_keep_up_misses_nothing(make):
    log = await make(segment_size=512)

    async def slowly():
        positions = []
        async for entry in log.listen(0):
            positions.append(entry.position)
            if len(positions) % 500 == 0:
                await asyncio.sleep(0.05)
            if len(positions) == 5000:
                return positions
        return positions

    hearing = asyncio.create_task(slowly())
    await asyncio.sleep(0.05)
    for _ in range(50):
        await log.append_many([b"x"] * 100)
    assert await hearing == list(range(5000))


async def test_a_stream_is_read_alone_and_in_order(make):
    log = await make()
    for i in range(60):
        await log.append(str(i).encode(), streams=["third"] if i % 3 == 0 else ["others"])
    assert [int(e.body) for e in await log.read_stream("third")] == list(range(0, 60, 3))
    assert [int(e.body) for e in await log.read_stream("third", 30)] == list(range(30, 60, 3))
    assert await log.streams() == {"others": 59, "third": 57}
    assert await log.read_stream("nobody's") == []


async def test_a_stream_is_followed(make):
    log = await make()
    await log.append(b"0", streams=["s"])
    hearing = asyncio.create_task(collect(log.listen(stream="s"), 10))
    for i in range(1, 10):
        await log.append(b"other")
        await log.append(str(i).encode(), streams=["s"])
    assert [int(e.body) for e in await hearing] == list(range(10))


async def test_streams_survive_their_sequencer(make, worm, name):
    log = await make()
    for i in range(40):
        await log.append(str(i).encode(), streams=["s", f"only-{i}"])
    await log.close()
    again = await make()
    await again.append(b"40", streams=["s"])
    assert [int(e.body) for e in await again.read_stream("s")] == list(range(41))
    assert [int(e.body) for e in await again.read_stream("only-3")] == [3]


async def test_streams_that_found_no_room_in_a_seal_are_found_all_the_same(make, monkeypatch):
    """Many are named in one segment, some again in later ones, by one sequencer after another."""
    monkeypatch.setattr(KNOBS, "log_table_bytes", 200)
    names = [f"stream-{i}" for i in range(40)]
    expected = {name: [] for name in names}
    for term in range(3):
        log = await make()
        for i, name in enumerate(names):
            if term == 0 or i % (term + 3) == 0:
                position = await log.append(name.encode(), streams=[name])
                expected[name].append(position)
        await log.close()
    again = await make()
    for name in names:
        assert [e.position for e in await again.read_stream(name)] == expected[name], name
    assert await again.read_stream("nobody's") == []


async def test_a_cursor_keeps_what_was_committed_last(make):
    log = await make()
    await log.append_many([b"x"] * 600)
    cursor = log.cursor("billing")
    assert await cursor.load() == 0
    for position in range(600):
        await cursor.commit(position)
    assert await cursor.load() == 599
    assert await log.cursor("shipping").load() == 0
    again = await make()
    assert await again.cursor("billing").load() == 599
    await again.cursor("billing").commit(5)
    await cursor.commit(7)
    assert await again.cursor("billing").load() == 7


async def test_trimming_by_position_takes_what_is_below_and_no_more(make):
    log = await make()
    await log.append_many([b"x"] * 60)
    assert await log.trim(40) == 40
    with pytest.raises(LogTrimmed) as trimmed:
        await log.read(39)
    assert trimmed.value.first == 40
    with pytest.raises(LogTrimmed):
        await log.read_range(0, 60)
    with pytest.raises(LogTrimmed):
        await collect(log.listen(0), 1)
    assert [e.position for e in await collect(log.listen(), 20)] == list(range(40, 60))
    assert await log.trim(10) == 40, "a trim point never goes back"
    with pytest.raises(NotWritten):
        await log.trim(61)
    assert await log.append(b"y") == 60


async def test_all_can_be_trimmed_and_the_log_goes_on(make):
    log = await make()
    await log.append_many([b"x"] * 33, streams=["s"])
    assert await log.trim(33) == 33
    assert await log.tail() == 33
    await log.close()
    again = await make()
    position = await again.append(b"y", streams=["s"])
    assert position >= 33
    assert [e.position for e in await again.read_range(33)] == [position]
    assert [e.position for e in await again.read_stream("s")] == [position]


async def test_trimming_by_size_keeps_the_newest(make):
    log = await make()
    await log.append_many([bytes(10)] * 100)
    assert await log.trim_larger(250) == 75
    assert (await log.info()).bytes == 250
    assert await log.trim_larger(10_000) == 75


async def test_trimming_by_age(make):
    log = await make()
    now = 1000.0
    log._clock = log._appender._clock = lambda: now
    await log.append_many([b"old"] * 40)
    now += 60
    first = await log.append(b"new")
    assert await log.trim_older(1000) == 0
    assert await log.trim_older(60) == 0
    assert await log.trim_older(59) == first


async def test_a_hole_is_filled_by_whoever_meets_it_and_stays(make):
    log = await make()
    await log.append(b"a")
    position = await leave_a_hole(log)
    await log.append(b"c")
    assert [e.body for e in await collect(log.listen(0), 2)] == [b"a", b"c"]
    assert await log.read(position) is None
    assert await log.fill(position) is None
    assert [e.body for e in await log.read_range(0)] == [b"a", b"c"]


async def test_a_range_that_has_a_hole_is_read_after_the_patience(make):
    log = await make()
    await leave_a_hole(log)
    await log.append(b"b")
    assert [e.body for e in await log.read_range(0)] == [b"b"]


async def test_a_position_that_was_filled_is_not_given_up_by_its_appender(make):
    log = await make()
    await log.append(b"a")
    segmented_log = log._segmented_log
    await segmented_log.fill(1, 4)  # steals what the sequencer is about to hand out
    positions = [await log.append(b"b"), await log.append(b"c")]
    assert positions == sorted(positions)
    assert positions[0] >= 4
    assert [e.body for e in await log.read_range(0)] == [b"a", b"b", b"c"]


async def test_a_second_opening_must_agree_about_the_segments(make, worm, name):
    log = await make()
    with pytest.raises(wormspace.UsageError):
        await worm.log(name, segment_size=64)
    assert (await worm.log(name)).segment_size == log.segment_size


async def leave_a_hole(log, bodies=(b"never written",)):
    """Positions are handed out, and their appender dies; returns the first of them."""
    holes = []

    async def die(drafts, given, left):
        holes.append(given.first)
        raise wormspace.Unavailable("the appender died")

    log._appender._write_all = die
    with pytest.raises(wormspace.Unavailable):
        await log.append_many(bodies)
    del log._appender._write_all
    return holes[0] - getattr(log, "base", 0)


def meanwhile(monkeypatch, log, call, happens):
    """Just before `Segment.<call>` is first made in the log's registers, `happens()`."""
    real, over = getattr(Segment, call), False

    async def interrupted(segment, *args, **options):
        nonlocal over
        if segment.space.name == log.name and not over:
            over = True
            await happens()
        return await real(segment, *args, **options)

    monkeypatch.setattr(Segment, call, interrupted)


async def test_the_tail_is_found_though_its_segment_is_filled_and_trimmed_meanwhile(
    make, monkeypatch
):
    log = await make()
    for body in (b"one", b"two", b"three"):
        await log.append(body)
    reader = await make()

    async def fill_and_trim():
        for _ in range(40):
            await log.append(b"more")
        await log.trim(41)

    meanwhile(monkeypatch, log, "read_range", fill_and_trim)
    assert await reader.tail() == 43
    assert await log.first() == 41


@pytest.mark.parametrize("how", ["read", "fill", "read_range", "listen"])
async def test_what_is_trimmed_while_it_is_looked_for_is_no_hole(make, monkeypatch, how):
    log = await make()
    for body in (b"one", b"two", b"three", b"four", b"five"):
        await log.append(body)
    log = await make()
    meanwhile(monkeypatch, log, "read", lambda: log.trim(3))
    looks = {"listen": lambda position: anext(log.listen(position))}
    with pytest.raises(LogTrimmed):
        await looks.get(how, getattr(log, how, None))(1)
