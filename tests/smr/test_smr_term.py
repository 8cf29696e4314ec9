"""A single leader's registers: what a successor completes; what is proposed, once and in order."""

import asyncio
import contextlib
import itertools
import random

import pytest
from contexts import PIPELINE, SIZE, Place, packet

from virtual import Watch, virtually
from wormspace.addresses import METADATA
from wormspace.errors import CaptureLost, Trimmed, Unavailable, WrongKind
from wormspace.runtime.retrying import RETRY_S
from wormspace.smr.records import NOOP, SEAL, Batch, decode_record, encode
from wormspace.smr.replica_context import NotLeading
from wormspace.smr.term import Deposed, Term, close, close_below, complete
from wormspace.space import Address, stamp


class Ruler(Place):
    """One that leads."""

    def __init__(self, worm, name="r1", **tuning):
        super().__init__(worm, name, **tuning)
        self.term, self.task, self.ready = None, None, asyncio.Event()

    async def crown(self, period=1000.0):
        """Begin a term, and wait until it may propose."""
        first = await self.space.alloc(
            self.context.segment_metadata(), self.context.tuning.segment_size
        )
        self.learner.allocated(first.number, first.size, first.metadata)
        self.term = Term(self.context, first)
        self.task = asyncio.ensure_future(self.term.rule(self.ready.set, period))
        ready = asyncio.ensure_future(self.ready.wait())
        await asyncio.wait([ready, self.task], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        return self

    async def stop(self):
        self.term.end()
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.context.close()


# ---------------------------------------------------------------- completing


def test_what_a_leader_left_is_completed_and_closed():
    async def work(worm):
        for seed in range(12):
            rng = random.Random(seed)
            place = Ruler(worm)
            place.space = place.learner.space = worm.space(f"thing {seed}")
            segment = await place.space.alloc(place.context.segment_metadata(), SIZE)
            known = rng.choice((0, 0, 2))
            written = {o: NOOP for o in range(SIZE) if o < known or rng.random() < 0.4}
            sealed = seed % 3 == 0
            if sealed:
                written = {o: raw for o, raw in written.items() if o < SIZE - 1}
                written[max(written, default=-1) + 1] = SEAL
            for offset, raw in written.items():
                await segment.unsafe_write(offset, raw)
            place.learner.allocated(0, SIZE, segment.metadata)
            for offset in range(known):
                place.learner.learn(Address(0, offset), NOOP)
            end = max(written, default=known - 1) + 1 - sealed
            if seed % 2:
                token, following, was_sealed = await complete(place.learner, segment)
                assert (following, was_sealed) == (end, sealed)
                assert (token.segment, token.start, token.stop) == (0, known, SIZE)
                held = [await segment.read(o) for o in range(SIZE)]
                assert held == [written.get(o, NOOP if o < end else None) for o in range(SIZE)]
                at = Address(1, 0) if sealed or end == SIZE else Address(0, end)
                assert place.learner.position == at
                if not sealed and end < SIZE:
                    await segment.write(end, b"x", token)
            else:
                await close(place.learner, segment)
                assert place.learner.position == Address(1, 0)
                held = [await segment.read(o) for o in range(SIZE)]
                assert held[:end] == [NOOP] * end
                assert end == SIZE or held[end] == SEAL
                assert held[end + 1 :] == [None] * (SIZE - end - 1)
            assert len(place.registers) == end + (sealed or (seed % 2 == 0 and end < SIZE))

    virtually(work)


def test_a_segment_that_was_applied_is_looked_at_from_its_beginning():
    async def work(worm):
        place = Ruler(worm)
        first = await place.space.alloc(place.context.segment_metadata(), SIZE)
        await first.unsafe_write(0, SEAL)
        place.learner.allocated(0, SIZE, first.metadata)
        place.learner.learn(Address(0, 0), SEAL)
        second = await place.space.alloc(place.context.segment_metadata(), SIZE)
        place.learner.allocated(1, SIZE, second.metadata)
        for offset in range(3):
            place.learner.learn(Address(1, offset), NOOP)
        token, end, sealed = await complete(place.learner, first)
        assert (token.start, end, sealed) == (0, 0, True)
        await close_below(place.space, place.learner, 0)
        assert await second.read(0) is None, "what is not below is left alone"

    virtually(work)


class Usurped:
    """Lets somebody capture a segment right after some of the captures of others."""

    def __init__(self, worm, times, start=0):
        self.capture, self.left, self.start = worm.registers.capture, times, start
        worm.registers.capture = self

    async def __call__(self, segment_name, start, stop, deadline):
        captured = await self.capture(segment_name, start, stop, deadline)
        if self.left:
            self.left -= 1
            await self.capture(segment_name, self.start, stop, deadline)
        return captured


@pytest.mark.parametrize("written", [[], [0, 3], list(range(SIZE - 1))])
def test_whoever_captures_it_meanwhile_only_takes_time(written):
    async def work(worm):
        place = Ruler(worm)
        segment = await place.space.alloc(place.context.segment_metadata(), SIZE)
        for offset in written:
            await segment.unsafe_write(offset, NOOP)
        usurped = Usurped(worm, 3)
        await close(place.learner, segment)
        assert usurped.left == 0 or not written
        assert place.learner.position == Address(1, 0)
        end = max(written, default=-1) + 1
        assert await segment.read(end) == SEAL
        assert len(place.registers) == end + 1

    virtually(work)


def test_a_segment_that_is_full_needs_no_seal():
    async def work(worm):
        place = Ruler(worm)
        segment = await place.space.alloc(place.context.segment_metadata(), 2)
        for offset in range(2):
            await segment.unsafe_write(offset, NOOP)
        await close(place.learner, segment)
        assert place.registers == [[], []]
        assert place.learner.position == Address(1, 0)

    virtually(work)


def test_all_segments_below_are_closed_and_nothing_of_others_is_touched():
    async def work(worm):
        place = Ruler(worm)
        for _ in range(4):
            await place.space.alloc(place.context.segment_metadata(), SIZE)
        await close_below(place.space, place.learner, 3)
        assert place.learner.position == Address(3, 0)
        assert place.registers == [[]] * 3
        await close_below(place.space, place.learner, 3)
        assert [await (await place.space.segment(n)).read(0) for n in range(4)] == [SEAL] * 3 + [
            None
        ]
        foreign = await place.space.alloc(stamp("log", 1), SIZE)
        await place.space.alloc(place.context.segment_metadata(), SIZE)
        with pytest.raises(WrongKind):
            await close_below(place.space, place.learner, 5)
        assert await foreign.read(0) is None

    virtually(work)


# ---------------------------------------------------------------- proposing


class Slow:
    """Registers' writes take a second; counts those under way."""

    def __init__(self, worm, time_s=1.0):
        self.write, self.time_s, self.now, self.most = worm.registers.write, time_s, 0, 0
        self.offsets = []
        worm.registers.write = self

    async def __call__(self, segment_name, token, offset, value, deadline):
        if offset >= SIZE:  # an allocation
            return await self.write(segment_name, token, offset, value, deadline)
        self.now += 1
        self.most = max(self.most, self.now)
        self.offsets.append((segment_name[1], offset))
        try:
            await asyncio.sleep(self.time_s)
            return await self.write(segment_name, token, offset, value, deadline)
        finally:
            self.now -= 1


def test_packets_are_applied_once_and_in_the_order_in_which_they_were_offered():
    async def work(worm):
        place = await Ruler(worm).crown()
        slow, number = Slow(worm), 0
        rng = random.Random(1)
        for _ in range(30):
            for _ in range(rng.randrange(4)):
                number += 1
                place.term.offer(packet(number))
            await asyncio.sleep(rng.choice((0, 0, 0.4, 2)))
        await asyncio.sleep(20)
        assert place.seen == list(range(1, number + 1))
        assert slow.most == PIPELINE
        used = sorted(slow.offsets)
        assert used == [divmod(n, SIZE) for n in range(len(used))], "no register is passed over"
        assert not place.failed
        await place.stop()

    virtually(work)


def test_the_packets_of_a_turn_share_a_register_as_far_as_they_fit():
    async def work(worm):
        size = len(packet(1).commands) + 32
        place = await Ruler(worm, batch_bytes=3 * size).crown()
        before = len(place.registers)
        for number in range(1, 8):
            place.term.offer(packet(number))
        await place.rest()
        assert place.registers[before:] == [[1, 2, 3], [4, 5, 6], [7]]
        Slow(worm)
        for number in range(8, 30):
            place.term.offer(packet(number))
            await asyncio.sleep(0)
        await asyncio.sleep(1.1)
        assert place.registers[-PIPELINE:] == [[8], [9], [10]], "the pipeline was full"
        await asyncio.sleep(1)
        assert place.registers[-PIPELINE:] == [[11, 12, 13], [14, 15, 16], [17, 18, 19]]
        await place.stop()

    virtually(work)


def test_the_next_segment_is_there_before_it_is_needed():
    async def work(worm):
        place = await Ruler(worm).crown()
        tails = []
        for number in range(1, 3 * SIZE):
            place.term.offer(packet(number))
            await place.rest()
            tails.append(await place.space.tail())
        assert tails == [1 + (n + SIZE // 2) // SIZE for n in range(1, 3 * SIZE)]
        watch = Watch(worm)
        place.term.offer(packet(3 * SIZE))
        place.term.offer(packet(3 * SIZE + 1))
        await place.rest()
        assert watch.counts() == {"write": 1}, "the turn of a segment costs nothing"
        await place.stop()

    virtually(work)


def test_segments_of_an_odd_size_are_followed_too():
    async def work(worm):
        place = await Ruler(worm, segment_size=7).crown()
        for number in range(1, 20):
            place.term.offer(packet(number))
            await place.rest()
        assert place.seen == list(range(1, 20))
        await place.stop()

    virtually(work)


def test_it_leads_for_as_long_as_the_register_that_it_writes_next_is_its_own():
    async def work(worm):
        place = await Ruler(worm).crown()
        for number in range(1, SIZE - 1):
            place.term.offer(packet(number))
            await place.rest()
        assert await place.term.confirm() == Address(0, SIZE - 2)
        await (await place.space.segment(0)).capture(SIZE - 2)
        with pytest.raises(NotLeading):
            await place.term.confirm()
        await place.rest()
        for number in range(SIZE - 1, SIZE + 1):
            place.term.offer(packet(number))
            await place.rest()
        assert await place.term.confirm() == Address(1, 0)
        await place.stop()

    virtually(work)


def test_what_is_offered_before_a_leader_is_ready_waits():
    async def work(worm):
        place = Ruler(worm)
        first = await place.space.alloc(place.context.segment_metadata(), SIZE)
        place.term = Term(place.context, first)
        place.term.offer(packet(1))
        await place.rest()
        with pytest.raises(NotLeading):
            await place.term.confirm()
        place.task = asyncio.ensure_future(place.term.rule(place.ready.set, 1.0))
        await place.ready.wait()
        place.term.offer(packet(2))
        await place.rest()
        assert place.registers == [[1, 2]]
        await place.stop()

    virtually(work)


def test_a_segment_that_is_slow_to_come_holds_up_what_is_offered_and_loses_nothing():
    async def work(worm):
        place = await Ruler(worm).crown(period=1.0)
        alloc, may_go_on = place.space.alloc, asyncio.Event()

        async def slowly(*given):
            await may_go_on.wait()
            return await alloc(*given)

        place.space.alloc = slowly
        for number in range(1, 15):
            place.term.offer(packet(number))
            await place.rest()
        assert place.seen == list(range(1, SIZE + 1))
        with pytest.raises(NotLeading, match="between"):
            await place.term.confirm()
        await asyncio.sleep(3)
        assert not place.task.done(), "now and then it looks whether it leads; that can wait"
        place.learner.engine.machine.until = 0.0
        await asyncio.sleep(3)
        assert not place.task.done(), "and what is due can"
        place.learner.engine.machine.until = None
        may_go_on.set()
        await place.rest()
        assert place.seen == list(range(1, 15))
        assert await place.term.confirm() == place.learner.position
        await place.stop()

    virtually(work)


def test_a_write_that_finds_no_majority_is_tried_until_it_does():
    async def work(worm):
        place = await Ruler(worm).crown()
        watch, tries = Watch(worm), []

        def refuse(name, given):
            if name == "write" and given[2] in (0, 1):
                tries.append((given[2], given[3]))
                if len(tries) < 8:
                    raise Unavailable("none")

        watch.before = refuse
        for number in (1, 2):
            place.term.offer(packet(number))
            await asyncio.sleep(0)
        await asyncio.sleep(3.5 * RETRY_S)
        assert place.seen == []
        assert place.term.confirmed_at < asyncio.get_running_loop().time()
        await asyncio.sleep(2 * RETRY_S)
        assert place.seen == [1, 2]
        assert len(set(tries)) == 2, "the same values"
        assert 8 <= len(tries) <= 10
        await place.stop()

    virtually(work)


def test_a_segment_that_finds_no_majority_is_tried_again_and_allocated_once():
    async def work(worm):
        place = await Ruler(worm).crown()
        watch, failed = Watch(worm), []

        def refuse(name, given):
            if name == "capture" and given[0][1] == 1 and len(failed) < 3:
                failed.append(asyncio.get_running_loop().time())
                raise Unavailable("none")

        watch.before = refuse
        for number in range(1, SIZE + 3):
            place.term.offer(packet(number))
            await place.rest()
        await asyncio.sleep(4 * RETRY_S)
        assert place.seen == list(range(1, SIZE + 3))
        assert await place.space.tail() == 2
        assert [b - a for a, b in itertools.pairwise(failed)] == pytest.approx([RETRY_S] * 2)
        await place.stop()

    virtually(work)


@pytest.mark.parametrize("seed", range(8))
def test_registers_that_readers_took_are_proposed_again(seed):
    async def work(worm):
        rng = random.Random(seed)
        place = await Ruler(worm).crown()
        number = 0
        for _ in range(12):
            for _ in range(rng.randrange(5)):
                number += 1
                place.term.offer(packet(number))
                await asyncio.sleep(0)
            if rng.random() < 0.5:
                segment = await place.space.segment(await place.space.tail() - 1)
                first = rng.randrange(SIZE)
                await segment.capture(first, rng.randrange(first, SIZE) + 1)
            await asyncio.sleep(rng.choice((0, 0.01)))
        place.term.offer(packet(number + 1))
        await asyncio.sleep(1)
        assert sorted(place.seen) == list(range(1, number + 2)), "each once"
        assert not place.task.done(), "the term goes on"
        with contextlib.suppress(NotLeading):
            await place.term.confirm()  # a reader has the next register
        await place.rest()
        assert await place.term.confirm() == place.learner.position
        await place.stop()

    virtually(work)


def test_a_register_that_was_lost_in_a_segment_that_was_left_holds_nobody_up():
    async def work(worm):
        place = await Ruler(worm).crown()
        for number in range(1, SIZE):
            place.term.offer(packet(number))
            await place.rest()
        Slow(worm)
        for number in range(SIZE, SIZE + 3):
            place.term.offer(packet(number))
            await asyncio.sleep(0)
        await (await place.space.segment(0)).capture(SIZE - 1)  # while two of the next are written
        await asyncio.sleep(5)
        assert place.seen == [*range(1, SIZE), SIZE + 1, SIZE + 2, SIZE]
        assert not place.task.done()
        assert await place.term.confirm() == place.learner.position
        await place.stop()

    virtually(work)


def test_what_was_lost_is_proposed_again_in_its_order_and_before_what_waits():
    async def work(worm):
        place = await Ruler(worm).crown()
        Slow(worm)
        for number in range(1, 8):
            place.term.offer(packet(number))
            await asyncio.sleep(0)
        segment = await place.space.segment(0)
        await segment.capture(1)
        await asyncio.sleep(5)
        assert place.seen == [1, 3, 2, 4, 5, 6, 7]
        assert place.registers[:4] == [[1], [], [3], [2, 4, 5, 6, 7]]
        await place.stop()

    virtually(work)


def test_a_lost_register_of_a_full_segment_is_completed_and_the_segment_left():
    async def work(worm):
        place = await Ruler(worm).crown()
        for number in range(1, SIZE):
            place.term.offer(packet(number))
            await place.rest()
        assert await place.space.tail() == 2
        await (await place.space.segment(0)).capture(SIZE - 1)
        for number in range(SIZE, SIZE + 5):
            place.term.offer(packet(number))
            await place.rest()
        assert place.seen == list(range(1, SIZE + 5))
        watch, at = Watch(worm), place.learner.position
        await (await place.space.segment(at.segment)).capture(at.offset)
        watch.clear()
        place.term.offer(packet(SIZE + 5))
        await place.rest()
        assert watch.clear()["capture"] <= 2, "the segment that was left is not captured again"
        assert place.seen == list(range(1, SIZE + 6))
        assert await place.space.tail() == 3 - (place.learner.position.offset < SIZE // 2)
        await place.stop()

    virtually(work)


# ---------------------------------------------------------------- being deposed


async def usurp(worm, name="r2"):
    """Another replica leads from now on."""
    return await Ruler(worm, name).crown()


def test_whoever_allocates_above_deposes_at_the_next_register():
    async def work(worm):
        place = await Ruler(worm).crown()
        place.term.offer(packet(1))
        await place.rest()
        other = await usurp(worm)
        assert other.seen == [1]
        with pytest.raises(NotLeading, match="taken over"):
            await place.term.confirm()
        place.term.offer(packet(2))
        await place.rest()
        with pytest.raises(Deposed, match="above 0"):
            await place.task
        other.term.offer(packet(2))
        await place.rest()
        assert other.seen == [1, 2]
        await other.stop()
        await place.stop()

    virtually(work)


def test_who_is_deposed_hears_of_it_when_it_extends():
    async def work(worm):
        place = await Ruler(worm).crown()
        for number in range(1, SIZE // 2):
            place.term.offer(packet(number))
            await place.rest()
        await place.space.alloc(
            place.context.segment_metadata(), SIZE
        )  # by one who captures nothing yet
        for number in range(SIZE // 2, SIZE + 1):
            place.term.offer(packet(number))
            await place.rest()
        with pytest.raises(Deposed, match="allocated segment 1"):
            await place.task
        assert place.seen == list(range(1, SIZE // 2 + 1))
        await place.stop()

    virtually(work)


def test_one_who_comes_late_to_its_own_first_segment_is_deposed():
    async def work(worm):
        place, other = Ruler(worm), Ruler(worm, "r2")
        first = await place.space.alloc(place.context.segment_metadata(), SIZE)
        await other.crown()
        place.learner.allocated(0, SIZE, first.metadata)
        term = Term(place.context, first)
        with pytest.raises(Deposed, match="segment 0 was closed"):
            await term.rule(place.ready.set, 1.0)
        assert not place.ready.is_set()
        await other.stop()

    virtually(work)


@pytest.mark.parametrize("kind", ["write", "extending"])
@pytest.mark.parametrize("how", ["cancelled", Trimmed("gone"), ZeroDivisionError()])
def test_work_that_ends_without_success_ends_the_term(kind, how):
    async def work(worm):
        place = await Ruler(worm).crown()
        watch = Watch(worm)

        def fail(name, given):
            wanted = ("write", 0) if kind == "write" else ("capture", 1)
            if (name, given[0][1]) == wanted and given[1] != METADATA:
                watch.before = None
                if how == "cancelled":
                    raise asyncio.CancelledError
                raise how

        watch.before = fail
        for number in range(1, SIZE):
            place.term.offer(packet(number))
            await place.rest()
        error = NotLeading if how == "cancelled" else type(how)
        with pytest.raises(error):
            await place.task
        with pytest.raises(NotLeading):
            await place.term.confirm()
        place.term.offer(packet(SIZE))
        await place.rest()
        assert SIZE not in place.seen, "nothing is proposed any more"
        await place.stop()

    virtually(work)


def test_an_end_ends_what_is_under_way_and_is_no_error():
    async def work(worm):
        place = await Ruler(worm).crown()
        slow = Slow(worm)
        for number in range(1, 6):
            place.term.offer(packet(number))
            await asyncio.sleep(0)
        assert slow.now == PIPELINE
        place.term.end()
        await asyncio.sleep(3)
        assert slow.now == 0
        assert place.seen == []
        assert not place.task.done(), "whoever ends it is not told again"
        with pytest.raises(NotLeading, match="lost its place"):
            await place.term.confirm()
        await place.stop()

    virtually(work)


def test_the_next_segments_allocation_is_ended_too():
    async def work(worm):
        place = await Ruler(worm).crown()
        began = []

        async def never(*given):
            began.append(asyncio.current_task())
            await asyncio.Event().wait()

        place.space.alloc = never
        for number in range(1, SIZE // 2 + 1):
            place.term.offer(packet(number))
            await place.rest()
        assert len(began) == 1
        place.term.end()
        await place.rest()
        assert began[0].cancelled()
        await place.stop()

    virtually(work)


# ---------------------------------------------------------------- standing


def test_it_looks_now_and_then_whether_it_still_leads():
    async def work(worm):
        place = await Ruler(worm).crown(period=1.0)
        watch, loop = Watch(worm), asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(3.5)
        assert watch.clear() == {"holds": 3}, "and writes nothing"
        assert place.term.confirmed_at == began + 3
        place.learner.engine.machine.until = loop.time()
        await asyncio.sleep(1)
        assert watch.clear() == {"write": 1}, "what is due happens"
        assert place.seen == [-1]
        watch.before = lambda name, given: (_ for _ in ()).throw(Unavailable("none"))
        confirmed_at = place.term.confirmed_at
        await asyncio.sleep(2)
        assert not place.task.done(), "who is out of touch is not deposed"
        assert place.term.confirmed_at == confirmed_at
        watch.before = None
        await usurp(worm)
        await asyncio.sleep(1.5)
        with pytest.raises(Deposed):
            await place.task

    virtually(work)


def test_what_is_due_waits_for_what_is_being_written():
    async def work(worm):
        place = await Ruler(worm).crown(period=1.0)
        place.learner.engine.machine.until = 0.0
        slow = Slow(worm, 5.0)
        place.term.offer(packet(1))
        await asyncio.sleep(4.5)
        assert len(slow.offsets) == 1
        await place.stop()

    virtually(work)


def test_a_confirmation_is_as_old_as_its_question():
    async def work(worm):
        place = await Ruler(worm).crown()
        loop, holds = asyncio.get_running_loop(), worm.registers.holds

        async def slowly(*given):
            await asyncio.sleep(1)
            answer = await holds(*given)
            await asyncio.sleep(1)
            return answer

        worm.registers.holds = slowly
        asked = loop.time()
        position = place.learner.position
        confirming = asyncio.ensure_future(place.term.confirm())
        await asyncio.sleep(0.5)
        place.term.offer(packet(1))
        assert await confirming == position
        assert place.term.confirmed_at == max(asked, asked + 0.5)
        Slow(worm, 2.0)
        asked = loop.time()
        place.term.offer(packet(2))
        await asyncio.sleep(3)
        assert place.term.confirmed_at == asked
        await place.stop()

    virtually(work)


def test_a_batch_is_what_was_offered():
    async def work(worm):
        place = await Ruler(worm).crown()
        place.term.offer(packet(1))
        await place.rest()
        record = decode_record(await (await place.space.segment(0)).read(0), Address(0, 0))
        assert isinstance(record, Batch)
        assert record.packets == [packet(1)]
        assert encode(record) == await (await place.space.segment(0)).read(0)
        with pytest.raises(CaptureLost):
            await (await place.space.segment(0)).unsafe_write(1, b"not the leader's")
        await place.stop()

    virtually(work)
