"""Replicas among equals: whoever has something to say captures the next register and writes it."""

import asyncio

import pytest
from contexts import SIZE, Place, packet

from virtual import Watch, virtually
from wormspace.errors import Closed, RaceLost, Trimmed, Unavailable
from wormspace.knobs import turned
from wormspace.runtime.retrying import RETRY_S
from wormspace.smr.leaderless import RACE_PAUSE_S, TICK_S, Leaderless
from wormspace.smr.records import NOOP, SEAL, decode_segment_metadata
from wormspace.smr.replica_context import NotLeading
from wormspace.space import Address


class Equal(Place):
    """One that proposes; its dice always show the upper bound."""

    def __init__(self, worm, name="r1"):
        super().__init__(worm, name, "leaderless")
        self.context.rng.uniform = lambda low, high: high
        self.proposer, self.task = Leaderless().make_proposer(self.context), None

    def start(self):
        self.task = asyncio.ensure_future(self.proposer.run())
        return self

    def offer(self, *numbers):
        for number in numbers:
            self.context.waiting[b"c", number] = asyncio.get_running_loop().create_future()
            self.proposer.offer(packet(number))

    async def stop(self):
        self.task.cancel()
        await asyncio.wait([self.task])
        self.learner.stop_listening()


def test_nobody_leads_and_all_may():
    async def work(worm):
        place = Equal(worm)
        assert (place.proposer.leads, place.proposer.leader, place.proposer.age()) == (
            True,
            None,
            0,
        )
        assert Leaderless().strategy == "leaderless"

    virtually(work)


def test_what_is_offered_in_one_turn_goes_into_one_register_in_the_next_segment_if_need_be():
    async def work(worm):
        place = Equal(worm).start()
        await asyncio.sleep(1)
        assert await place.space.tail() == 0, "nothing to say, no segment"
        for first in range(1, 2 * SIZE + 4, 2):
            place.offer(first, first + 1)
            await place.rest()
        assert place.registers == [[n, n + 1] for n in range(1, 2 * SIZE + 4, 2)]
        assert place.learner.position == Address(1, 2)
        for number in (0, 1):
            segment = await place.space.segment(number)
            segment_metadata = decode_segment_metadata(segment.metadata, "thing")
            assert (segment_metadata.leader, segment_metadata.owners, segment.size) == (
                place.context.member,
                [],
                SIZE,
            )
            assert segment_metadata.strategy == "leaderless"
        await place.stop()

    virtually(work)


def test_what_is_due_is_said_without_a_command_and_only_once():
    async def work(worm):
        place = Equal(worm).start()
        place.learner.engine.machine.until = 2.5
        await asyncio.sleep(2.4)
        assert place.registers == []
        await asyncio.sleep(2 * TICK_S)
        assert (place.registers, place.seen) == ([[]], [-1])
        await asyncio.sleep(1)
        assert len(place.registers) == 1
        await place.stop()

    virtually(work)


def test_equals_share_the_registers_and_none_is_lost_or_said_twice():
    async def work(worm):
        places = [Equal(worm, name).start() for name in "abc"]
        for number in range(1, 13):
            one = places[number % 3]
            client = one.context.member.id
            one.context.waiting[client, number] = asyncio.get_running_loop().create_future()
            one.proposer.offer(packet(number, client))
            await asyncio.sleep(0.001 * (number % 2))
        await asyncio.sleep(20)
        assert sorted(places[0].seen) == list(range(1, 13))
        assert len({tuple(place.seen) for place in places}) == 1
        for place in places:
            await place.stop()

    virtually(work)


def test_a_register_that_somebody_else_wrote_is_learnt_and_the_next_one_is_taken():
    async def work(worm):
        place = Equal(worm)
        segment = await place.space.alloc(place.context.segment_metadata(), SIZE)
        for offset in range(3):
            await segment.unsafe_write(offset, NOOP)
        place.learner.allocated(0, SIZE, segment.metadata)
        place.learner.learn(Address(0, 1), NOOP)  # of which it has heard; not of the first
        watch = Watch(worm)
        place.task = asyncio.ensure_future(place.proposer._write(place.context.batch([packet(7)])))
        await asyncio.sleep(1)
        assert place.task.done()
        assert place.registers == [[], [], [], [7]]
        assert (await segment.read(3)) is not None
        captured = [given[1] for name, given in watch.calls if name == "capture"]
        assert captured == [0, 2, 3], "what is known is passed over"

    virtually(work)


class Failing:
    """Registers' captures fail, by turns."""

    def __init__(self, worm, *errors):
        self.capture, self.errors, self.times = worm.registers.capture, list(errors), []
        worm.registers.capture = self

    async def __call__(self, *given):
        self.times.append(asyncio.get_running_loop().time())
        if self.errors:
            raise self.errors.pop(0)
        return await self.capture(*given)


