"""Reading and following one stream, given what a sequencer would say of it, in virtual time."""

import asyncio
import itertools
import random
from types import SimpleNamespace

import pytest
from slots import Slots, Start, in_time

from wormspace.errors import Trimmed, Unavailable
from wormspace.log.errors import DamagedEntry, LogTrimmed
from wormspace.log.following import POLL_MAX_S, Found, StreamReader
from wormspace.log.messages import Last, LastOf, Names, NamesOf, Pong
from wormspace.log.reading import Reader
from wormspace.log.records import HOLE, BatchRecord, Group, Latest
from wormspace.log.segmented_log import POLL_S
from wormspace.log.streams import NOWHERE
from wormspace.log.subscribing import Subscription
from wormspace.log.trim_point import Place

PATIENCE_S = 3.0


class Log:
    """A log in memory and its sequencer: two entries a batch, of which the first is of no stream.

    Attributes:
        asked: when a sequencer was asked, and what, and until when.
    """

    def __init__(self, streams, lost=()):
        self.slots, self.start = Slots(0, slots=0), Start()
        self.given = {}
        self.asked, self.answers = [], None
        self.position = 0
        for slot, names in enumerate(streams):
            self.append(names, slot in lost)
        client = SimpleNamespace(deadline=lambda timeout: self.now() + 10)
        self.reader = Reader(self.slots, self.start, PATIENCE_S)
        self.streams = StreamReader(client, self.reader, self, self.gone)

    def append(self, names, is_lost=False):
        """Hand out the next slot, and write it unless it is lost; returns the batch."""
        slot = 1 + max(
            [*self.slots.values, *(s for g in self.given.values() for s, _ in g)], default=-1
        )
        links = {name: tuple(s for s, _ in self.given.get(name, [])[:-3:-1]) for name in names}
        groups = (Group(1, {}, ()), Group(1, {}, tuple(names)))
        batch = BatchRecord(self.position, 0, b"w", slot, 0, [b"none", b"%d" % slot], groups, links)
        self.position = batch.end
        for name in names:
            self.given.setdefault(name, []).append((slot, batch.end - 1))
        if not is_lost:
            self.slots.put(slot, batch)
        return batch

    def now(self):
        return asyncio.get_running_loop().time()

    def gone(self, position):
        return LogTrimmed(f"position {position} is gone", self.start.at.position)

    def mine(self, name, start=0):
        """What the stream has from a position on."""
        return [e for e in self.slots.between(start, self.position) if name in e.streams]

    async def ask(self, question, deadline):
        self.asked.append((self.now(), question, deadline))
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if isinstance(question, NamesOf):
            return Names({n: Latest(g[-1][1], ()) for n, g in self.given.items()})
        assert isinstance(question, LastOf)
        given = self.given.get(question.stream, [])
        slots = tuple(slot for slot, _ in given[:-3:-1])
        return Last(Latest(given[-1][1], slots) if given else NOWHERE, self.position)


def some(seed, slots=20):
    rng = random.Random(seed)
    return [rng.sample("abc", rng.choice((0, 1, 1, 2))) for _ in range(slots)]


def test_a_stream_has_the_entries_that_name_it_from_a_position_on():
    async def work():
        for seed in range(5):
            log = Log(some(seed))
            for name in "abcd":
                for start in (None, *range(0, log.position + 2, 3)):
                    assert await log.streams.read(name, start, 7.0) == log.mine(name, start or 0)
                    assert log.asked[-1][1:] == (LastOf(name), 7.0)
            assert log.slots.filled == []
            assert log.reader._reached <= log.position
        assert log.now() == 0

    in_time(work)


def test_what_a_look_found_says_where_the_next_goes_on():
    async def work():
        log = Log(["a", "b", "a", "b"])
        everything = await log.streams.look("a", 0, None, 1.0)
        assert everything == Found(log.mine("a"), 2, 8)
        assert log.reader._reached == 6
        log.slots.reads.clear()
        assert await log.streams.look("a", 6, 2, 1.0) == Found([], 2, 8)
        assert log.slots.reads == [], "nothing is new: nothing is read"
        assert await log.streams.look("a", 99, 2, 1.0) == Found([], 2, 99)
        assert await log.streams.look("none", 0, None, 1.0) == Found([], -1, 8)
        assert await log.streams.look("a", 5, None, 1.0) == Found(log.mine("a", 5), 2, 8)

    in_time(work)


def test_streams_are_named_in_order_with_their_last_positions():
    async def work():
        log = Log(["b", "a", "b"])
        assert list((await log.streams.names(4.0)).items()) == [("a", 3), ("b", 5)]
        assert log.asked == [(0.0, NamesOf(), 4.0)]
        log.answers = [Pong(), Pong()]
        with pytest.raises(Unavailable, match="than streams"):
            await log.streams.names(4.0)
        with pytest.raises(Unavailable, match="than slots"):
            await log.streams.look("a", 0, None, 4.0)

    in_time(work)


@pytest.mark.parametrize("late_s", [PATIENCE_S - 1, None])
def test_what_its_appender_does_not_write_is_waited_for_and_then_filled(late_s):
    async def work():
        log = Log(["a", "a", "", "a", "a"], lost=(1, 3))
        coming = log.append("a", is_lost=True)

        async def later():
            if late_s is not None:
                await asyncio.sleep(late_s)
                log.slots.put(5, coming)

        writing = asyncio.create_task(later())
        found = await log.streams.read("a", None, 9.0)
        assert found == log.mine("a")
        first_wait = late_s is None
        assert len(found) == 2 if first_wait else 3
        filled = {slot for span in log.slots.filled for slot in range(*span)}
        assert filled == ({1, 3, 5} if late_s is None else {1, 3})
        assert all(stop == start + 1 for start, stop in log.slots.filled)
        assert log.slots.values[3] == HOLE
        assert log.now() >= PATIENCE_S
        await writing

    in_time(work)


