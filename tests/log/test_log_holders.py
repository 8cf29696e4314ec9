"""The right over a segmented log, whoever held it before and whatever he left, on real
registers.
"""

import asyncio
import random

import pytest

from virtual import Watch, virtually
from wormspace.errors import (
    AlreadyWritten,
    CaptureLost,
    PartialWrite,
    RaceLost,
    Trimmed,
    Unavailable,
)
from wormspace.log.errors import Deposed
from wormspace.log.records import HOLE
from wormspace.log.segmented_log import SegmentedLog
from wormspace.log.spaces import ENTRIES, metadata
from wormspace.log.term import MARGIN, UNSAFE, ReservedRange, ReservedWriter, Term

SIZE = 8


def segmented_log_of(worm, name="segmented_log", size=SIZE):
    return SegmentedLog(worm.space(name), size, ENTRIES)


async def holder(worm, name="segmented_log", size=SIZE, **options):
    term = Term(segmented_log_of(worm, name, size), **options)
    await term.acquire()
    return term


async def put(term, ranges, values):
    """Write these values into the slots of runs, None for one that stays empty."""
    values = list(values)
    for run in ranges:
        for offset in range(run.start, run.stop):
            value = values.pop(0)
            if value is not None:
                await ReservedWriter(term._segmented_log, run).write(offset, value)


def slots_of(ranges):
    return [run.segment * SIZE + at for run in ranges for at in range(run.start, run.stop)]


async def live(worm, rng, name):
    """A holder that has handed out some slots and wrote some of them; what it wrote, by slot."""
    old = await holder(worm, name, unsafe=rng.random() < 0.5)
    wrote = {}
    for _ in range(rng.randrange(4)):
        if rng.random() < 0.4:
            await old.extend()
        ranges = old.take(rng.randrange(1, 7))
        values = [b"%d" % slot if rng.random() < 0.6 else None for slot in slots_of(ranges)]
        await put(old, ranges, values)
        pairs = zip(slots_of(ranges), values, strict=True)
        wrote |= {slot: value for slot, value in pairs if value is not None}
    if rng.random() < 0.2:
        space = worm.space(name)
        await space.alloc(metadata(ENTRIES), SIZE + 1)  # by one who died before the seal
    return old, wrote


@pytest.mark.parametrize("mixed", [True, False])
def test_a_successor_goes_on_above_all_that_is_written_and_leaves_nothing_open(mixed):
    async def work(worm):
        for seed in range(8):
            rng, name = random.Random(seed), f"segmented log {seed}"
            old, wrote = await live(worm, rng, name)
            closed = await segmented_log_of(worm, name).open_segment()
            late = old.take(1)
            new = await holder(worm, name, mixed=mixed)
            in_open = [slot for slot in wrote if slot >= closed * SIZE]
            if mixed:
                assert new.at == max(in_open, default=closed * SIZE - 1) + 1
                assert new.left == (closed + 1) * SIZE - new.at
            else:
                assert (new.at, new.left) == ((closed + 1) * SIZE, 0)
            held = await segmented_log_of(worm, name).read(
                max(0, closed - 1) * SIZE, (closed + 1) * SIZE
            )
            for slot, value in enumerate(held, max(0, closed - 1) * SIZE):
                expected = wrote.get(slot, HOLE if slot < new.at else None)
                assert value == expected, (seed, slot)
            assert await new.stands()
            assert not await old.stands()
            if late:
                with pytest.raises(RaceLost):
                    await ReservedWriter(old._segmented_log, late[0]).write(late[0].start, b"late")
            old.take(old.left + 1)
            with pytest.raises(Deposed):
                await old.extend()
            await new.extend()
            ranges = new.take(3)
            await put(new, ranges, [b"new"] * 3)
            assert slots_of(ranges)[0] >= (closed * SIZE if mixed else (closed + 1) * SIZE)

    virtually(work)


def test_who_is_the_first_ever_has_all_of_it_and_who_is_not_begins_a_segment_anew():
    async def work(worm):
        first = await holder(worm, mixed=False)
        assert (first.at, first.left) == (0, SIZE), "nobody handed out a slot of it"
        second = await holder(worm, mixed=False)
        assert (second.at, second.left) == (SIZE, 0)
        assert await second._segmented_log.read(0, SIZE) == [HOLE] * SIZE
        assert (await holder(worm, "mixed")).left == (await holder(worm, "mixed")).left == SIZE

    virtually(work)


