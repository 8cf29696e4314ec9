"""A subscription over a log in memory: what comes late, out of order, or never."""

import asyncio
import gc
import random
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from slots import Slots, Start, batch_of, in_time

from wormspace.errors import Closed, Unavailable
from wormspace.knobs import turned
from wormspace.log.errors import DamagedEntry, LogTrimmed
from wormspace.log.reading import Reader
from wormspace.log.records import HOLE
from wormspace.log.subscribing import Source, Subscription, WholeLog
from wormspace.log.trim_point import Place
from wormspace.runtime.retrying import FOLLOW_RETRY_S
from wormspace.space import Address, Allocated, SegmentsTrimmed, Written

PATIENCE_S = 3.0


class Live(Slots):
    """Slots that can be listened to.

    Attributes:
        listening: where those who listen began, and their events that are under way.
        refusals: what listening, and then reading, fails with, one after the other.
    """

    def __init__(self, slots=0, many=1, size=8):
        super().__init__(0, slots=0, size=size)
        self.space.listen = self.listen
        self.space.client = SimpleNamespace(rng=random.Random(0))
        self.listening, self.refusals, self.listened = [], [], 0
        self.before = self.maybe_refuse
        for slot in range(slots):
            self.put(slot, batch_of(slot * many, many))

    def maybe_refuse(self, start, stop):
        if self.refusals:
            raise self.refusals.pop()

    def write(self, slot, batch=None):
        """A batch, or a hole, is written, and all who listen learn of it."""
        if batch is None:
            self.values[slot] = HOLE
        else:
            self.put(slot, batch)
        self.tell(Written(Address.of(slot, self.size), self.values[slot]))

    def tell(self, event):
        for _, events in self.listening:
            events.put_nowait(event)

    async def fill(self, start, stop):
        empty = [slot for slot in range(start, stop) if slot not in self.values]
        await super().fill(start, stop)
        for slot in empty:
            self.write(slot)

    @asynccontextmanager
    async def listen(self, start):
        self.listened += 1
        mine = (start.position(self.size), asyncio.Queue())
        self.listening.append(mine)
        try:
            yield self._events(mine)
        finally:
            self.listening.remove(mine)

    async def _events(self, mine):
        start, events = mine
        for slot in sorted(self.values):
            if slot >= start:
                events.put_nowait(Written(Address.of(slot, self.size), self.values[slot]))
        while True:
            event = await events.get()
            if isinstance(event, Exception):
                raise event
            yield event


def gone(start):
    return lambda position: LogTrimmed(f"position {position} is gone", start.at.position)


def follow(live, begin=None, start=None):
    """A subscription and its source."""
    start = start or Start()
    source = WholeLog(Reader(live, start, PATIENCE_S), begin, gone(start))
    return Subscription(source), source


async def take(stream, count):
    return [(await anext(stream)).position for _ in range(count)]


async def nothing_comes(stream, seconds=1.0):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await anext(stream)


@pytest.mark.parametrize("behind", [1, 4, 256])
def test_each_entry_comes_once_and_in_order_however_it_was_written(behind):
    async def one(seed):
        rng, live, position = random.Random(seed), Live(), 0
        batches = {}
        for slot in range(40):
            if rng.random() < 0.8:
                batches[slot] = batch_of(position, rng.randrange(1, 4))
                position = batches[slot].end

        async def write():
            slots = list(range(40))
            for slot in sorted(slots, key=lambda slot: slot + rng.random() * 4):
                await asyncio.sleep(rng.choice((0, 0, 0.3)))
                live.write(slot, batches.get(slot))

        writing = asyncio.create_task(write())
        start = rng.randrange(position)
        stream, _ = follow(live, start)
        got = []
        while len(got) < position - start:
            await asyncio.sleep(rng.choice((0, 0, 0.5)))
            got.append(await anext(stream))
        assert got == live.between(start, position)
        assert live.filled == []
        await writing
        await nothing_comes(stream)
        await stream.close()
        await asyncio.sleep(0)
        assert live.listening == []

    async def work():
        for seed in range(6):
            await one(seed)

    with turned(log_behind_slots=behind):
        in_time(work)


def test_it_reads_what_is_behind_in_pages_and_listens_when_it_has_caught_up():
    async def work():
        live = Live(100, size=1000)
        stream, source = follow(live, 0)
        assert await take(stream, 100) == list(range(100))
        assert live.reads == [(0, 1), (0, 64), (64, 576)]
        assert live.listened == 0
        live.reads.clear()
        await nothing_comes(stream)
        assert [start for start, _ in live.listening] == [100]
        assert len(live.reads) == 1, "nothing behind it: it listens"
        live.reads.clear()
        for n in range(5):
            live.write(100 + n, batch_of(100 + n, 1))
            assert await take(stream, 1) == [100 + n]
        assert live.reads == []
        assert source._reader._reached == 105

    in_time(work)


