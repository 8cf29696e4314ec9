"""When a follower takes over: once its leader has shown no sign of life for long enough.

Who leads, how it answers and which segments there are is made up; time and dice are the test's.
"""

import asyncio
from types import SimpleNamespace

import pytest
from contexts import Place

from virtual import virtually
from wormspace.errors import Trimmed, Unavailable
from wormspace.smr import Fixed, Sticky, leadership
from wormspace.smr.leadership import PINGS_PER_TIMEOUT, SPREAD
from wormspace.smr.records import Member, Pong
from wormspace.smr.replica_context import NotLeading
from wormspace.space import Address

TIMEOUT_S = 2.0
QUESTION_S = TIMEOUT_S / PINGS_PER_TIMEOUT
LONG_S = 60.0

MIDDLE = 0.5
"""Of the dice: every draw is the middle of its range."""

OTHERS = [Member(name, name.encode(), "host", 1) for name in ("r0", "r2")]
"""One whose identity is below that of the follower, and one above."""


class Dice:
    """Every draw is at the same place of its range."""

    def __init__(self, at):
        self.at = at

    def uniform(self, low, high):
        return low + self.at * (high - low)


class Follower(Place):
    """One that follows whom the test says.

    Attributes:
        confirmed_at: when, at some time, the leader was confirmed last; None if it says nothing.
        delays: how long the way to it and back takes, in turn.
        asked: when it was asked, who, and how long its answer was waited for.
    """

    def __init__(self, worm, at=MIDDLE, strategy=None):
        super().__init__(worm, "r1")
        self.context.rng = Dice(at)
        self.context.learner = SimpleNamespace(leader=None, highest=-1, heard_at=0.0)
        self.context.learner.recall = self._recall
        self.recalled, self.recalls = Trimmed("it was trimmed"), []
        self.context.space = SimpleNamespace(tail=self._tail)
        self.context.greet = self._greet
        self.tail, self.asked = 0, []
        self.confirmed_at, self.delays = (lambda _: None), [(0.0, 0.0)]
        self.proposer = (strategy or Sticky(TIMEOUT_S)).make_proposer(self.context)
        self.time = self.context.loop.time

    @property
    def patience_s(self):
        return self.proposer._patience.seconds

    def led_by(self, leader, tail=1):
        self.context.learner.leader, self.context.learner.highest = leader, 0
        self.tail = tail

    async def _recall(self):
        self.recalls.append(self.context.learner.highest)
        if isinstance(self.recalled, Exception):
            raise self.recalled
        self.context.learner.leader = self.recalled

    async def _tail(self):
        if self.tail is None:
            raise Unavailable("not in time")
        return self.tail

    async def _greet(self, member, timeout):
        self.asked.append((self.time(), member, timeout))
        there, back = self.delays[len(self.asked) % len(self.delays)]
        if there + back > timeout:
            await asyncio.sleep(timeout)
            return None
        await asyncio.sleep(there)
        now = self.time()
        at = self.confirmed_at(now)
        await asyncio.sleep(back)
        return None if at is None else Pong(member, now - at, Address(0, 0), [])

    async def takes_over(self, within_s=LONG_S):
        """How long it is until it wants to; None if it does not."""
        began = self.time()
        try:
            await asyncio.wait_for(self.proposer._follow(), within_s)
        except TimeoutError:
            return None
        return self.time() - began


def always(now):
    return now


# ---------------------------------------------------------------- where nobody led


@pytest.mark.parametrize(
    ("highest", "tail", "leads"),
    [(-1, 0, True), (3, 4, True), (3, 5, False), (3, 3, False), (3, 2, False), (3, None, False)],
)
def test_the_first_to_notice_that_nobody_ever_led_leads(highest, tail, leads):
    async def work(worm):
        place = Follower(worm, at=1)
        place.context.learner.highest, place.tail = highest, tail
        assert await place.takes_over() == (pytest.approx(QUESTION_S / 4) if leads else None)

    virtually(work)


