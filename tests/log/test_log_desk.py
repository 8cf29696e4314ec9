"""How appenders find their sequencer and replace it, with everybody else made up."""

import asyncio

import pytest
from desks import House, Sequencer
from slots import in_time

from wormspace.errors import CaptureLost, Closed, StoreError, Unavailable, WormError
from wormspace.log.errors import Deposed, NoSequencer
from wormspace.log.messages import Ask
from wormspace.log.sequencer_client import PATIENCE_S, Announcement, OwnPositions, _There
from wormspace.rpc import Failure, NoAnswer, Patience
from wormspace.runtime.retrying import RETRY_S

ASK = Ask((1,), 1)


@pytest.fixture
def house(monkeypatch):
    return House(monkeypatch)


async def asked(sequencing, seconds=30.0):
    """Who answered."""
    return (await sequencing.ask(ASK, now() + seconds)).first


def now():
    return asyncio.get_running_loop().time()


def test_who_finds_none_becomes_it_and_is_asked_by_all(house):
    async def work():
        one, two = house.sequencing(host="a"), house.sequencing(host="b", port=7)
        assert one.give_now(ASK) is None
        assert not one.is_here
        assert await asked(one) == 1
        assert one.is_here
        assert one.give_now(ASK).first == 1
        assert house.board.value == Announcement("a", 1001, b"1")
        assert list(house.net.services["a", 1001].handlers) == ["wormlog/orders/31"]
        assert await asked(two) == 1
        assert await asked(two) == 1
        assert not two.is_here
        assert two.give_now(ASK) is None
        assert house.net.calls == [(1001, False, PATIENCE_S)] * 2
        assert (len(house.made), now()) == (1, 0)
        await asyncio.sleep(5)
        await asked(two, 0.2)
        assert house.net.calls[-1][2] == pytest.approx(0.2)

    in_time(work)


def test_of_many_who_find_none_one_becomes_it(house):
    async def work():
        all_ = [house.sequencing() for _ in range(4)]
        answers = await asyncio.gather(
            *(asked(sequencing) for sequencing in all_ for _ in range(2))
        )
        assert len(set(answers)) == 1
        assert sum(sequencing.is_here for sequencing in all_) == 1
        assert len(house.net.services) == 1, "the others listen no more"
        assert (len(house.made), now()) == (4, 0)

    in_time(work)


def test_one_who_is_silent_is_asked_whether_it_is_there_and_replaced_if_not(house):
    async def work():
        one, two, three = (house.sequencing() for _ in range(3))
        await asked(one)
        for sequencing in (two, three):
            await asked(sequencing)
        first = house.port
        house.net.calls.clear()
        house.net.slow_s[first] = PATIENCE_S + 1
        asking = asyncio.create_task(asked(two, 3.2 * PATIENCE_S))
        await asyncio.wait([asking])
        assert isinstance(asking.exception(), NoSequencer)
        assert "no answer in time" in str(asking.exception())
        assert house.board.number == 2, "one that is slow and there is not replaced"
        assert {port for port, _, _ in house.net.calls} == {first}
        assert sum(is_ping for _, is_ping, _ in house.net.calls) == 3
        house.net.slow_s.clear()
        assert await asked(two) == 1, "who was cut off has left it silent until this answer"
        house.net.calls.clear()
        house.net.deaf.add(first)
        began = now()
        assert await asked(two) == 2
        pings = [timeout for _, is_ping, timeout in house.net.calls if is_ping]
        assert len(pings) == 1
        assert now() - began == pytest.approx(PATIENCE_S + pings[0], abs=0.2)
        assert (two.is_here, house.board.number) == (True, 5)
        house.made[0].error = Deposed("another has taken over")
        assert await asked(one) == 2, "who was replaced asks its successor"
        assert house.made[0].closed
        assert ("127.0.0.1", first) not in house.net.services
        assert await asked(three) == 2, "and the others find it"
        assert [c.closed for c in house.net.callers] == [
            c.at[1] == first for c in house.net.callers
        ]
        assert house.board.number == 5

    in_time(work)


