"""Turns that rotate: who writes what, who skips its turns, whose turns are skipped and when."""

import asyncio

from contexts import SIZE, Place, packet

from virtual import Watch, virtually
from wormspace.addresses import METADATA
from wormspace.knobs import turned
from wormspace.smr.records import NOOP, SKIP, decode_segment_metadata
from wormspace.smr.rotating import PINGS_PER_TIMEOUT, RotatingProposer, _Turns
from wormspace.space import Address

TIMEOUT_S = 1.0


class Owner(Place):
    """A replica that takes its turns; `alive`: those that answer a greeting."""

    def __init__(self, worm, name, alive):
        super().__init__(worm, name, "rotating")
        self.alive, self.greeted = alive, []
        self.context.greet = self._greet
        self.context.rng.uniform = lambda low, high: low
        self.proposer = RotatingProposer(self.context, TIMEOUT_S)
        self.task = None

    async def _greet(self, member, timeout):
        self.greeted.append((member.name, asyncio.get_running_loop().time()))
        return member if member.name in self.alive else None

    def start(self):
        self.alive.add(self.context.member.name)
        self.task = asyncio.ensure_future(self.proposer.run())
        return self

    def offer(self, number):
        one = packet(number, self.context.member.id)
        self.context.waiting[one.client, number] = asyncio.get_running_loop().create_future()
        self.proposer.offer(one)

    async def stop(self):
        self.alive.discard(self.context.member.name)
        self.task.cancel()
        await asyncio.wait([self.task])
        self.learner.stop_listening()


async def rotating(worm, names="abc"):
    """Replicas all of which own turns in the newest segment."""
    alive = set()
    owners = []
    for name in names:
        owners.append(Owner(worm, name, alive).start())
        await asyncio.sleep(3 * TIMEOUT_S)  # to see who is alive
    highest = owners[0].learner.highest
    segment_metadata = owners[0].learner.segment_metadata(highest)
    assert [owner.name for owner in segment_metadata.owners] == sorted(names)
    return owners


def captures(watch):
    return [given for name, given in watch.calls if name == "capture" and given[1] != METADATA]


def test_each_writes_its_own_turns_and_all_apply_the_same():
    async def work(worm):
        owners = await rotating(worm)
        watch, number = Watch(worm), 0
        for turn in range(12):
            for owner in owners[: 1 + turn % 3]:
                for _ in range(turn % 4):
                    number += 1
                    owner.offer(number)
            await asyncio.sleep(0.05 * (turn % 3))
        await asyncio.sleep(1)
        assert sorted(owners[0].seen) == list(range(1, number + 1))
        for owner in owners:
            assert owner.seen == owners[0].seen
            assert not owner.failed
            assert not owner.context.waiting
        assert not captures(watch), "no turn costs a capture"
        for owner in owners:
            await owner.stop()

    virtually(work)


async def held(worm, number):
    segment = await worm.space("thing").segment(number)
    return await segment.read_range()


def test_the_others_pass_their_turns_on_at_once_and_none_beyond():
    async def work(worm):
        a, b, c = await rotating(worm)
        at = a.learner.position
        assert at.offset == 0
        b.offer(1)
        await a.rest()
        values = await held(worm, at.segment)
        assert [value == NOOP for value in values[:2]] == [True, False]
        assert values[2:] == [None] * (SIZE - 2), "who is ahead of all says nothing"
        c.offer(2)
        c.offer(3)  # in the same turn: one register
        await a.rest()
        b.offer(4)
        await a.rest()
        values = await held(worm, at.segment)
        assert [value == NOOP for value in values[:5]] == [True, False, False, True, False]
        assert values[5:] == [None] * (SIZE - 5)
        assert a.seen == b.seen == c.seen == [1, 2, 3, 4]
        for owner in (a, b, c):
            await owner.stop()

    virtually(work)


def test_those_who_begin_together_allocate_few_segments():
    async def work(worm):
        alive = set()
        owners = [Owner(worm, name, alive).start() for name in "abc"]
        await asyncio.sleep(3 * TIMEOUT_S)
        highest = owners[0].learner.highest
        assert highest <= 6, "each greets those whom it does not know, before it leaves them out"
        assert len(owners[0].learner.segment_metadata(highest).owners) == 3
        for owner in owners:
            await owner.stop()

    virtually(work)


def test_who_is_new_allocates_a_segment_and_the_others_rest_in_the_one_before():
    async def work(worm):
        alive = set()
        a = Owner(worm, "a", alive).start()
        await asyncio.sleep(1)
        a.offer(1)
        await a.rest()
        assert a.learner.highest == 0
        b = Owner(worm, "b", alive).start()
        await asyncio.sleep(1)
        assert a.learner.highest == b.learner.highest == 1
        assert (await held(worm, 0))[1] == SKIP
        assert (await held(worm, 0))[2:] == [None] * (SIZE - 2), "once is enough"
        assert a.learner.position == b.learner.position
        assert a.learner.position.segment == 1
        b.offer(2)
        await b.rest()
        assert a.seen == b.seen == [1, 2]
        await a.stop()
        await b.stop()

    virtually(work)


def test_a_segment_that_is_used_up_is_followed_by_one_with_the_same_owners():
    async def work(worm):
        owners = await rotating(worm, "ab")
        number = 0
        for _ in range(3 * SIZE):
            for owner in owners:
                number += 1
                owner.offer(number)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        assert sorted(owners[0].seen) == list(range(1, number + 1))
        assert owners[1].seen == owners[0].seen
        newest = decode_segment_metadata(
            (await worm.space("thing").segment(owners[0].learner.highest)).metadata, "thing"
        )
        assert [one.name for one in newest.owners] == ["a", "b"]
        assert owners[0].learner.highest <= 2 * 6 + 2, "and not many more than are filled"
        for owner in owners:
            await owner.stop()

    virtually(work)