def test_what_was_trimmed_is_told_unless_it_was_dealt_with():
    async def work():
        log = Log(["a", "b", "a", "b", "a", "b", "a", "b", "a", "b"])
        log.start.at = log.start.true = Place(16, 8)
        log.slots.trimmed = 1
        for start in (0, 15):
            with pytest.raises(LogTrimmed, match=f"position {start} "):
                await log.streams.read("a", start, 1.0)
        assert await log.streams.read("a", 16, 1.0) == log.mine("a", 16)
        assert await log.streams.read("a", None, 1.0) == log.mine("a", 16)
        for start, dealt_with, lost in (
            *((13, 6, False), (13, 7, False), (13, 5, True), (13, None, True)),
            *((16, None, False), (20, None, False), (16, -1, False)),
        ):
            found = await log.streams.look("a", start, dealt_with, 1.0)
            assert (found is None) == lost, (start, dealt_with)
            if found:
                assert found.entries == log.mine("a", max(16, start))
        assert await log.streams.look("none", 3, -1, 1.0) is None, "who knows what it had"
        log.start.at = log.start.true = Place(12, 6)
        log.slots.trimmed = 0
        assert await log.streams.look("a", 11, 2, 1.0) is None, "as older batches say"
        assert await log.streams.look("a", 11, 4, 1.0) == Found(log.mine("a", 12), 8, 20)
        log.start.at = log.start.true = Place(20, 10)
        assert await log.streams.look("a", 18, 8, 1.0) == Found([], 8, 20)
        assert await log.streams.look("a", 18, 7, 1.0) is None

    in_time(work)


def test_what_is_trimmed_while_it_is_read_is_looked_for_no_more():
    async def work():
        log = Log(["a"] * 12)
        log.start.true, log.slots.trimmed = Place(0, 0), 1
        times = []

        def look(start, stop):
            times.append(start)
            if len(times) == 6:
                log.start.true = Place(17, 8)

        log.slots.before = look
        found = await log.streams.read("a", None, 1.0)
        assert found == log.mine("a", 16)
        with pytest.raises(Trimmed):
            await log.streams._batches([3], 0)

    in_time(work)


def test_what_cannot_be_read_is_told_if_positions_are_missing():
    async def work():
        log = Log(["a", "a", "b", "a"])
        log.slots.values[1] = b"garbage"
        for start in (0, 2, 3):
            with pytest.raises(DamagedEntry) as told:
                await log.streams.read("a", start, 1.0)
            assert (told.value.position, told.value.next) == (max(2, start), 4)
        assert await log.streams.read("a", 4, 1.0) == log.mine("a", 4)
        log.slots.values[1] = HOLE
        assert len(await log.streams.read("a", 0, 1.0)) == 2

    in_time(work)


def test_a_follower_asks_more_and_more_seldom_while_nothing_comes():
    async def work():
        log = Log(["a", "b"])
        stream = Subscription(log.streams.follow("a", None))
        assert (await anext(stream)).position == 1
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(2)
        pauses = [0.0, POLL_S, 2 * POLL_S, 4 * POLL_S, 8 * POLL_S, 16 * POLL_S]
        pauses += [POLL_MAX_S] * 8
        expected = [0.0, *itertools.accumulate(pauses)]
        asked = [when for when, _, _ in log.asked]
        assert asked == pytest.approx(expected)
        assert all(deadline == when + 10 for when, _, deadline in log.asked)
        log.answers = [Unavailable("away")] * 3
        log.append("a")
        assert (await waiting).position == 5
        assert 3 * POLL_MAX_S < log.now() - 2 + POLL_MAX_S <= 5 * POLL_MAX_S
        began = log.now()
        log.append("a")
        assert (await anext(stream)).position == 7
        assert log.now() == began, "after news it asks at once"

    in_time(work)


def test_a_follower_begins_where_it_is_told_to_and_is_told_what_it_lost():
    async def work():
        log = Log(["a"] * 10)
        log.start.at = log.start.true = Place(6, 3)
        for begin, first in ((None, 7), (6, 7), (7, 7), (8, 9)):
            stream = Subscription(log.streams.follow("a", begin))
            assert (await anext(stream)).position == first
        with pytest.raises(LogTrimmed, match="position 5 "):
            await anext(Subscription(log.streams.follow("a", 5)))
        stream = Subscription(log.streams.follow("a", 6))
        source = stream._source
        for _ in range(7):
            await anext(stream)
        assert (source._start, source._dealt_with) == (20, 9)
        log.start.true, log.slots.trimmed = Place(20, 10), 1
        log.append("a")
        assert (await anext(stream)).position == 21, "what was trimmed had been delivered"
        log.append("b")
        log.append("a")
        log.start.true = Place(24, 12)
        assert (await anext(stream)).position == 25, "nothing of the stream was lost"
        log.append("a")
        log.append("b")
        log.start.true = Place(30, 15)
        with pytest.raises(LogTrimmed, match="position 26 "):
            await anext(stream)

    in_time(work)
