"""The calls of a log, one by one, on an embedded client in virtual time."""

import asyncio

import pytest

from virtual import Watch, virtually
from wormspace.errors import Closed, Trimmed, Unavailable, UsageError
from wormspace.log import Log
from wormspace.log.errors import LogTrimmed, NotWritten
from wormspace.log.log import GRACE_S
from wormspace.log.messages import Ask
from wormspace.log.records import Entry
from wormspace.log.sequencer_client import OwnPositions, SequencerClient
from wormspace.log.trim_point import Place

SIZE = 16


class Clock:
    """The time since 1970, as a test says it is."""

    now_s = 1000.0

    def __call__(self):
        return self.now_s


def calling(work, **options):
    """Runs `work(log, worm)` on a log of its own, whose clock is `log._clock`."""

    async def main(worm):
        opened = {"sole": True, "segment_size": SIZE, "clock": Clock(), **options}
        async with await Log.open(worm, "orders", **opened) as log:
            await work(log, worm)
        assert log._closed

    virtually(main)


async def leave_a_hole(log):
    """Positions are handed out, and nobody writes them."""
    await log._sequencing.ask(Ask((2,), 2), asyncio.get_running_loop().time() + 1)


def test_what_is_appended_is_read_as_it_was():
    async def work(log, worm):
        log._clock.now_s = 12.5
        assert await log.append(b"a", headers={"k": "v"}, streams=["s", "t"]) == 0
        assert await log.append(b"b") == 1
        assert await log.append_many([b"c", b"d"], headers={"x": "y"}, streams=["s"]) == [2, 3]
        assert await log.append_many([]) == []
        entries = [
            Entry(0, b"a", {"k": "v"}, ("s", "t"), 12.5),
            Entry(1, b"b", {}, (), 12.5),
            Entry(2, b"c", {"x": "y"}, ("s",), 12.5),
            Entry(3, b"d", {"x": "y"}, ("s",), 12.5),
        ]
        assert [await log.read(at) for at in range(4)] == entries
        assert await log.read_range(0) == await log.read_range(0, 99) == entries
        assert await log.read_range(1, 3) == entries[1:3]
        assert await log.read_range(2) == entries[2:]
        assert await log.read_stream("s") == [entries[0], *entries[2:]]
        assert await log.read_stream("s", 1) == entries[2:]
        assert await log.read_stream("t") == entries[:1]
        assert await log.streams() == {"s": 3, "t": 0}
        assert (await log.first(), await log.tail()) == (0, 4)
        info = await log.info()
        assert (info.name, info.first, info.tail, info.segment_size) == ("orders", 0, 4, SIZE)
        assert (info.bytes, info.oldest, info.newest) == (4 + 2 + 2 * 2, 12.5, 12.5)
        subscription = log.listen(1)
        assert [await anext(subscription) for _ in range(3)] == entries[1:]
        assert await anext(log.listen()) == entries[0]
        stream = log.listen(1, stream="s")
        assert [await anext(stream) for _ in range(2)] == entries[2:]

    calling(work)


def test_what_is_not_there_yet_is_said_and_what_nobody_writes_becomes_a_hole():
    async def work(log, worm):
        await log.append(b"a")
        await leave_a_hole(log)
        for position in (1, 3, 99):
            with pytest.raises(NotWritten, match=f"nothing is at position {position} of log 'ord"):
                await log.read(position)
            with pytest.raises(NotWritten, match=f"position {position} of log 'orders' is not bel"):
                await log.fill(position)
        assert await log.append(b"b") == 3
        with pytest.raises(NotWritten):
            await log.read(1)
        assert await log.fill(1) is None
        assert await log.read(1) is None
        assert await log.read(2) is None
        assert (await log.fill(3)).body == b"b"
        await leave_a_hole(log)
        await log.append(b"c")
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert [entry.position for entry in await log.read_range(0)] == [0, 3, 6]
        assert 2.0 <= loop.time() - began <= 2.1

    calling(work, patience_s=2.0)