def test_it_begins_where_the_log_does_or_where_it_is_told_to():
    async def work():
        start = Start()
        live = Live(20, many=3)
        start.true = Place(24, 8)
        live.trimmed = 1
        for begin, first in ((None, 24), (24, 24), (25, 25), (59, 59)):
            stream, _ = follow(live, begin, start)
            assert await take(stream, 1) == [first]
        for begin in (0, 23):
            stream, _ = follow(live, begin, start)
            with pytest.raises(LogTrimmed, match=f"position {begin} "):
                await anext(stream)

    in_time(work)


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("caught_up", [False, True])
def test_what_stays_empty_is_filled_after_the_patience_and_no_sooner(ahead, caught_up):
    async def work():
        loop, live = asyncio.get_running_loop(), Live(2)
        stream, source = follow(live, 0)
        await take(stream, 2)
        if caught_up:
            await nothing_comes(stream)
        begins = loop.time()
        live.write(2 + ahead, batch_of(9, 1))
        assert await take(stream, 1) == [9]
        assert live.filled == [(2, 2 + ahead)]
        assert PATIENCE_S <= loop.time() - begins <= 1.2 * PATIENCE_S + 0.05
        live.write(2 + ahead + 2, batch_of(11, 1))
        begins = loop.time()
        assert await take(stream, 1) == [11], "each is given as long"
        assert PATIENCE_S <= loop.time() - begins <= 1.2 * PATIENCE_S + 0.05
        assert source._reader._reached == 12

    in_time(work)


@pytest.mark.parametrize("caught_up", [False, True])
def test_what_comes_within_the_patience_is_not_filled(caught_up):
    async def work():
        loop, live = asyncio.get_running_loop(), Live(2)
        stream, _ = follow(live, 0)
        await take(stream, 2)
        if caught_up:
            await nothing_comes(stream)
        live.write(3, batch_of(3, 1))
        waiting = asyncio.create_task(anext(stream))
        for slot in (5, 7, 9):
            await asyncio.sleep(0.9)
            live.write(slot, batch_of(slot, 1))
            assert not waiting.done()
        live.write(2, batch_of(2, 1))
        began = loop.time()
        assert (await waiting).position == 2
        assert loop.time() - began <= 0.02
        assert live.filled == []

    in_time(work)


def test_who_has_overheard_something_does_not_wait_for_it():
    async def work():
        loop, live = asyncio.get_running_loop(), Live(1)
        stream, _ = follow(live, 0)
        await take(stream, 1)
        await nothing_comes(stream)
        waiting = asyncio.create_task(anext(stream))
        live.write(3, batch_of(3, 1))
        await asyncio.sleep(0.1)
        live.write(1)
        live.write(2, batch_of(2, 1))
        began = loop.time()
        assert (await waiting).position == 2
        assert (loop.time(), live.filled) == (began, [])

    with turned(log_behind_slots=1):
        in_time(work)


def test_who_falls_behind_what_it_hears_reads_and_listens_again():
    async def work():
        live = Live(1, size=100)
        stream, source = follow(live, 0)
        await take(stream, 1)
        await nothing_comes(stream)
        assert live.listened == 1
        for slot in range(1, 8):
            live.write(slot, batch_of(slot, 1))
        await asyncio.sleep(0.1)
        assert live.listening == [], "it has more than it may keep"
        assert len(source._ear.arrived) == 5
        live.reads.clear()
        assert [e.position for e in await source.more()] == [1, 2, 3, 4, 5], "all it has at once"
        assert live.reads == []
        assert await take(stream, 2) == [6, 7]
        assert live.reads != []
        await nothing_comes(stream)
        assert [start for start, _ in live.listening] == [8]

    with turned(log_behind_slots=4):
        in_time(work)


def test_a_seal_is_no_slot_and_other_news_is_passed_over():
    async def work():
        live = Live(1)
        stream, source = follow(live, 0)
        await take(stream, 1)
        await nothing_comes(stream)
        live.tell(Written(Address(0, live.size), b"the seal"))
        live.tell(Allocated(1, 9, b""))
        await asyncio.sleep(0.1)
        assert source._ear.arrived == {}
        assert source._ear.is_quiet
        live.write(1, batch_of(1, 1))
        assert await take(stream, 1) == [1]

    in_time(work)


@pytest.mark.parametrize("caught_up", [False, True])
@pytest.mark.parametrize("place", [Place(3, 8), Place(3, 2), Place(2, 2), Place(2, 8)])
def test_where_its_place_was_trimmed_it_goes_on_if_no_entry_is_lost(caught_up, place):
    async def work():
        start, live = Start(), Live(2)
        stream, source = follow(live, 0, start)
        await take(stream, 2)
        if caught_up:
            await nothing_comes(stream)
            live.tell(SegmentsTrimmed(0, 1))
        start.true, live.trimmed = place, 1
        live.put(8, batch_of(place.position, 1))
        if place != Place(2, 8):
            with pytest.raises(LogTrimmed, match=r"position 2 "):
                await anext(stream)
        else:
            assert await take(stream, 1) == [2]
        assert caught_up or source._ear is None

    in_time(work)


