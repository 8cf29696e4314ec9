"""Turns that rotate while registers, clocks and owners fail: what is tried again, and how often."""

import asyncio
import logging

import pytest
from contexts import PIPELINE, SIZE, Place
from test_smr_rotating import TIMEOUT_S, Owner, held, rotating

from virtual import Watch, virtually
from wormspace.addresses import METADATA
from wormspace.errors import Unavailable, UsageError
from wormspace.runtime.retrying import RETRY_S
from wormspace.smr import Rotating
from wormspace.smr.records import NOOP, SKIP, Member, SegmentMetadata, encode_segment_metadata
from wormspace.smr.replica_context import NotLeading
from wormspace.smr.rotating import RotatingProposer
from wormspace.space import Address


class Failing:
    """Calls to registers of segments' data that raise, some times."""

    def __init__(self, worm, name, *errors):
        self.watch, self.name, self.errors = Watch(worm), name, list(errors)
        self.watch.before = self._before
        self.times = []

    def _before(self, name, given):
        is_metadata = any(one == METADATA for one in given if isinstance(one, int))
        if name == self.name and not is_metadata:
            self.times.append(asyncio.get_running_loop().time())
            if self.errors:
                raise self.errors.pop(0)


class Slow:
    """Writes take a while; counts those under way."""

    def __init__(self, worm, seconds):
        self.write, self.seconds, self.now, self.most, self.offsets = (
            worm.registers.write, seconds, 0, 0, [],
        )  # fmt: skip
        worm.registers.write = self

    async def __call__(self, segment_name, token, offset, value, deadline):
        self.now += 1
        self.most = max(self.most, self.now)
        self.offsets.append(offset)
        try:
            await asyncio.sleep(self.seconds)
            return await self.write(segment_name, token, offset, value, deadline)
        finally:
            self.now -= 1


async def stop(*owners):
    for owner in owners:
        await owner.stop()


def test_a_replica_is_told_how_long_an_owner_may_hold_the_others_up():
    async def work(worm):
        assert Rotating().strategy == "rotating"
        proposer = Rotating(0.7).make_proposer(Place(worm, strategy="rotating").context)
        assert isinstance(proposer, RotatingProposer)
        assert (proposer._timeout_s, proposer.leads, proposer.leader) == (0.7, True, None)
        for wrong in (0, -1.0, float("nan"), "1"):
            with pytest.raises(UsageError):
                Rotating(wrong)

    virtually(work)


def test_a_write_that_is_not_known_to_have_failed_is_said_again_until_it_is():
    async def work(worm):
        a, b = await rotating(worm, "ab")
        failing = Failing(worm, "write", *[Unavailable("no majority")] * 3)
        a.offer(1)
        await asyncio.sleep(3.5 * RETRY_S)
        assert a.seen == b.seen == [1]
        own = [one for one in failing.times if one <= failing.times[0] + 3.5 * RETRY_S][:4]
        assert [round((at - own[0]) / RETRY_S) for at in own] == [0, 1, 2, 3]
        assert not a.context.waiting
        await stop(a, b)

    virtually(work)


def test_a_register_that_was_taken_is_captured_until_it_is_known_what_it_holds():
    async def work(worm):
        a, b = await rotating(worm, "ab")
        at = a.learner.position
        segment = await worm.space("thing").segment(at.segment)
        await segment.capture(0)
        failing = Failing(worm, "capture", *[Unavailable("no majority")] * 2)
        paused = []
        a.context.rng.uniform = lambda low, high: paused.append((low, high)) or high
        a.offer(1)
        await asyncio.sleep(TIMEOUT_S / 2)
        assert (await held(worm, at.segment))[0] == SKIP
        assert a.seen == b.seen == [1]
        assert paused[:2] == [(0, RETRY_S)] * 2
        assert failing.times[1] - failing.times[0] == pytest.approx(RETRY_S)
        assert a.learner.position.segment == at.segment + 1, "who was taken from owns a new one"
        await stop(a, b)

    virtually(work)