def test_a_cursor_knows_what_was_delivered_through_its_log():
    async def work(log, worm):
        await log.append_many([b"x"] * 5)
        other = await Log.open(worm, "orders", sole=True)
        cursor = other.cursor("c")
        assert other.cursor("c") is cursor
        assert await cursor.load() == 0
        await cursor.commit(0)
        entry = await other.read(2)
        watch = Watch(worm)
        await cursor.commit(entry.position + 1)
        assert watch.clear() == {"write": 1}, "nobody looks for the end of what was delivered"
        await cursor.commit(5)
        assert watch.clear()["write"] == 1
        with pytest.raises(NotWritten):
            await cursor.commit(6)
        assert await log.cursor("c").load() == 5
        assert await log.cursor("d").load() == 0
        for name in ("", "c" * 255, 7, []):
            with pytest.raises(UsageError):
                log.cursor(name)
        await other.close()

    calling(work)


def test_a_log_is_trimmed_by_position_age_and_size():
    async def work(log, worm):
        for n in range(40):
            log._clock.now_s = 1000.0 + n
            await log.append(b"ten bytes!")
        with pytest.raises(NotWritten, match="position 41 is above the tail"):
            await log.trim(41)
        for position in (-1, "3", 3.0):
            with pytest.raises(UsageError, match="a position is"):
                await log.trim(position)
        assert await log.trim(3) == await log.first() == 3
        assert await worm.space("orders").head() == 0
        log._clock.now_s = 1045.0
        assert await log.trim_older(60) == 3
        assert await log.trim_older(28) == 17, "of just this age"
        assert await worm.space("orders").head() == 1
        assert await log.trim_larger(230) == 17, "they have just this size"
        assert (await log.info()).bytes == 230
        assert await log.trim_larger(229) == 18
        assert await log.trim_larger(10) == 39
        assert await log.trim_older(0) == 40
        assert await log.trim_larger(0) == 40
        for call in (log.trim_older, log.trim_larger):
            with pytest.raises(UsageError, match=r"an? (age|size) is a number from 0 on, not -1"):
                await call(-1)
        for call in (log.read, log.read_range, log.fill, log.read_stream):
            given = ("s", 5) if call == log.read_stream else (5,)
            with pytest.raises(LogTrimmed) as told:
                await call(*given)
            assert told.value.first == 40
        assert await log.append(b"x") == 40
        assert (await anext(log.listen())).position == 40
        with pytest.raises(LogTrimmed, match=r"position 39 of log 'orders' was trimmed; .* now 40"):
            await anext(log.listen(39))

    calling(work)


def test_what_another_one_trimmed_is_told_with_where_the_log_begins_now():
    async def work(log, worm):
        await log.append_many([b"x"] * 5)
        for _ in range(20):
            await log.append(b"y")
        other = await Log.open(worm, "orders", sole=True)
        await other.trim(8)
        assert (await log.read(20)).body == b"y"
        assert (await log.read(5)).body == b"y", "its segment is still there"
        await other.trim(24)
        with pytest.raises(LogTrimmed) as told:
            await log.read(6)
        assert told.value.first == 24
        await other.trim(25)
        with pytest.raises(LogTrimmed) as told:
            await log.read(7)
        assert told.value.first == 25, "it looks before it says so"
        await other.close()

    calling(work)


def test_what_is_trimmed_below_a_read_is_no_reason_to_fail():
    async def work(log, worm):
        known, results = log._trim_point, [Trimmed("gone"), Trimmed("gone"), "read"]
        moves = [Place(3, 0), Place(7, 0)]

        async def find():
            if moves:
                known.at = moves.pop(0)
            return known.at

        async def read(position):
            result = results.pop(0)
            if isinstance(result, Exception):
                raise result
            return (position, result)

        known.find = find
        assert await log._still_there(7, read) == (7, "read")
        results += [Trimmed("gone")]
        with pytest.raises(LogTrimmed, match="position 7 "):
            await log._still_there(7, read)
        moves.append(Place(9, 0))
        results += [Trimmed("gone")]
        with pytest.raises(LogTrimmed, match="the first is now 9"):
            await log._still_there(8, read)
        assert results == []

    calling(work)


def test_a_call_that_takes_too_long_says_so_and_no_other_time_out_is_taken_for_it():
    async def work(log, worm):
        async def for_ever():
            await asyncio.Event().wait()

        loop, log._reader.tail = asyncio.get_running_loop(), for_ever
        with pytest.raises(Unavailable, match="tail of log 'orders': not done in time"):
            await log.tail(timeout=2)
        assert loop.time() == 2 + GRACE_S

        async def impatient():
            raise TimeoutError("of its own")

        log._reader.tail = impatient
        with pytest.raises(TimeoutError, match="of its own"):
            await log.tail(timeout=2)
        with pytest.raises(UsageError):
            await log.tail(timeout=-1)

    calling(work)