def test_slots_are_handed_out_in_order_and_over_the_end_of_a_segment():
    async def work(worm):
        term = await holder(worm)
        fence = term._now.fence
        assert term.take(0) == []
        assert term.take(3) == [ReservedRange(0, 0, 3, fence)]
        assert (term.at, term.left) == (3, 5)
        assert term.take(6) == [ReservedRange(0, 3, 8, fence)], "as many as there are"
        assert (term.at, term.left) == (8, 0)
        assert term.take(1) == []
        await term.extend()
        assert (term.at, term.left) == (8, SIZE)
        [run] = term.take(2)
        assert (run.segment, run.start, run.stop) == (1, 0, 2)
        assert not term.covers(fence)
        await term.extend()
        one, two = term._now.fence, term._next.fence
        assert term.covers(one)
        assert term.covers(two)
        assert not term.covers(UNSAFE)
        assert term.left == 6 + SIZE
        assert term.take(9) == [ReservedRange(1, 2, 8, one), ReservedRange(2, 0, 3, two)]
        await term.extend()
        watch = Watch(worm)
        await term.extend()
        assert watch.counts() == {}, "one segment ahead, and no more"
        assert await worm.space("segmented_log").tail() == 4
        nobody = Term(segmented_log_of(worm))
        for use in (lambda: nobody.take(1), lambda: nobody.at, lambda: nobody.left):
            with pytest.raises(Deposed):
                use()
        assert not nobody.covers(one)

    virtually(work)


@pytest.mark.parametrize("size", [4, 8, 10])
def test_the_next_segment_is_made_ready_when_little_is_left(size):
    async def work(worm):
        term = await holder(worm, size=size)
        for left in range(size, -1, -1):
            term.look_ahead()
            await asyncio.sleep(0.1)
            assert (await worm.space("segmented_log").tail() == 2) == (left * MARGIN < size)
            assert (term._next is not None) == (left * MARGIN < size)
            term.take(1)

    virtually(work)


def test_those_who_extend_at_once_extend_it_once_and_closing_ends_it():
    async def work(worm):
        watch, sealed = Watch(worm), []

        async def seal():
            sealed.append(1)
            await asyncio.sleep(1)
            return b"seal"

        term = await holder(worm, seal=seal)
        term.look_ahead()
        await asyncio.gather(*(term.extend() for _ in range(3)))
        assert (sealed, term.left) == ([1], 2 * SIZE)
        assert await term._segmented_log.seal(0) == b"seal"
        term.take(SIZE + 1)
        before = asyncio.all_tasks()
        waiting = [asyncio.create_task(term.extend()) for _ in range(2)]
        await asyncio.sleep(0.5)
        await term.close()
        assert asyncio.all_tasks() <= before | set(waiting), "it has ended when that returns"
        for one in waiting:
            with pytest.raises(Deposed, match=r"segmented_log: .* given up"):
                await one
        watch.clear()
        await asyncio.sleep(5)
        assert watch.counts() == {}
        assert not term._extending.is_under_way
        await term.close()
        waiting = asyncio.create_task(term.extend())
        await asyncio.sleep(0.5)
        await term.acquire()
        assert isinstance(waiting.exception(), Deposed), "what it had begun before is over"
        assert (term.at, term.left) == (SIZE, SIZE)

    virtually(work)


def test_a_seal_that_failed_is_sent_again_as_it_was(caplog):
    caplog.set_level("INFO")

    async def work(worm):
        watch, seals = Watch(worm), [b"second", b"first"]

        async def seal():
            return seals.pop()

        term = await holder(worm, seal=seal)
        for n, error in enumerate((Unavailable("away"), Unavailable("away"))):
            watch.before = once(error)
            with pytest.raises(Unavailable):
                await term.extend()
            assert caplog.text.count(": away") == n + 1
            assert term._next is None
        watch.before = None
        await term.extend()
        assert await term._segmented_log.seal(0) == b"first"
        assert await worm.space("segmented_log").tail() == 2, (
            "the segment that was allocated is taken"
        )
        term.take(SIZE + 1)
        await term.extend()
        assert await term._segmented_log.seal(1) == b"second"

    virtually(work)


def once(error, segment=0):
    """The next write into that segment fails."""
    left = [error]

    def look(name, given):
        if name == "write" and given[0][1] == segment and left:
            raise left.pop()

    return look


@pytest.mark.parametrize(
    "error", [CaptureLost("lost"), AlreadyWritten("taken", b"x"), Trimmed("gone")]
)
def test_who_cannot_write_its_seal_was_deposed(error):
    async def work(worm):
        watch, term = Watch(worm), await holder(worm)
        watch.before = once(error)
        with pytest.raises(Deposed, match="segmented_log: another sequencer has taken over"):
            await term.extend()

    virtually(work)


