"""A leader that stays until it falls: what it is told, when it leads, and how it steps down.

Its time of leading (`term`) and when it begins one are made up: those have tests of their own.
"""

import asyncio
import logging

import pytest
from contexts import SIZE, Place, packet

from virtual import virtually
from wormspace.errors import CaptureLost, Closed, UsageError, ValueTooLarge
from wormspace.smr import Fixed, Sticky, leadership
from wormspace.smr.leadership import PINGS_PER_TIMEOUT
from wormspace.smr.records import decode_segment_metadata
from wormspace.smr.replica_context import NotLeading
from wormspace.space import Address

TIMEOUT_S = 2.0


class MadeUpReign:
    """A time of leading that ends as the test says; `made`: all of them."""

    made: list["MadeUpReign"] = []  # noqa: RUF012

    def __init__(self, context, segment):
        MadeUpReign.made.append(self)
        self.context, self.segment, self.offered, self.ended = context, segment, [], 0
        self.confirmed_at = 0.0
        self.ready, self.over = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def rule(self, on_ready, period):
        self.period = period
        await self.ready.wait()
        on_ready()
        await self.over

    def offer(self, packet):
        self.offered.append(packet)

    async def confirm(self):
        return Address(7, 7)

    def end(self):
        self.ended += 1


class Follower(Place):
    """One that takes over whenever the test lets it."""

    def __init__(self, worm, strategy=None):
        super().__init__(worm)
        self.proposer = (strategy or Sticky(TIMEOUT_S)).make_proposer(self.context)
        self.turns, self.listened, self.deaf = asyncio.Semaphore(0), [], []
        self.proposer._follow = self.turns.acquire
        self.learner.listen = lambda: self.listened.append(self.proposer.leads)
        self.learner.stop_listening = lambda: self.deaf.append(self.proposer.leads)
        self.task = asyncio.ensure_future(self.proposer.run())

    async def leading(self):
        self.turns.release()
        await asyncio.sleep(1)
        term = MadeUpReign.made[-1]
        term.ready.set()
        await asyncio.sleep(1)
        return term


@pytest.fixture(autouse=True)
def terms(monkeypatch):
    monkeypatch.setattr(leadership, "Term", MadeUpReign)
    monkeypatch.setattr(MadeUpReign, "made", [])


def test_who_does_not_lead_takes_nothing_and_vouches_for_nothing():
    async def work(worm):
        place = Follower(worm)
        proposer = place.proposer
        for leading_soon in (False, True):
            if leading_soon:
                place.turns.release()
            await asyncio.sleep(1)
            assert not proposer.leads
            assert proposer.age() is None
            with pytest.raises(NotLeading, match="this replica does not lead"):
                proposer.offer(packet(1))
            with pytest.raises(NotLeading, match="this replica does not lead"):
                await proposer.confirm()
        assert MadeUpReign.made[0].offered == []
        place.task.cancel()
        await asyncio.wait([place.task])
        assert MadeUpReign.made[0].ended == 1

    virtually(work)


def test_it_leads_from_when_it_is_ready_with_a_segment_in_its_own_name(caplog):
    caplog.set_level(logging.INFO, "wormspace.smr")

    async def work(worm):
        place = Follower(worm)
        term = await place.leading()
        proposer = place.proposer
        assert (proposer.leads, place.deaf, place.listened) == (True, [False], [False])
        segment = await place.space.segment(0)
        assert (term.segment.number, segment.size, term.context) == (0, SIZE, place.context)
        assert decode_segment_metadata(segment.metadata, "thing").leader == place.context.member
        assert term.period == TIMEOUT_S / PINGS_PER_TIMEOUT
        proposer.offer(packet(1))
        assert term.offered == [packet(1)]
        assert await proposer.confirm() == Address(7, 7)
        term.confirmed_at = 1.5
        assert proposer.age() == 0.5
        place.task.cancel()
        await asyncio.wait([place.task])
        assert (proposer.leads, term.ended) == (False, 1)
        assert place.context.member.name in caplog.text

    virtually(work)


def test_who_has_lost_its_place_says_so_follows_again_and_may_lead_again():
    async def work(worm):
        place = Follower(worm)
        first = await place.leading()
        waiting = place.context.waiting[b"c", 1] = asyncio.get_running_loop().create_future()
        first.over.set_exception(CaptureLost("somebody else leads"))
        await asyncio.sleep(1)
        with pytest.raises(NotLeading, match="the leader has lost its place"):
            await waiting
        assert (place.proposer.leads, first.ended, place.context.waiting) == (False, 1, {})
        assert place.listened == [False, False], "it follows again"
        assert place.proposer.age() is None
        second = await place.leading()
        assert (second.segment.number, place.proposer.leads) == (1, True)
        place.task.cancel()
        await asyncio.wait([place.task])

    virtually(work)


@pytest.mark.parametrize(
    ("error", "raised"),
    [(Closed("the client is closed"), None), (ValueTooLarge("no room"), ValueTooLarge)],
)
def test_what_trying_again_does_not_help_ends_it(error, raised):
    async def work(worm):
        place = Follower(worm)
        term = await place.leading()
        term.over.set_exception(error)
        await asyncio.wait([place.task])
        assert type(place.task.exception()) is (type(None) if raised is None else raised)
        assert (place.proposer.leads, term.ended) == (False, 1)

    virtually(work)


# ---------------------------------------------------------------- what it is told


def test_its_strategy_is_said_in_a_word_and_one_that_is_named_leads_alone():
    async def work(worm):
        place = Place(worm, "r1")
        assert (Sticky().strategy, Fixed("r1").strategy) == ("sticky", "fixed: r1")
        assert (Sticky().timeout_s, Fixed("r1").timeout_s) == (1.0, 1.0)
        may = [
            one.make_proposer(place.context)._may_lead
            for one in (Sticky(), Fixed("r1"), Fixed("r"))
        ]
        assert may == [True, True, False]
        assert Sticky().make_proposer(place.context).leads is False
        assert Fixed("x", 3.0).make_proposer(place.context)._timeout_s == 3.0

    virtually(work)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sticky(0),
        lambda: Sticky("1"),
        lambda: Fixed("r1", 0),
        lambda: Fixed(""),
        lambda: Fixed(7),
        lambda: Fixed("x" * 256),
    ],
)
def test_what_it_cannot_be_told_is_refused(make):
    with pytest.raises(UsageError):
        make()
