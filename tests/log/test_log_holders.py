"""The right over a tape, whoever held it before and whatever he left, on real registers."""

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
from wormspace.log.spaces import ENTRIES, metadata
from wormspace.log.tape import Tape
from wormspace.log.tenure import MARGIN, UNSAFE, Held, Run, Tenure

SIZE = 8


def tape_of(worm, name="tape", size=SIZE):
    return Tape(worm.space(name), size, ENTRIES)


async def holder(worm, name="tape", size=SIZE, **options):
    tenure = Tenure(tape_of(worm, name, size), **options)
    await tenure.acquire()
    return tenure


async def put(tenure, runs, values):
    """Write these values into the slots of runs, None for one that stays empty."""
    values = list(values)
    for run in runs:
        for offset in range(run.start, run.stop):
            value = values.pop(0)
            if value is not None:
                await Held(tenure._tape, run).write(offset, value)


def slots_of(runs):
    return [run.segment * SIZE + at for run in runs for at in range(run.start, run.stop)]


async def live(worm, rng, name):
    """A holder that has handed out some slots and wrote some of them; what it wrote, by slot."""
    old = await holder(worm, name, unsafe=rng.random() < 0.5)
    wrote = {}
    for _ in range(rng.randrange(4)):
        if rng.random() < 0.4:
            await old.extend()
        runs = old.take(rng.randrange(1, 7))
        values = [b"%d" % slot if rng.random() < 0.6 else None for slot in slots_of(runs)]
        await put(old, runs, values)
        pairs = zip(slots_of(runs), values, strict=True)
        wrote |= {slot: value for slot, value in pairs if value is not None}
    if rng.random() < 0.2:
        space = worm.space(name)
        await space.alloc(metadata(ENTRIES), SIZE + 1)  # by one who died before the seam
    return old, wrote


@pytest.mark.parametrize("mixed", [True, False])
def test_a_successor_goes_on_above_all_that_is_written_and_leaves_nothing_open(mixed):
    async def work(worm):
        for seed in range(8):
            rng, name = random.Random(seed), f"tape {seed}"
            old, wrote = await live(worm, rng, name)
            closed = await tape_of(worm, name).open_segment()
            late = old.take(1)
            new = await holder(worm, name, mixed=mixed)
            in_open = [slot for slot in wrote if slot >= closed * SIZE]
            if mixed:
                assert new.at == max(in_open, default=closed * SIZE - 1) + 1
                assert new.left == (closed + 1) * SIZE - new.at
            else:
                assert (new.at, new.left) == ((closed + 1) * SIZE, 0)
            held = await tape_of(worm, name).read(max(0, closed - 1) * SIZE, (closed + 1) * SIZE)
            for slot, value in enumerate(held, max(0, closed - 1) * SIZE):
                expected = wrote.get(slot, HOLE if slot < new.at else None)
                assert value == expected, (seed, slot)
            assert await new.stands()
            assert not await old.stands()
            if late:
                with pytest.raises(RaceLost):
                    await Held(old._tape, late[0]).write(late[0].start, b"late")
            old.take(old.left + 1)
            with pytest.raises(Deposed):
                await old.extend()
            await new.extend()
            runs = new.take(3)
            await put(new, runs, [b"new"] * 3)
            assert slots_of(runs)[0] >= (closed * SIZE if mixed else (closed + 1) * SIZE)

    virtually(work)


def test_who_is_the_first_ever_has_all_of_it_and_who_is_not_begins_a_segment_anew():
    async def work(worm):
        first = await holder(worm, mixed=False)
        assert (first.at, first.left) == (0, SIZE), "nobody handed out a slot of it"
        second = await holder(worm, mixed=False)
        assert (second.at, second.left) == (SIZE, 0)
        assert await second._tape.read(0, SIZE) == [HOLE] * SIZE
        assert (await holder(worm, "mixed")).left == (await holder(worm, "mixed")).left == SIZE

    virtually(work)