@pytest.mark.parametrize("limit_s", [0.3, 0.9])
def test_one_who_is_silent_is_replaced_though_no_caller_waits_so_long(house, limit_s):
    async def work():
        one, two = house.sequencing(), house.sequencing()
        await asked(one)
        await asked(two)
        house.net.deaf.add(house.port)
        began = now()
        while not two.is_here and now() < began + 10 * PATIENCE_S:
            try:
                await asked(two, limit_s)
            except NoSequencer:
                pass
        assert two.is_here, "else each caller waits in vain, for ever"
        assert now() - began <= 2 * PATIENCE_S + limit_s
        assert await asked(two) == 2

    in_time(work)


class Elsewhere:
    """A way to a sequencer: what each call comes to, at once; in the end it is silent.

    Attributes:
        asked: how long each answer was waited for.
    """

    def __init__(self, *outcomes):
        self.outcomes, self.asked, self.takes_s = list(outcomes), [], 0.0

    async def call(self, service, body, timeout):
        self.asked.append(timeout)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        await asyncio.sleep(timeout if outcome is None else self.takes_s)
        if isinstance(outcome, bytes):
            return outcome
        raise outcome or NoAnswer("no answer")


def test_one_who_was_silent_for_as_long_as_patience_lasts_is_asked_nothing_more():
    """What it would hand out would come to nobody, and leave holes."""

    async def work():
        silent = Elsewhere()
        there = _There(1, silent, "the log", Patience(1.0, 5))
        await asyncio.sleep(5)
        for timeout in (0.25, 0.5, 0.75):
            with pytest.raises(NoAnswer, match="no answer"):
                await there.ask(ASK, timeout)
        for _ in range(2):
            with pytest.raises(NoAnswer, match="it has been silent for too long"):
                await there.ask(ASK, 0.25)
            await asyncio.sleep(1)
        assert silent.asked == [0.25, 0.5, 0.25], "until patience has run out, and no longer"

    in_time(work)


@pytest.mark.parametrize("outcome", [Failure("it failed"), b""])
def test_one_who_says_anything_is_silent_no_more(outcome):
    async def work():
        other = Elsewhere(None, outcome)
        there = _There(1, other, "the log", Patience(1.0, 5))
        await asyncio.sleep(5)
        with pytest.raises(NoAnswer):
            await there.ask(ASK, 0.75)
        assert await there.is_there() == (outcome == b"")
        with pytest.raises(NoAnswer):
            await there.ask(ASK, 0.875)
        assert not await there.is_there()
        assert other.asked == [0.75, 0.2, 0.875, 0.2]

    in_time(work)


def test_one_who_is_far_away_has_twice_the_time_of_its_answers():
    async def work():
        other, patience = Elsewhere(b"", b""), Patience(1.0, 5)
        other.takes_s = 0.3
        there = _There(1, other, "the log", patience)
        await asyncio.sleep(5)
        assert await there.is_there()
        assert patience.seconds == pytest.approx(3.0)
        other.takes_s = 0.1
        assert await there.is_there()
        assert patience.seconds == 1.0
        assert other.asked == pytest.approx([0.2, 0.6])

    in_time(work)


def test_who_was_slow_and_answers_quickly_now_is_given_little_time_again(house):
    """Also by one who stands by, and asks nothing else than whether it is there."""

    async def work():
        one, two, three = (house.sequencing() for _ in range(3))
        await asked(one)
        await asked(three)
        standing = asyncio.create_task(two.stand_by())
        await asyncio.sleep(1)
        two._patience.seconds = three._patience.seconds = 16 * PATIENCE_S
        await asyncio.sleep(1)
        await asked(three)
        house.net.deaf.add(house.port)
        began = now()
        await asyncio.sleep(2 * PATIENCE_S)
        assert two.is_here
        await asked(three)
        assert now() - began <= 4 * PATIENCE_S
        await two.close()
        await standing

    in_time(work)


def test_patience_grows_with_each_that_is_replaced_not_with_each_attempt(house):
    async def work():
        one, two = house.sequencing(), house.sequencing()
        await asked(one)
        await asked(two)
        house.net.deaf.add(house.port)
        house.board.errors = [Unavailable("no majority") for _ in range(20)]
        await asked(two)
        assert two._patience.seconds == 2 * PATIENCE_S

    in_time(work)


def test_who_finds_that_another_was_quicker_asks_the_new_one(house):
    async def work():
        one, two = house.sequencing(), house.sequencing()
        await asked(one)
        await asked(two)
        house.net.deaf.add(house.port)
        first = asyncio.create_task(asked(two))
        await asyncio.sleep(0.3)
        second = asyncio.create_task(asked(two))
        assert (await first, await second) == (2, 2)
        assert (len(house.made), house.board.number) == (2, 5)

    in_time(work)