def test_a_next_segment_in_which_somebody_was_is_not_used():
    async def work(worm):
        term, space = await holder(worm), worm.space("segmented_log")
        segment = await space.alloc(metadata(ENTRIES), SIZE + 1)
        await segment.write(3, b"x", (await segment.capture()).token)
        with pytest.raises(Deposed, match="segmented_log: somebody else already writes to 1"):
            await term.extend()
        assert await term._segmented_log.seal(0) is None
        await space.trim_prefix(2)
        with pytest.raises(Deposed, match="segmented_log: another sequencer has been to 1"):
            await term.extend()
        assert not await term.stands(), "its own segment is gone"

    virtually(work)


def test_without_captures_only_segments_of_its_own_are_written():
    async def work(worm):
        watch, space = Watch(worm), worm.space("segmented_log")
        term = await holder(worm, unsafe=True)
        assert term._now.fence != UNSAFE, "the first one is captured"
        watch.clear()
        await term.extend()
        captured = [given for name, given in watch.calls if name == "capture"]
        assert all(start > SIZE for _, start, *_ in captured), "but for its metadata"
        assert term._next.fence == UNSAFE
        ranges = term.take(SIZE + 2)
        assert ranges[1].token("segmented_log") is None
        assert ranges[0].token("segmented_log").fence == ranges[0].fence
        await put(term, ranges, [b"x"] * (SIZE + 2))
        assert await term.stands()
        await space.alloc(metadata(ENTRIES), SIZE + 1)
        await term.extend()
        assert term._next.fence != UNSAFE, "others may hold what others have allocated"
        new = await holder(worm)
        assert not await term.stands()
        assert new.at == 2 * SIZE or new.at == SIZE + 2

    virtually(work)


@pytest.mark.parametrize("unsafe", [False, True])
def test_all_of_a_run_is_written_and_each_that_was_not_is_told(unsafe):
    async def work(worm):
        watch, term = Watch(worm), await holder(worm, unsafe=unsafe)
        await term.extend()
        term.take(SIZE)
        [run] = term.take(4)
        held = ReservedWriter(term._segmented_log, run)
        assert (held.first, held.fence) == (SIZE, run.fence)
        watch.clear()
        watch.before = once(Unavailable("away"), 1)
        with pytest.raises(PartialWrite) as told:
            await held.write_all([b"a", b"b", b"c", b"d"], 5)
        assert [type(error) for error in told.value.results] == [Unavailable] + [type(None)] * 3
        assert await term._segmented_log.read(SIZE, SIZE + 5) == [None, b"b", b"c", b"d", None]
        await held.write(0, b"a", 5)
        await held.write_all([b"a", b"b", b"c", b"d"], 5)
        watch.before = once(ZeroDivisionError(), 1)
        with pytest.raises(ZeroDivisionError):
            await held.write_all([b"a", b"b", b"c", b"d"], 5)
        watch.before = None
        watch.clear()
        await held.write_all([b"a", b"b", b"c", b"d"], 5)
        now = asyncio.get_running_loop().time()
        assert {given[-1] for _, given in watch.calls} == {now + 5}

    virtually(work)


def test_holes_that_another_one_decides_are_left_to_him():
    async def work(worm):
        for error, raised in ((CaptureLost("lost"), None), (ZeroDivisionError(), True)):
            old = await holder(worm, f"{raised}")
            await put(old, old.take(4), [None, None, None, b"x"])
            watch = Watch(worm)
            watch.before = once(error)
            if raised:
                with pytest.raises(ZeroDivisionError):
                    await holder(worm, f"{raised}")
                continue
            new = await holder(worm, f"{raised}")
            assert new.at == 4
            held = await new._segmented_log.read(0, 4)
            assert held == [None, HOLE, HOLE, b"x"]

    virtually(work)


def test_who_takes_over_passes_over_segments_that_are_gone_and_knows_the_end():
    async def work(worm):
        old = await holder(worm)
        await old.extend()
        await put(old, old.take(SIZE + 3), [b"x"] * (SIZE + 3))
        await worm.space("segmented_log").trim_prefix(1)
        segmented_log = segmented_log_of(worm)
        new = Term(segmented_log)
        await new.acquire()
        assert (new.at, segmented_log._end) == (SIZE + 3, SIZE + 3)
        again = Term(segmented_log)
        watch = Watch(worm)
        await again.acquire()
        assert again.at == SIZE + 3
        captured = [given[:3] for name, given in watch.calls if name == "capture"]
        assert captured[1:] == [(("segmented_log", 1), 3, SIZE + 1)], (
            "what is below the end is not captured"
        )

    virtually(work)