def test_nothing_is_said_any_more_in_a_segment_without_turns():
    """The turns of three end where the segment of eight does, or one or two beyond."""

    async def work(worm):
        [owner] = await rotating(worm, "a")
        segment = await worm.space("thing").segment(0)
        for following in range(SIZE, SIZE + 3):
            turns = _Turns(segment, following, 3)
            owner.proposer._rest(0, turns)
            assert turns.resting
            assert turns.next == following
        await owner.stop()

    virtually(work)


def test_one_that_died_is_made_to_rest_after_its_time_and_left_out():
    async def work(worm):
        a, b, c = await rotating(worm)
        loop, at = asyncio.get_running_loop(), a.learner.position
        await a.stop()
        watch = Watch(worm)
        began = loop.time()
        b.offer(1)
        await asyncio.sleep(0.95 * TIMEOUT_S)
        assert b.seen == []
        assert not captures(watch)
        while not b.seen:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        waited = loop.time() - began
        assert TIMEOUT_S <= waited <= TIMEOUT_S * (1 + 2 / PINGS_PER_TIMEOUT)
        assert (await held(worm, at.segment))[0] == SKIP
        assert 1 <= len(captures(watch)) <= 4
        assert b.seen == c.seen == [1]
        for number in range(2, 40):
            b.offer(number)
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        assert b.seen == c.seen == list(range(1, 40))
        newest = b.learner.segment_metadata(b.learner.highest)
        assert [one.name for one in newest.owners] == ["b", "c"]
        await b.stop()
        await c.stop()

    virtually(work)


def test_nobody_is_made_to_rest_while_nobody_waits():
    async def work(worm):
        a, b, c = await rotating(worm)
        await a.stop()
        watch = Watch(worm)
        await asyncio.sleep(5 * TIMEOUT_S)
        assert not captures(watch)
        assert "write" not in watch.counts()
        await b.stop()
        await c.stop()

    virtually(work)


def test_who_was_made_to_rest_and_lives_comes_back_with_what_it_had_to_say():
    async def work(worm):
        a, b = await rotating(worm, "ab")
        at = a.learner.position
        segment = await worm.space("thing").segment(at.segment)
        captured = await segment.capture(0)
        await segment.write(0, SKIP, captured.token)  # before it has spoken there
        a.offer(1)
        await asyncio.sleep(TIMEOUT_S / 2)
        assert a.seen == b.seen == [1]
        assert a.learner.highest == at.segment + 1
        assert a.learner.position.segment == at.segment + 1
        b.offer(2)
        await asyncio.sleep(0.1)
        assert a.seen == b.seen == [1, 2]
        await a.stop()
        await b.stop()

    virtually(work)


def test_a_register_that_was_taken_and_left_empty_is_settled():
    async def work(worm):
        a, b = await rotating(worm, "ab")
        at = a.learner.position
        segment = await worm.space("thing").segment(at.segment)
        await segment.capture(0)  # by one who died then
        a.offer(1)
        await asyncio.sleep(TIMEOUT_S / 2)
        assert (await held(worm, at.segment))[0] == SKIP
        assert a.seen == b.seen == [1]
        await a.stop()
        await b.stop()

    virtually(work)


def test_what_is_due_happens_once_though_nobody_speaks():
    async def work(worm):
        a, b = await rotating(worm, "ab")
        loop = asyncio.get_running_loop()
        for owner in (a, b):
            owner.learner.engine.machine.until = loop.time() + 1
        await asyncio.sleep(3)
        assert a.seen == b.seen == [-1]
        await a.stop()
        await b.stop()

    virtually(work)


def test_who_has_fallen_far_behind_passes_on_so_many_turns_at_a_time():
    async def work(worm):
        a, b = await rotating(worm, "ab")
        at = a.learner.position
        segment = await worm.space("thing").segment(at.segment)
        write, under_way = worm.registers.write, []

        async def slowly(*given):
            under_way.append(len(a.proposer._writes))
            await asyncio.sleep(0.1)
            return await write(*given)

        worm.registers.write = slowly
        with turned(smr_registers_in_flight=2):
            a.learner.learn(Address(at.segment, SIZE - 1), NOOP)
            await asyncio.sleep(0.15)
        assert max(under_way) <= 2
        assert [await segment.read(n) for n in (0, 2, 4)] == [NOOP, NOOP, None]
        await asyncio.sleep(0.5)
        assert await segment.read(6) == NOOP
        await a.stop()
        await b.stop()

    virtually(work)


def test_the_owners_are_greeted_a_few_times_in_each_timeout():
    async def work(worm):
        a, b, c = await rotating(worm)
        a.greeted.clear()
        a.proposer._alive[b"an owner of old"] = 0.0
        await asyncio.sleep(2.01 * TIMEOUT_S)
        assert set(a.proposer._alive) == {b"b", b"c"}, "who is gone is forgotten"
        names = [name for name, _ in a.greeted]
        assert set(names) == {"b", "c"}
        assert 2 * 2 * PINGS_PER_TIMEOUT <= len(names) <= 2 * (2 * PINGS_PER_TIMEOUT + 1)
        assert a.proposer.leader is None
        assert a.proposer.age() == 0.0
        for owner in (a, b, c):
            await owner.stop()

    virtually(work)


def test_a_read_is_of_all_that_was_said_before_it():
    async def work(worm):
        a, b = await rotating(worm, "ab")
        b.offer(1)
        await b.rest()
        assert await a.proposer.confirm() == b.learner.position
        assert a.seen == [1]
        watch = Watch(worm)
        await a.proposer.confirm()
        assert "write" not in watch.counts()
        await a.stop()
        await b.stop()

    virtually(work)