def test_one_who_says_no_is_replaced_without_a_question(house):
    async def work():
        one, two = house.sequencing(), house.sequencing()
        await asked(one)
        await asked(two)
        house.made[0].error = Unavailable("no majority")
        house.net.calls.clear()
        assert await asked(two) == 2
        assert house.net.calls == [(1001, False, PATIENCE_S)]
        assert house.board.number == 5

    in_time(work)


def test_who_may_not_become_it_waits_for_another(house):
    async def work():
        guest = house.sequencing(may_become=False)
        with pytest.raises(NoSequencer, match=r"log 'orders': no sequencer answered in time$"):
            await asked(guest, 1.0)
        assert (now(), house.made) == (1.0, [])
        asking = asyncio.create_task(asked(guest))
        await asyncio.sleep(1)
        owner = house.sequencing()
        await asked(owner)
        began = now()
        assert await asking == 1
        assert now() - began <= RETRY_S
        await owner.close()
        asking = asyncio.create_task(asked(guest))
        await asyncio.sleep(1)
        assert await asked(house.sequencing()) == 2
        assert await asking == 2

    in_time(work)


def test_where_servers_are_away_the_one_here_is_asked_again(house):
    async def work():
        sequencing = house.sequencing()
        await asked(sequencing)
        house.made[0].error = Unavailable("no majority")
        asking = asyncio.create_task(asked(sequencing))
        await asyncio.sleep(10 * RETRY_S + 0.01)
        house.made[0].error = None
        assert await asking == 1
        assert now() == pytest.approx(11 * RETRY_S)
        assert house.board.number == 2
        house.made[0].hangs = True
        with pytest.raises(NoSequencer, match=r"in time$|waits for a majority"):
            await asked(sequencing, 2.0)

    in_time(work)


def test_one_who_lost_its_right_to_nobody_announced_takes_it_back(house):
    async def work():
        sequencing = house.sequencing()
        await asked(sequencing)
        house.made[0].error = Deposed("another")
        asking = asyncio.create_task(asked(sequencing))
        for _ in range(20):
            await asyncio.sleep(0)
        house.made[0].error = None
        assert await asking == 1
        assert (len(house.made), house.board.number) == (1, 2)

    in_time(work)


def test_who_leaves_says_so_and_is_replaced_at_once(house):
    async def work():
        one, two = house.sequencing(), house.sequencing()
        await asked(one)
        await asked(two)
        await one.close()
        assert house.board.value == Announcement("", 0)
        assert house.board.closed == 1
        assert house.made[0].closed
        assert house.net.services == {}
        with pytest.raises(Closed):
            await asked(one)
        assert await asked(two) == 2
        assert now() == 0, "nobody waits for one that is gone"
        await two.close()
        assert await asked(house.sequencing()) == 3
        assert now() == 0

    in_time(work)


def test_who_leaves_and_is_not_the_one_says_nothing(house):
    async def work():
        one, two = house.sequencing(), house.sequencing()
        await asked(one)
        await asked(two)
        number = house.board.number
        await two.close()
        await house.sequencing().close()
        assert (house.board.number, house.board.closed) == (number, 2)
        house.board.errors = [Unavailable("no majority")]
        await one.close()
        assert house.board.closed == 3, "that it left without a word stops nobody"

    in_time(work)


def test_closing_ends_what_is_under_way(house):
    async def work():
        guest = house.sequencing(may_become=False)
        asking = asyncio.create_task(asked(guest))
        await asyncio.sleep(1)
        await guest.close()
        with pytest.raises(Closed):
            await asking
        assert now() <= 1 + RETRY_S
        sequencing, house.board.slow_s, began = house.sequencing(), 5, now()
        asking = asyncio.create_task(asked(sequencing))
        await asyncio.sleep(1)
        await sequencing.close()
        with pytest.raises(Closed):
            await asking
        assert now() <= began + 1 + RETRY_S
        await asyncio.sleep(9)
        assert (house.board.value, house.net.services) == (None, {})
        sequencing, house.board.slow_s = house.sequencing(), 0
        await asked(sequencing)
        house.made[-1].error = Unavailable("no majority")
        asking = asyncio.create_task(asked(sequencing))
        await asyncio.sleep(1)
        house.board.slow_s, began = 99, now()
        await sequencing.close()
        with pytest.raises(Closed):
            await asking
        assert now() == began + 10, "it has not for ever to say that it leaves"

    in_time(work)


