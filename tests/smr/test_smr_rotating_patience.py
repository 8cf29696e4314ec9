"""How long owners of turns wait for each other: longer where answers, or writes, take longer."""

import asyncio
import math

import pytest
from contexts import SIZE
from test_smr_rotating import TIMEOUT_S, Owner

from virtual import virtually
from wormspace.smr.peers import MOST
from wormspace.smr.records import NOOP, SKIP, Member, SegmentMetadata, encode_segment_metadata
from wormspace.smr.rotating import PINGS_PER_TIMEOUT
from wormspace.space import Address

OTHER = Member("b", b"b", "host", 2)
OTHERS = [OTHER, Member("c", b"c", "host", 3), Member("d", b"d", "host", 4)]
STEP_S = 0.05


class Waiting(Owner):
    """An owner whose steps the test takes, in a segment of some owners.

    Attributes:
        asked: how long the answer to each greeting was waited for.
        answers_after_s: how long it takes; None if there is none.
    """

    def __init__(self, worm):
        super().__init__(worm, "a", set())
        self.asked, self.answers_after_s = [], None
        self.loop = self.context.loop

    @property
    def patience_s(self):
        return self.patience_with(OTHER).seconds

    def patience_with(self, member):
        return self.proposer._other(member.name).patience

    async def _greet(self, member, timeout):
        self.asked.append(timeout)
        if self.answers_after_s is None:
            await asyncio.sleep(timeout)
            return None
        await asyncio.sleep(self.answers_after_s)
        return member

    async def in_segment(self, worm, owners):
        segment = await worm.space("thing").alloc(self.context.segment_metadata(owners), SIZE)
        self.learner.allocated(segment.number, segment.size, segment.metadata)
        return segment

    async def stuck_for(self):
        """How long the position stays where it is."""
        began, position = self.loop.time(), self.learner.position
        while self.learner.position == position:
            await self.proposer._unblock()
            await asyncio.sleep(STEP_S)
        return self.loop.time() - began


@pytest.mark.parametrize(("after_s", "waits_s"), [(0.1, TIMEOUT_S), (0.2, 1.6)])
def test_it_waits_for_as_long_as_questions_of_twice_an_answer_take(after_s, waits_s):
    async def work(worm):
        a = Waiting(worm)
        assert a.patience_s == TIMEOUT_S
        await asyncio.sleep(5)
        a.answers_after_s = after_s
        await a.proposer._greet(OTHER)
        assert a.patience_s == pytest.approx(waits_s)
        assert a.proposer._alive == {OTHER.id: a.loop.time()}
        await a.proposer._greet(OTHER)
        assert a.asked == pytest.approx([1 / PINGS_PER_TIMEOUT, waits_s / PINGS_PER_TIMEOUT])

    virtually(work)


def test_who_gives_no_answer_is_as_alive_as_before_and_waited_for_no_longer():
    async def work(worm):
        a = Waiting(worm)
        await a.proposer._greet(OTHER)
        assert a.proposer._alive == {OTHER.id: -math.inf}
        a.proposer._alive[OTHER.id] = 3.0
        await a.proposer._greet(OTHER)
        assert (a.proposer._alive, a.patience_s) == ({OTHER.id: 3.0}, TIMEOUT_S)

    virtually(work)


def test_an_owner_that_is_made_to_rest_doubles_the_wait_for_it_until_it_answers():
    async def work(worm):
        a = Waiting(worm)
        segment = await a.in_segment(worm, [*OTHERS, a.context.member])
        await asyncio.sleep(5)
        await a.proposer._unblock()  # nobody was waited for
        a.learner.learn(Address(0, 3), NOOP)
        a.patience_with(OTHERS[1]).seconds = 2.0
        for number, waits_s in enumerate([1.0, 2.0]):
            a.proposer._alive[OTHERS[number].id] = a.loop.time()
            assert waits_s <= await a.stuck_for() <= waits_s + 3 * STEP_S
            assert await segment.read(number) == SKIP
            assert a.patience_with(OTHERS[number]).seconds == 2 * waits_s
            assert a.proposer._alive[OTHERS[number].id] == -math.inf
        a.answers_after_s = 0.0
        await a.proposer._greet(OTHER)
        assert (a.patience_s, a.patience_with(OTHERS[1]).seconds) == (TIMEOUT_S, 4.0)
        assert TIMEOUT_S <= await a.stuck_for() <= TIMEOUT_S + 3 * STEP_S
        assert a.learner.position == Address(0, 7), "the next turn of one that does not rest"

    virtually(work)


def test_a_segment_without_owners_is_decided_by_whoever_waits():
    async def work(worm):
        a = Waiting(worm)
        await a.in_segment(worm, [])
        a.learner.learn(Address(0, 1), NOOP)
        assert TIMEOUT_S <= await a.stuck_for() <= TIMEOUT_S + 3 * STEP_S
        assert a.proposer._alive == {}

    virtually(work)


def test_owners_that_answer_late_own_turns_in_the_next_segment():
    async def work(worm):
        a = Waiting(worm)
        late = OTHERS[1]
        await a.in_segment(worm, [a.context.member, OTHER, late])
        await asyncio.sleep(20)
        for owner in (OTHER, late):
            a.patience_with(owner).seconds = 4.0
        now = a.loop.time()
        a.proposer._alive = {OTHER.id: now - 3.5, late.id: now - 4.5}
        await a.proposer._allocate()
        assert a.learner.segment_metadata(1).owners == [a.context.member, OTHER]
        assert a.asked == [], "both were greeted before"

    virtually(work)


def test_one_that_was_left_out_and_comes_with_a_segment_of_its_own_is_waited_for_longer():
    async def work(worm):
        a = Waiting(worm)
        await a.in_segment(worm, [OTHER])
        await a.proposer._examine()
        assert a.patience_s == TIMEOUT_S, "nobody was left out yet"
        await a.proposer._allocate()
        assert a.learner.segment_metadata(1).owners == [a.context.member]
        raw = SegmentMetadata(OTHER, owners=[OTHER])
        segment = await worm.space("thing").alloc(encode_segment_metadata(raw), SIZE)
        for _ in range(2):
            a.learner.allocated(segment.number, segment.size, segment.metadata)
            await a.proposer._examine()
            assert a.patience_s == 2 * TIMEOUT_S

    virtually(work)


def test_only_so_many_are_remembered():
    async def work(worm):
        a = Waiting(worm)
        for number in range(2 * MOST):
            a.proposer._other(str(number))
        assert list(a.proposer._others_seen) == [str(MOST + number) for number in range(MOST)]

    virtually(work)