def test_who_opens_chooses_where_positions_come_from():
    async def work(log, worm):
        lone = await Log.open(worm, "orders", sequencer="none")
        assert isinstance(lone._sequencing, OwnPositions)
        assert not lone._sequencing._sequencer._sole
        assert not lone._sequencing._sequencer._unsafe
        loose = await Log.open(worm, "orders", sequencer="none", capture_ahead=False)
        assert loose._sequencing._sequencer._unsafe
        assert log._sequencing._sequencer._sole
        beside = await Log.open(worm, "orders", sole=True, beside=lambda: log)
        assert beside._sequencing is log._sequencing
        assert log._sequencing.users == 2
        alone = await Log.open(worm, "orders", sequencer="none", beside=lambda: log)
        assert alone._sequencing is not log._sequencing
        await beside.close()
        late = await Log.open(worm, "orders", sole=True, beside=lambda: beside)
        assert late._sequencing is not log._sequencing
        assert log._sequencing.users == 1
        await log.append(b"x")
        shared = await Log.open(worm, "orders", host="here", port=77, capture_ahead=False)
        assert isinstance(shared._sequencing, SequencerClient)
        sequencing = shared._sequencing
        assert (sequencing._name, sequencing._host, sequencing._port) == ("orders", "here", 77)
        assert sequencing._cell._segmented_log.space.name == "orders/sequencer"
        assert sequencing._may_become

        async def may():
            return True

        made = shared._sequencing._make(may)
        assert (made._unsafe, made._sole, made._may_renew) == (True, False, may)
        guest = await Log.open(worm, "orders", sequencer="elsewhere")
        assert not guest._sequencing._may_become
        assert not guest._sequencing._make(may)._unsafe
        other = await Log.open(worm, "orders", sole=True, beside=lambda: guest)
        assert isinstance(other._sequencing, OwnPositions)
        with pytest.raises(UsageError, match="log 'orders' has no sequencer that could be shared"):
            await log.stand_by()
        shared._sequencing.stand_by = may
        await shared.stand_by()
        patient = await Log.open(worm, "orders", sequencer="none", patience_s=7)
        assert patient._reader.patience_s == 7
        for opened in (lone, loose, alone, late, other, patient):
            await opened.close()

    calling(work)


def test_opening_that_takes_too_long_says_so(monkeypatch):
    async def work(log, worm):
        async def for_ever(*given):
            await asyncio.Event().wait()

        monkeypatch.setattr("wormspace.log.log.configure", for_ever)
        with pytest.raises(Unavailable, match="opening of log 'orders': not done in time"):
            await Log.open(worm, "orders", timeout=3)
        assert asyncio.get_running_loop().time() == 3

    calling(work)


def test_closing_ends_everything_once_and_says_so_to_whoever_asked():
    async def work(log, worm):
        closed = []
        one = await Log.open(worm, "orders", sole=True, on_close=closed.append)
        await one.append(b"x")
        whole, stream, cursor = one.listen(1), one.listen(1, stream="s"), one.cursor("c")
        await cursor.commit(1)
        waiting = [asyncio.create_task(anext(each)) for each in (whole, stream)]
        await asyncio.sleep(1)
        await one.close()
        await one.close()
        assert closed == [one]
        for task in waiting:
            with pytest.raises(Closed, match="log 'orders' was closed here"):
                await task
        assert cursor._cell._term is None
        assert one._sequencing._sequencer._term is None
        for call in (one.tail, lambda: one.append_many([]), lambda: one.read(0), one.stand_by):
            with pytest.raises(Closed):
                await call()
        for call in (one.listen, lambda: one.cursor("d")):
            with pytest.raises(Closed):
                call()
        broken = await Log.open(worm, "orders", sole=True, on_close=closed.append)

        async def fail():
            raise Unavailable("away")

        broken._trim_point.close = fail
        with pytest.raises(Unavailable):
            await broken.close()
        assert closed == [one, broken], "whatever happened"

    calling(work)