def test_who_cannot_announce_itself_listens_no_more_and_tries_again(house):
    async def work():
        sequencing = house.sequencing(host="a", port=7)
        house.board.errors = [Unavailable("no majority"), Unavailable("none"), Unavailable("no")]
        assert await asked(sequencing) == len(house.made)
        assert list(house.net.services) == [("a", 7)]
        assert now() == pytest.approx(3 * RETRY_S)
        other = house.sequencing(host="b", port=9)
        house.net.refusal = WormError("in use")
        house.board.number, house.board.value = -1, None
        with pytest.raises(NoSequencer, match="no sequencer can be here: in use"):
            await asked(other, 5.0)

    in_time(work)


def test_the_one_here_may_take_the_right_back_until_another_is_announced(house):
    async def work():
        one = house.sequencing()
        await asked(one)
        may_renew = house.made[0].may_renew
        assert await may_renew()
        house.board.number += 1
        assert not await may_renew()
        house.board.value = None
        assert not await may_renew()

    in_time(work)


def test_who_stands_by_is_the_sequencer_whenever_there_is_no_other(house):
    async def work():
        one, two = house.sequencing(), house.sequencing()
        standing = [asyncio.create_task(sequencing.stand_by()) for sequencing in (one, two)]
        await asyncio.sleep(0.1)
        assert one.is_here != two.is_here
        owner, other = (one, two) if one.is_here else (two, one)
        first = next(s for s in house.made if s.started)
        started, looks = first.started, house.board.looks
        await asyncio.sleep(3)
        assert first.started - started >= 5, "it takes over before it is asked to"
        assert house.board.looks - looks == first.started - started, "and looks once each time"
        assert house.board.number == 2
        first.error = Deposed("another has taken over")
        await asyncio.sleep(3)
        assert owner.is_here
        first.error = None
        house.net.deaf.add(house.port)
        await asyncio.sleep(5)
        assert other.is_here
        assert not owner.is_here, "who was replaced finds out"
        assert house.board.number == 5
        await asyncio.sleep(5)
        assert house.board.number == 5
        house.net.services["127.0.0.1", house.port].handlers.clear()
        await asyncio.sleep(5)
        assert owner.is_here, "who has its address is not the one"
        await owner.close()
        await asyncio.sleep(5)
        assert other.is_here
        await other.close()
        await asyncio.wait(standing)
        assert [task.exception() for task in standing] == [None, None]

    in_time(work)


def test_what_waiting_would_not_mend_ends_standing_by(house):
    async def work():
        sequencing = house.sequencing()
        await asked(sequencing)
        house.made[0].error = StoreError("the disk is gone")
        with pytest.raises(StoreError):
            await sequencing.stand_by()

    in_time(work)


def test_a_sequencing_of_ones_own_asks_again_until_it_is_closed_by_its_last_user():
    async def work():
        sequencer = Sequencer(None)
        sequencing = OwnPositions(sequencer)
        sequencing.users += 1
        assert sequencing.give_now(ASK).first == sequencer.me
        assert (await sequencing.ask(ASK, now() + 1)).first == sequencer.me
        real, failures = sequencer.answer, [Deposed("one"), CaptureLost("two")]

        async def answer(question):
            if failures:
                raise failures.pop()
            return await real(question)

        sequencer.answer = answer
        assert (await sequencing.ask(ASK, now() + 1)).first == sequencer.me
        failures.append(Deposed("lost"))
        sequencer.hangs = True
        with pytest.raises(Unavailable, match="no position in time; the last trouble: lost"):
            await sequencing.ask(ASK, now() + 1)
        with pytest.raises(Unavailable, match="waits for a majority of the servers"):
            await sequencing.ask(ASK, now() + 1)
        assert now() == 2
        await sequencing.close()
        assert not sequencer.closed
        assert sequencing.give_now(ASK) is not None
        await sequencing.close()
        assert sequencer.closed
        assert sequencing.give_now(ASK) is None
        with pytest.raises(Closed):
            await sequencing.ask(ASK, now() + 1)

    in_time(work)