def test_what_a_taken_register_holds_is_applied_and_not_written_over():
    async def work(worm):
        a, b = await rotating(worm, "ab")
        at = a.learner.position
        segment = await worm.space("thing").segment(at.segment)
        captured = await segment.capture(0)
        await segment.write(0, NOOP, captured.token)
        a.learner.stop_listening()  # a has not heard of it
        b.learner.stop_listening()
        a.offer(1)
        await asyncio.sleep(0.01)
        assert a.learner.position == Address(at.segment, 1)
        assert await segment.read(0) == NOOP
        await stop(a, b)

    virtually(work)


def test_while_no_majority_answers_it_is_tried_again_and_nothing_ends():
    async def work(worm):
        watch = Watch(worm)

        def none(name, given):
            raise Unavailable("no majority")

        watch.before = none
        a = Owner(worm, "a", set()).start()
        await asyncio.sleep(3)
        assert not a.task.done()
        assert a.learner.highest == -1
        watch.before = None
        await asyncio.sleep(2 * TIMEOUT_S)
        a.offer(1)
        await asyncio.sleep(0.1)
        assert a.seen == [1]
        await stop(a)

    virtually(work)


def test_who_has_not_learned_of_all_segments_allocates_none():
    async def work(worm):
        a = Owner(worm, "a", set()).start()
        await asyncio.sleep(TIMEOUT_S)
        space = worm.space("thing")
        segment_metadata = SegmentMetadata(
            a.context.member, [], [], "rotating", "Notes", 1, a.learner.segment_metadata(0).shape
        )
        a.learner.stop_listening()
        for _ in range(2):
            await space.alloc(encode_segment_metadata(segment_metadata), SIZE)
        a.proposer._turns[0].resting = True
        before = asyncio.get_running_loop().time()
        await a.proposer._allocate()
        assert asyncio.get_running_loop().time() - before == pytest.approx(RETRY_S)
        assert await space.tail() == 3
        await stop(a)

    virtually(work)


def test_owners_of_a_new_segment_are_those_who_answered_lately():
    async def work(worm):
        a, loop = Owner(worm, "a", set()), asyncio.get_running_loop()
        await asyncio.sleep(10)
        others = [Member(name, name.encode(), name, 1) for name in "bcdef"]
        first = await worm.space("thing").alloc(
            a.context.segment_metadata([a.context.member, *others]), SIZE
        )
        a.learner.allocated(first.number, first.size, first.metadata)
        ages = {"b": 0.5, "c": TIMEOUT_S, "d": 2.0}  # the others were not greeted yet
        a.proposer._alive = {name.encode(): loop.time() - age for name, age in ages.items()}
        a.alive.add("e")
        await a.proposer._allocate()
        assert [one.name for one in a.learner.segment_metadata(1).owners] == ["a", "b", "e"]
        assert [name for name, _ in a.greeted] == ["e", "f"]
        assert set(a.proposer._alive) == set(b"b c d e f".split()), "nor is f greeted again"

    virtually(work)


def test_so_many_writes_are_under_way_and_then_the_next_turns_are_taken():
    async def work(worm):
        a = Owner(worm, "a", set()).start()
        await asyncio.sleep(TIMEOUT_S)
        slow = Slow(worm, 0.1)
        for number in range(1, 30):
            a.offer(number)
            await asyncio.sleep(0.001)
        await asyncio.sleep(3)
        assert slow.most == PIPELINE
        assert a.seen == list(range(1, 30))
        await stop(a)

    virtually(work)


def test_who_is_behind_says_what_it_has_to_say_in_the_turns_that_it_passes():
    async def work(worm):
        a, b = await rotating(worm, "ab")
        at = a.learner.position
        Slow(worm, 0.05)
        a.proposer._wake.clear()
        a.offer(1)
        a.offer(2)
        a.learner.learn(Address(at.segment, 5), NOOP)  # b has gone ahead
        await asyncio.sleep(0.5)
        values = await held(worm, at.segment)
        assert NOOP != values[0] is not None, "not empty turns while something waits"
        assert values[2] == values[4] == NOOP
        assert values[6] is None
        await stop(a, b)

    virtually(work)