@pytest.mark.parametrize(
    ("recalled", "leads"),
    [(Trimmed("it was trimmed"), True), (Unavailable("not in time"), False), (OTHERS[0], False)],
)
def test_whose_the_last_segment_is_is_looked_up_before_it_counts_for_nobodys(recalled, leads):
    """A snapshot may lead to its end: then no event tells of it."""

    async def work(worm):
        place = Follower(worm, at=1)
        place.confirmed_at = always
        place.context.learner.highest, place.tail, place.recalled = 3, 4, recalled
        assert await place.takes_over() == (pytest.approx(QUESTION_S / 4) if leads else None)
        assert set(place.recalls) == {3}

    virtually(work)


def test_of_a_space_without_segments_nothing_is_looked_up():
    async def work(worm):
        place = Follower(worm, at=1)
        assert await place.takes_over() is not None
        assert place.recalls == []

    virtually(work)


def test_who_may_not_lead_never_takes_over():
    async def work(worm):
        place = Follower(worm, strategy=Fixed("somebody else", TIMEOUT_S))
        assert await place.takes_over() is None
        place.led_by(OTHERS[0])
        assert await place.takes_over() is None
        assert place.asked, "it sees whether the leader is there, all the same"

    virtually(work)


def test_whoever_came_first_is_followed():
    async def work(worm):
        place = Follower(worm, at=1)
        place.confirmed_at = always
        place.context.loop.call_later(QUESTION_S / 8, place.led_by, OTHERS[0], 0)
        assert await place.takes_over() is None

    virtually(work)


# ---------------------------------------------------------------- a leader that is silent


@pytest.mark.parametrize("leader", OTHERS, ids=["below", "above"])
@pytest.mark.parametrize("at", [0.1, MIDDLE, 0.9])
def test_a_leader_that_is_silent_is_replaced_after_about_the_time_out(at, leader):
    async def work(worm):
        place = Follower(worm, at)
        place.led_by(leader)
        await asyncio.sleep(10)
        waits_s = (1 + SPREAD * (2 * at - 1)) * TIMEOUT_S
        took = await place.takes_over()
        assert waits_s < took <= waits_s + QUESTION_S
        assert {who for _, who, _ in place.asked} == {leader}
        assert {s for _, _, s in place.asked} == {QUESTION_S}
        assert place.patience_s == TIMEOUT_S

    virtually(work)


@pytest.mark.parametrize("age_s", [0.0, 0.5])
def test_a_leader_lives_for_as_long_as_it_answers(age_s):
    async def work(worm):
        place = Follower(worm, at=0)
        place.led_by(OTHERS[0])
        place.confirmed_at = lambda now: now - age_s
        assert await place.takes_over() is None
        assert place.patience_s == TIMEOUT_S
        stops = place.time() + LONG_S / 2
        place.confirmed_at = lambda now: now - age_s if now < stops else None
        await place.takes_over()
        waits_s = (1 - SPREAD) * TIMEOUT_S - age_s
        assert waits_s - QUESTION_S <= place.time() - stops <= waits_s + QUESTION_S

    virtually(work)


def test_what_is_decided_is_a_sign_of_life_too():
    async def work(worm):
        place = Follower(worm)
        place.led_by(OTHERS[0])
        quiet_from = LONG_S / 2

        async def decide():
            while place.time() < quiet_from:
                place.context.learner.heard_at = place.time()
                await asyncio.sleep(0.1)

        deciding = asyncio.ensure_future(decide())
        assert quiet_from + TIMEOUT_S - QUESTION_S < await place.takes_over()
        await deciding

    virtually(work)


@pytest.mark.parametrize("jitter", [0.0, 0.001])
def test_a_leader_without_a_majority_is_none_however_it_answers(jitter):
    """That its answers come faster and faster is no news of it."""

    async def work(worm):
        place = Follower(worm)
        place.led_by(OTHERS[0])
        place.confirmed_at = lambda now: min(now, 5.0)
        place.delays = [((50 - i) * jitter, jitter) for i in range(50)]
        assert TIMEOUT_S < await place.takes_over() - 5.0 <= TIMEOUT_S + 2 * QUESTION_S

    virtually(work)


# ---------------------------------------------------------------- how patient it is


@pytest.mark.parametrize(("way_s", "waits_s"), [(0.05, TIMEOUT_S), (0.15, 3.0), (0.199, 3.98)])
def test_a_leader_that_is_far_away_has_twice_the_time_of_its_answers(way_s, waits_s):
    async def work(worm):
        place = Follower(worm)
        place.led_by(OTHERS[0])
        place.confirmed_at, place.delays = always, [(way_s, way_s)]
        await asyncio.sleep(5)
        assert await place.takes_over() is None
        assert place.patience_s == pytest.approx(waits_s)
        assert place.asked[-1][2] == pytest.approx(waits_s / PINGS_PER_TIMEOUT)

    virtually(work)