def test_slots_are_handed_out_in_order_and_over_the_end_of_a_segment():
    async def work(worm):
        tenure = await holder(worm)
        fence = tenure._now.fence
        assert tenure.take(0) == []
        assert tenure.take(3) == [Run(0, 0, 3, fence)]
        assert (tenure.at, tenure.left) == (3, 5)
        assert tenure.take(6) == [Run(0, 3, 8, fence)], "as many as there are"
        assert (tenure.at, tenure.left) == (8, 0)
        assert tenure.take(1) == []
        await tenure.extend()
        assert (tenure.at, tenure.left) == (8, SIZE)
        [run] = tenure.take(2)
        assert (run.segment, run.start, run.stop) == (1, 0, 2)
        assert not tenure.covers(fence)
        await tenure.extend()
        one, two = tenure._now.fence, tenure._next.fence
        assert tenure.covers(one)
        assert tenure.covers(two)
        assert not tenure.covers(UNSAFE)
        assert tenure.left == 6 + SIZE
        assert tenure.take(9) == [Run(1, 2, 8, one), Run(2, 0, 3, two)]
        await tenure.extend()
        watch = Watch(worm)
        await tenure.extend()
        assert watch.counts() == {}, "one segment ahead, and no more"
        assert await worm.space("tape").tail() == 4
        nobody = Tenure(tape_of(worm))
        for use in (lambda: nobody.take(1), lambda: nobody.at, lambda: nobody.left):
            with pytest.raises(Deposed):
                use()
        assert not nobody.covers(one)

    virtually(work)


@pytest.mark.parametrize("size", [4, 8, 10])
def test_the_next_segment_is_made_ready_when_little_is_left(size):
    async def work(worm):
        tenure = await holder(worm, size=size)
        for left in range(size, -1, -1):
            tenure.look_ahead()
            await asyncio.sleep(0.1)
            assert (await worm.space("tape").tail() == 2) == (left * MARGIN < size)
            assert (tenure._next is not None) == (left * MARGIN < size)
            tenure.take(1)

    virtually(work)


def test_those_who_extend_at_once_extend_it_once_and_closing_ends_it():
    async def work(worm):
        watch, sealed = Watch(worm), []

        async def seal():
            sealed.append(1)
            await asyncio.sleep(1)
            return b"seam"

        tenure = await holder(worm, seal=seal)
        tenure.look_ahead()
        await asyncio.gather(*(tenure.extend() for _ in range(3)))
        assert (sealed, tenure.left) == ([1], 2 * SIZE)
        assert await tenure._tape.seam(0) == b"seam"
        tenure.take(SIZE + 1)
        before = asyncio.all_tasks()
        waiting = [asyncio.create_task(tenure.extend()) for _ in range(2)]
        await asyncio.sleep(0.5)
        await tenure.close()
        assert asyncio.all_tasks() <= before | set(waiting), "it has ended when that returns"
        for one in waiting:
            with pytest.raises(Deposed, match=r"tape: .* given up"):
                await one
        watch.clear()
        await asyncio.sleep(5)
        assert watch.counts() == {}
        assert not tenure._extending.is_under_way
        await tenure.close()
        waiting = asyncio.create_task(tenure.extend())
        await asyncio.sleep(0.5)
        await tenure.acquire()
        assert isinstance(waiting.exception(), Deposed), "what it had begun before is over"
        assert (tenure.at, tenure.left) == (SIZE, SIZE)

    virtually(work)


def test_a_seam_that_failed_is_sent_again_as_it_was(caplog):
    caplog.set_level("INFO")

    async def work(worm):
        watch, seams = Watch(worm), [b"second", b"first"]

        async def seal():
            return seams.pop()

        tenure = await holder(worm, seal=seal)
        for n, error in enumerate((Unavailable("away"), Unavailable("away"))):
            watch.before = once(error)
            with pytest.raises(Unavailable):
                await tenure.extend()
            assert caplog.text.count(": away") == n + 1
            assert tenure._next is None
        watch.before = None
        await tenure.extend()
        assert await tenure._tape.seam(0) == b"first"
        assert await worm.space("tape").tail() == 2, "the segment that was allocated is taken"
        tenure.take(SIZE + 1)
        await tenure.extend()
        assert await tenure._tape.seam(1) == b"second"

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
def test_who_cannot_write_its_seam_was_deposed(error):
    async def work(worm):
        watch, tenure = Watch(worm), await holder(worm)
        watch.before = once(error)
        with pytest.raises(Deposed, match="tape: another sequencer has taken over"):
            await tenure.extend()

    virtually(work)