def test_a_turn_that_somebody_else_has_taken_is_not_passed_on():
    async def work(worm):
        a, b = await rotating(worm, "ab")
        at = a.learner.position
        a.offer(1)
        await a.rest()
        segment = await worm.space("thing").segment(at.segment)
        captured = await segment.capture(2)
        watch = Watch(worm)
        await segment.write(2, NOOP, captured.token)
        await asyncio.sleep(0.01)
        assert a.learner.position == b.learner.position == Address(at.segment, 3)
        assert watch.counts() == {"write": 2}, "that one, and what the other one passed on"
        await stop(a, b)

    virtually(work)


def test_what_is_due_is_written_once_while_it_is_under_way():
    async def work(worm):
        a = Owner(worm, "a", set()).start()
        await asyncio.sleep(TIMEOUT_S)
        slow = Slow(worm, 0.4)
        a.learner.engine.machine.until = asyncio.get_running_loop().time()
        a.proposer._wake.set()
        for _ in range(3):
            await asyncio.sleep(0.1)
            a.proposer._wake.set()
        assert len(slow.offsets) == 1
        await asyncio.sleep(0.5)
        assert a.seen == [-1]
        assert len(slow.offsets) == 1
        await stop(a)

    virtually(work)


def test_who_ends_leaves_nothing_under_way_and_answers_no_question():
    async def work(worm):
        a, b = await rotating(worm, "ab")
        slow = Slow(worm, 100.0)
        a.offer(1)
        await asyncio.sleep(0.1)
        assert slow.now == 1
        before = len(asyncio.all_tasks())
        await a.stop()
        await asyncio.sleep(0.1)
        assert slow.now == 0
        assert not a.proposer._writes
        assert len(asyncio.all_tasks()) < before
        greeted = len(a.greeted)
        with pytest.raises(NotLeading):
            await a.proposer.confirm()
        await asyncio.sleep(2 * TIMEOUT_S)
        assert len(a.greeted) == greeted
        await stop(b)

    virtually(work)


def test_a_write_that_fails_for_good_is_told(caplog):
    async def work(worm):
        a = Owner(worm, "a", set()).start()
        await asyncio.sleep(TIMEOUT_S)
        Failing(worm, "write", RuntimeError("a fault of ours"))
        for number in (1, 2):
            a.offer(number)
            await asyncio.sleep(0.1)
        assert not a.task.done()
        Slow(worm, 100.0)
        a.offer(3)
        await asyncio.sleep(0.1)
        await stop(a)

    with caplog.at_level(logging.WARNING):
        virtually(work)
    told = [record.message for record in caplog.records]
    assert told == ["a (host:1): a write failed: a fault of ours"], "and no other"


def test_what_one_has_written_oneself_is_applied_at_once():
    async def work(worm):
        a = Owner(worm, "a", set()).start()
        await asyncio.sleep(TIMEOUT_S)
        a.learner.stop_listening()
        a.offer(1)
        await a.rest()
        assert a.seen == [1]
        await stop(a)

    virtually(work)


def test_the_owner_whose_turn_it_is_is_waited_for_and_no_other_and_each_wait_begins_anew():
    async def work(worm):
        a, b, c = await rotating(worm)
        at = a.learner.position
        await a.stop()
        drawn = []
        for owner in (b, c):
            owner.context.rng.uniform = lambda low, high: drawn.append((low, high)) or high
        watch = Watch(worm)
        b.offer(1)
        await asyncio.sleep(1.2 * TIMEOUT_S)
        assert b.seen == []
        assert set(drawn) == {(1, 1.25)}
        await asyncio.sleep(0.6 * TIMEOUT_S)
        assert b.seen == c.seen == [1]
        assert (await held(worm, at.segment))[0] == SKIP
        taken = [given for name, given in watch.calls if name == "capture" and given[1] == 0]
        assert 1 <= len(taken) <= 4
        await stop(b, c)

    virtually(work)