def test_who_loses_a_race_waits_longer_each_time_and_who_finds_no_majority_as_long():
    async def work(worm):
        place = Equal(worm)
        first = await place.space.alloc(place.context.segment_metadata(), SIZE)
        place.learner.allocated(0, SIZE, first.metadata)
        failing = Failing(worm, *(RaceLost("x") for _ in range(8)))
        await place.proposer._write(place.context.batch([packet(1)]))
        gaps = [b - a for a, b in zip(failing.times, failing.times[1:], strict=False)]
        expected = [min(RACE_PAUSE_S[0] * 2**n, RACE_PAUSE_S[1]) for n in range(8)]
        assert [round(gap, 6) for gap in gaps] == [round(one, 6) for one in expected]
        failing.errors, failing.times = [Unavailable("x"), Unavailable("x"), Trimmed("x")], []
        await place.proposer._write(place.context.batch([packet(2)]))
        gaps = [b - a for a, b in zip(failing.times, failing.times[1:], strict=False)]
        assert [round(gap, 6) for gap in gaps] == [RETRY_S] * 3
        assert place.registers == [[1], [2]]
        failing.errors = [Closed("the client is closed")]
        await place.proposer._write(b"")
        assert place.registers == [[1], [2]]

    virtually(work)


def test_who_knows_a_whole_segment_but_not_its_size_goes_on_in_the_next_one():
    async def work(worm):
        place = Equal(worm)
        await place.space.alloc(place.context.segment_metadata(), SIZE)
        for offset in range(SIZE):
            place.learner.learn(Address(0, offset), NOOP)
        assert place.learner.position == Address(0, 0)
        await place.proposer._write(place.context.batch([packet(1)]))
        assert place.registers == [[]] * SIZE + [[1]]
        assert place.learner.position == Address(1, 1)

    virtually(work)


# ---------------------------------------------------------------- reading by emptiness


def test_the_latest_is_where_the_next_register_is_empty():
    async def work(worm):
        place = Equal(worm)
        assert await place.proposer.confirm() == Address(0, 0)
        segment = await place.space.alloc(place.context.segment_metadata(), SIZE)
        assert await place.proposer.confirm() == Address(0, 0)
        for offset in range(5):
            await segment.unsafe_write(offset, NOOP)
        watch = Watch(worm)
        with turned(smr_read_ahead=3):
            assert await place.proposer.confirm() == Address(0, 5)
        assert place.learner.position == Address(0, 5)
        pages = [page for name, given in watch.calls if name == "read" for page in given[1]]
        assert [(start, stop) for start, stop in pages if stop <= SIZE] == [(0, 3), (3, 6), (5, 8)]
        assert place.registers == [[]] * 5
        await segment.unsafe_write(5, SEAL)
        assert await place.proposer.confirm() == Address(1, 0)
        assert await place.space.tail() == 1, "reading allocates nothing"
        second = await place.space.alloc(place.context.segment_metadata(), SIZE)
        for offset in range(SIZE):
            await second.unsafe_write(offset, NOOP)
        assert await place.proposer.confirm() == Address(2, 0)

    virtually(work)


def test_what_stands_behind_an_empty_register_was_never_acknowledged_but_is_learnt():
    async def work(worm):
        place = Equal(worm)
        segment = await place.space.alloc(place.context.segment_metadata(), SIZE)
        for offset in (0, 2):
            await segment.unsafe_write(offset, NOOP)
        assert await place.proposer.confirm() == Address(0, 1)
        assert place.learner.holds(Address(0, 2))
        assert [place.learner.holds(Address(0, n)) for n in (1, 3, 7)] == [False] * 3

    virtually(work)


def test_where_the_beginning_was_trimmed_it_goes_on_behind_a_snapshot():
    async def work(worm):
        place = Equal(worm)
        segments = [
            await place.space.alloc(place.context.segment_metadata(), SIZE) for _ in range(3)
        ]
        ahead = Equal(worm, "ahead")
        for segment, learners in zip(segments, ([place, ahead], [ahead]), strict=False):
            for one in learners:
                one.learner.allocated(segment.number, SIZE, segment.metadata)
                one.learner.learn(Address(segment.number, 0), SEAL)
        await place.space.trim_prefix(2)
        asking = asyncio.ensure_future(place.proposer.confirm())
        await asyncio.sleep(1)
        assert not asking.done()
        place.learner.install(ahead.learner.engine)
        assert await asking == Address(2, 0)
        place.proposer.end()
        with pytest.raises(NotLeading):
            await place.proposer.confirm()

    virtually(work)


def test_who_stops_answers_nobody():
    async def work(worm):
        place = Equal(worm).start()
        await asyncio.sleep(1)
        await place.stop()
        with pytest.raises(NotLeading):
            await place.proposer.confirm()

    virtually(work)