def test_a_next_segment_in_which_somebody_was_is_not_used():
    async def work(worm):
        tenure, space = await holder(worm), worm.space("tape")
        segment = await space.alloc(metadata(ENTRIES), SIZE + 1)
        await segment.write(3, b"x", (await segment.capture()).token)
        with pytest.raises(Deposed, match="tape: somebody else already writes to 1"):
            await tenure.extend()
        assert await tenure._tape.seam(0) is None
        await space.trim_prefix(2)
        with pytest.raises(Deposed, match="tape: another sequencer has been to 1"):
            await tenure.extend()
        assert not await tenure.stands(), "its own segment is gone"

    virtually(work)


def test_without_captures_only_segments_of_its_own_are_written():
    async def work(worm):
        watch, space = Watch(worm), worm.space("tape")
        tenure = await holder(worm, unsafe=True)
        assert tenure._now.fence != UNSAFE, "the first one is captured"
        watch.clear()
        await tenure.extend()
        captured = [given for name, given in watch.calls if name == "capture"]
        assert all(start > SIZE for _, start, *_ in captured), "but for its metadata"
        assert tenure._next.fence == UNSAFE
        runs = tenure.take(SIZE + 2)
        assert runs[1].token("tape") is None
        assert runs[0].token("tape").fence == runs[0].fence
        await put(tenure, runs, [b"x"] * (SIZE + 2))
        assert await tenure.stands()
        await space.alloc(metadata(ENTRIES), SIZE + 1)
        await tenure.extend()
        assert tenure._next.fence != UNSAFE, "others may hold what others have allocated"
        new = await holder(worm)
        assert not await tenure.stands()
        assert new.at == 2 * SIZE or new.at == SIZE + 2

    virtually(work)


@pytest.mark.parametrize("unsafe", [False, True])
def test_all_of_a_run_is_written_and_each_that_was_not_is_told(unsafe):
    async def work(worm):
        watch, tenure = Watch(worm), await holder(worm, unsafe=unsafe)
        await tenure.extend()
        tenure.take(SIZE)
        [run] = tenure.take(4)
        held = Held(tenure._tape, run)
        assert (held.first, held.fence) == (SIZE, run.fence)
        watch.clear()
        watch.before = once(Unavailable("away"), 1)
        with pytest.raises(PartialWrite) as told:
            await held.write_all([b"a", b"b", b"c", b"d"], 5)
        assert [type(error) for error in told.value.results] == [Unavailable] + [type(None)] * 3
        assert await tenure._tape.read(SIZE, SIZE + 5) == [None, b"b", b"c", b"d", None]
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
            held = await new._tape.read(0, 4)
            assert held == [None, HOLE, HOLE, b"x"]

    virtually(work)


def test_who_takes_over_passes_over_segments_that_are_gone_and_knows_the_end():
    async def work(worm):
        old = await holder(worm)
        await old.extend()
        await put(old, old.take(SIZE + 3), [b"x"] * (SIZE + 3))
        await worm.space("tape").trim_prefix(1)
        tape = tape_of(worm)
        new = Tenure(tape)
        await new.acquire()
        assert (new.at, tape._end) == (SIZE + 3, SIZE + 3)
        again = Tenure(tape)
        watch = Watch(worm)
        await again.acquire()
        assert again.at == SIZE + 3
        captured = [given[:3] for name, given in watch.calls if name == "capture"]
        assert captured[1:] == [(("tape", 1), 3, SIZE + 1)], "what is below the end is not captured"

    virtually(work)