def test_a_leader_that_is_confirmed_seldom_has_twice_the_time_of_that():
    every_s = 1.3

    async def work(worm):
        place = Follower(worm, at=0)
        place.led_by(OTHERS[0])
        place.confirmed_at = lambda now: now - now % every_s
        assert await place.takes_over() is None
        assert 2 * every_s <= place.patience_s < 2 * (every_s + QUESTION_S)

    virtually(work)


def test_each_takeover_that_is_seen_doubles_its_patience():
    async def work(worm):
        place = Follower(worm)
        place.led_by(OTHERS[0])
        assert await place.takes_over(TIMEOUT_S / 2) is None
        assert place.patience_s == TIMEOUT_S, "it has seen none yet"
        place.led_by(OTHERS[1])
        took = await place.takes_over()
        assert (place.patience_s, len(place.asked) > 5) == (2 * TIMEOUT_S, True)
        assert 2 * TIMEOUT_S < took <= 2 * TIMEOUT_S + 2 * QUESTION_S

    virtually(work)


def test_a_new_leader_has_its_time_from_when_it_is_seen():
    async def work(worm):
        place = Follower(worm)
        place.led_by(OTHERS[0])
        place.context.loop.call_later(TIMEOUT_S * 0.9, place.led_by, OTHERS[1])
        took = await place.takes_over()
        assert 2.9 * TIMEOUT_S < took <= 2.9 * TIMEOUT_S + 4 * QUESTION_S

    virtually(work)


@pytest.mark.parametrize(("tail", "waits_s"), [(1, TIMEOUT_S), (2, 8.0), (None, 8.0)])
def test_where_it_led_last_itself_it_waits_less_if_nobody_else_takes_over(tail, waits_s):
    async def work(worm):
        place = Follower(worm)
        place.led_by(place.context.member, tail)
        place.proposer._followed = place.context.member
        place.proposer._patience.seconds = 8.0
        took = await place.takes_over()
        assert waits_s < took <= waits_s + 8.0 / PINGS_PER_TIMEOUT
        assert place.asked == []

    virtually(work)


def test_a_leader_that_was_deposed_waits_for_longer_each_time(monkeypatch):
    class Brief:
        """A time of leading that is over at once."""

        def __init__(self, context, segment):
            pass

        async def rule(self, on_ready, period):
            raise NotLeading("another replica has taken over")

    monkeypatch.setattr(leadership, "Term", Brief)

    async def work(worm):
        place = Follower(worm)
        place.context.space.alloc, place.context.segment_metadata = alloc, lambda: b""
        with pytest.raises(NotLeading):
            await place.proposer._lead()
        assert place.patience_s == 2 * TIMEOUT_S
        place.led_by(OTHERS[0])
        await place.takes_over()
        assert place.patience_s == 4 * TIMEOUT_S

    async def alloc(metadata, size):
        return SimpleNamespace(number=0)

    virtually(work)


# ---------------------------------------------------------------- what its patience is told


@pytest.mark.parametrize(("took_s", "waits_s"), [(0.5, TIMEOUT_S), (3.0, 6.0)])
def test_who_has_taken_over_gives_others_twice_the_time_that_it_took(took_s, waits_s):
    async def work(worm):
        place = Follower(worm)
        place.context.learner.stop_listening, place.context.learner.position = (
            (lambda: None),
            Address(0, 0),
        )
        place.context.space.alloc, place.context.segment_metadata = alloc, lambda: b""
        await asyncio.sleep(7)
        leading = asyncio.ensure_future(place.proposer._lead())
        await asyncio.sleep(1000)
        assert place.patience_s == waits_s
        leading.cancel()
        await asyncio.wait([leading])

    async def alloc(metadata, size):
        return SimpleNamespace(number=0)

    class Term:
        """A time of leading that has to be waited for."""

        def __init__(self, context, segment):
            pass

        async def rule(self, on_ready, period):
            await asyncio.sleep(took_s)
            on_ready()
            await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leadership, "Term", Term)
        virtually(work)