@pytest.mark.parametrize("slots", [8, 12])
def test_what_was_trimmed_below_its_place_is_no_loss(slots):
    async def work():
        start = Start()
        live = Live(slots)
        stream, source = follow(live, 0, start)
        await take(stream, slots)
        await nothing_comes(stream)
        start.true, live.trimmed = Place(8, 8), 1
        live.tell(SegmentsTrimmed(0, 1))
        await nothing_comes(stream)
        assert source._ear._dropped == 0
        live.write(slots, batch_of(slots, 1))
        assert await take(stream, 1) == [slots]
        assert live.listened == 1

    in_time(work)


def test_servers_that_are_away_are_asked_again():
    async def work():
        loop, live = asyncio.get_running_loop(), Live(2)
        stream, _ = follow(live, 0)
        live.refusals = [Unavailable("away")] * 3
        assert await take(stream, 2) == [0, 1]
        assert loop.time() == pytest.approx(3 * FOLLOW_RETRY_S)
        await nothing_comes(stream)
        live.listening[0][1].put_nowait(Unavailable("away"))
        await nothing_comes(stream)
        assert (live.listened, len(live.listening)) == (2, 1)
        live.write(2, batch_of(2, 1))
        assert await take(stream, 1) == [2]

    in_time(work)


@pytest.mark.parametrize("caught_up", [False, True])
def test_positions_that_cannot_be_read_end_it_and_say_where_to_go_on(caught_up):
    async def work():
        live = Live(2)
        stream, _ = follow(live, 0)
        await take(stream, 2)
        if caught_up:
            await nothing_comes(stream)
        live.values[2] = b"garbage"
        live.tell(Written(Address.of(2, live.size), b"garbage"))
        await asyncio.sleep(0)
        live.write(3, batch_of(2, 1))
        assert await take(stream, 1) == [2], "nothing is missing there"
        live.values[4] = b"garbage"
        live.tell(Written(Address.of(4, live.size), b"garbage"))
        live.write(5, batch_of(7, 1))
        with pytest.raises(DamagedEntry) as told:
            await anext(stream)
        assert (told.value.position, told.value.next) == (3, 7)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        stream, _ = follow(live, 0)
        assert await take(stream, 3) == [0, 1, 2], "what is before it comes first"
        with pytest.raises(DamagedEntry):
            await anext(stream)

    in_time(work)


def test_what_was_heard_before_damage_comes_and_then_the_damage_is_told():
    async def work():
        live = Live(2)
        stream, _ = follow(live, 0)
        await take(stream, 2)
        await nothing_comes(stream)
        live.write(2, batch_of(2, 1))
        live.values[3] = b"garbage"
        live.tell(Written(Address.of(3, live.size), b"garbage"))
        live.write(4, batch_of(5, 1))
        assert await take(stream, 1) == [2]
        with pytest.raises(DamagedEntry) as told:
            await anext(stream)
        assert (told.value.position, told.value.next) == (3, 5)

    in_time(work)


def test_who_waits_is_told_that_the_log_was_closed():
    async def work():
        for caught_up in (False, True):
            live = Live(2)
            stream, source = follow(live, 0)
            if caught_up:
                await take(stream, 2)
            else:
                live.refusals = [Unavailable("away")] * 9
            waiting = asyncio.create_task(anext(stream))
            await asyncio.sleep(0.05)
            source.end(Closed("over"))
            with pytest.raises(Closed, match="over"):
                await waiting
            assert live.listening == []
            await asyncio.sleep(1)
            assert source._working is None

    in_time(work)


class Slow(Source):
    """A step takes a second, and counts."""

    steps = done = 0
    error = None

    async def step(self):
        self.steps += 1
        await asyncio.sleep(1)
        self.done += 1
        if self.error:
            raise self.error
        return [self.done]


def test_a_failure_that_nobody_waits_for_any_more_is_no_news():
    class Fails(Source):
        async def step(self):
            await asyncio.sleep(0)
            raise Unavailable("away")

    async def main():
        complaints = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        source = Fails()
        waiting = asyncio.create_task(source.more())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0.01)
        assert source._working.done()
        source._working = waiting = None
        gc.collect()
        assert complaints == []

    asyncio.run(main())


def test_a_step_goes_on_when_its_waiter_is_gone_and_ends_when_it_is_closed():
    async def work():
        source = Slow()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await source.more()
        await asyncio.sleep(5)
        assert (source.steps, source.done) == (1, 1)
        assert await source.more() == [1]
        assert await source.more() == [2]
        source.error = Unavailable("away")
        with pytest.raises(Unavailable):
            await source.more()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await source.more()
        await asyncio.sleep(1)
        source._working = source.error = None
        assert await source.more() == [5]
        waiting = asyncio.create_task(source.more())
        await asyncio.sleep(0.5)
        source.close()
        assert await waiting == []
        assert await source.more() == [], "nothing is begun any more"
        assert (source.steps, source.done) == (6, 5)
        source.end(Closed("over"))
        with pytest.raises(Closed):
            await source.more()

    in_time(work)
