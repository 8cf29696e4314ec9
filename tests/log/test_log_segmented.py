"""The segmented log, against what is known to be in its registers: its end, what it reads and
fills.
"""

import asyncio
import random

import pytest

from virtual import Watch, virtually
from wormspace.errors import Trimmed, Unavailable, WrongKind
from wormspace.knobs import turned
from wormspace.log.records import HOLE
from wormspace.log.segmented_log import SegmentedLog
from wormspace.log.spaces import CONFIG, ENTRIES, metadata

SIZE = 6


class Laid:
    """A segmented log whose registers were written at random: some segments closed, some trimmed.

    Attributes:
        values: of the slots that are written; `closed`, `trimmed`: so many segments.
    """

    def __init__(self, worm, rng, name="segmented_log", size=SIZE):
        self.space, self.size, self.rng = worm.space(name), size, rng
        self.closed = rng.randrange(4)
        self.trimmed = rng.randrange(self.closed + 1)
        self.values = {}

    async def lay(self):
        density = self.rng.choice((0, 0.3, 0.8, 1))
        for number in range(self.closed + self.rng.choice((1, 1, 2, 3))):
            segment = await self.space.alloc(metadata(ENTRIES), self.size + 1)
            token = (await segment.capture()).token
            if number < self.closed:
                await segment.write(self.size, b"seal", token)
            if number > self.closed:
                continue
            for offset in range(self.size):
                if self.rng.random() < density:
                    value = b"%d.%d" % (number, offset)
                    await segment.write(offset, value, token)
                    self.values[number * self.size + offset] = value
        await self.space.trim_prefix(self.trimmed)
        return self

    def fresh(self):
        return SegmentedLog(self.space, self.size, ENTRIES)

    @property
    def first(self):
        return self.trimmed * self.size

    @property
    def stop(self):
        return (self.closed + 1) * self.size

    @property
    def end(self):
        there = [slot for slot in self.values if slot >= self.first]
        return 1 + max(there, default=self.first - 1)

    def held(self, start, stop):
        return [self.values.get(slot) for slot in range(start, stop)]


@pytest.mark.parametrize("knobs", [{}, {"log_near": 1, "log_probes": 2, "log_segment_handles": 1}])
def test_the_end_is_one_past_the_last_slot_written_whatever_is_written(knobs):
    async def work(worm):
        for seed in range(12):
            laid = await Laid(worm, random.Random(seed), f"segmented log {seed}").lay()
            segmented_log = laid.fresh()
            assert await segmented_log.end() == laid.end, seed
            assert await segmented_log.open_segment() == laid.closed
            assert await segmented_log.end() == laid.end, "what was seen misleads nobody"
            old = laid.fresh()
            old._open, old._end = max(0, laid.closed - 1), 0
            assert await old.end() == laid.end

    with turned(**knobs):
        virtually(work)


def test_reading_and_filling_go_over_the_ends_of_segments():
    async def work(worm):
        for seed in range(12):
            rng = random.Random(seed)
            laid = await Laid(worm, rng, f"segmented log {seed}").lay()
            segmented_log = laid.fresh()
            for _ in range(8):
                start, stop = sorted(rng.choices(range(laid.first, laid.stop + 1), k=2))
                assert await segmented_log.read(start, stop) == laid.held(start, stop)
            await segmented_log.fill(start, stop)
            for slot in range(start, stop):
                laid.values.setdefault(slot, HOLE)
            assert await segmented_log.read(laid.first, laid.stop) == laid.held(
                laid.first, laid.stop
            )
            assert await segmented_log.decided(start, stop) == laid.held(start, stop)
            if laid.trimmed:
                for call in (segmented_log.read, segmented_log.decided, segmented_log.fill):
                    with pytest.raises(Trimmed):
                        await call(laid.first - 1, laid.stop)

    virtually(work)


@pytest.mark.parametrize("size", [1, 4, 7, 64, 100])
def test_the_end_of_a_long_segment_is_found_with_few_reads(size):
    near, probes = 4, 3
    steps, left = 0, size
    while left > near:
        left, steps = left // probes, steps + 1

    async def work(worm):
        watch = Watch(worm)
        segment = await worm.space("segmented_log").alloc(metadata(ENTRIES), size + 1)
        token = (await segment.capture()).token
        for written in range(size + 1):
            segmented_log = SegmentedLog(worm.space("segmented_log"), size, ENTRIES)
            watch.clear()
            low = await segmented_log.written_offset(0)
            assert watch.counts().get("read_one", 0) <= (probes + 1) * steps
            assert max(0, written - near) <= low <= written
            watch.clear()
            assert await segmented_log.written_offset(0) == low
            if low:
                assert not watch.clear(), "it is remembered"
            assert await segmented_log.end() == written
            watch.clear()
            assert await segmented_log.end() == written
            assert not written or watch.clear() == {"read": 1, "read_one": 1}, "one for the seal"
            if written < size:
                await segment.write(written, b"x", token)

    with turned(log_near=near, log_probes=probes):
        virtually(work)


def test_a_newcomer_finds_the_open_segment_from_the_other_end():
    async def work(worm):
        space, watch = worm.space("segmented_log"), Watch(worm)
        for number in range(40):
            segment = await space.alloc(metadata(ENTRIES), SIZE + 1)
            await (await space.segment(number)).unsafe_write(SIZE, b"seal")
        for _ in range(3):  # ahead
            segment = await space.alloc(metadata(ENTRIES), SIZE + 1)
        segmented_log = SegmentedLog(space, SIZE, ENTRIES)
        await space.tail()
        watch.clear()
        assert await segmented_log.open_segment() == 40
        assert watch.clear()["read_one"] == 6, "the first, four at the other end, and the tail"
        assert await segmented_log.open_segment() == 40
        assert watch.clear()["read_one"] == 1
        await (await space.segment(40)).unsafe_write(SIZE, b"seal")
        assert await segmented_log.end() == 0
        await segment.unsafe_write(3, b"in one that is not open yet")
        assert await segmented_log.end() == 0
        assert await segmented_log.is_closed(40)
        assert not await segmented_log.is_closed(41)
        assert (await segmented_log.seal(40), await segmented_log.seal(41)) == (b"seal", None)
        await space.trim_prefix(30)
        assert await segmented_log.seal(29) == HOLE

    virtually(work)


def test_only_so_many_handles_on_segments_are_kept():
    async def work(worm):
        segmented_log = SegmentedLog(worm.space("segmented_log"), SIZE, ENTRIES)
        with turned(log_segment_handles=3):
            handles = [segmented_log.segment(number) for number in (0, 1, 2)]
            assert [segmented_log.segment(number) for number in (0, 1, 2)] == handles
            segmented_log.segment(3)
            assert segmented_log.segment(2) is handles[2]
            assert segmented_log.segment(0) is not handles[0]
        assert (handles[1].number, handles[1].size) == (1, SIZE + 1)

    virtually(work)


def test_a_segment_is_allocated_once_and_only_for_this_segmented_log():
    async def work(worm):
        one, two = (SegmentedLog(worm.space("segmented_log"), SIZE, ENTRIES) for _ in range(2))
        assert await one.allocated(0)
        assert not await two.allocated(0)
        assert await worm.space("segmented_log").tail() == 1
        found = one.space.segment

        async def before_another(number, *, timeout):
            one.space.segment = found
            await worm.space("segmented_log").alloc(metadata(ENTRIES), SIZE + 1)
            return await found(number + 1)  # raises: it is not there yet

        one.space.segment = before_another
        assert not await one.allocated(1), "another was first"
        assert await one.allocated(4), "and all below it"
        await worm.space("segmented_log").trim_prefix(1)
        assert not await one.allocated(0)
        for name, part, size in (
            ("a", CONFIG, SIZE + 1),
            ("b", ENTRIES, SIZE),
            ("c", ENTRIES, SIZE + 2),
        ):
            await worm.space(name).alloc(metadata(part), size)
            with pytest.raises(WrongKind, match=r"of a log|has . registers"):
                await SegmentedLog(worm.space(name), SIZE, ENTRIES).allocated(0)

    virtually(work)


@pytest.mark.parametrize(("patience_s", "value"), [(0, HOLE), (0.055, HOLE), (0.5, b"late")])
def test_what_is_not_written_for_so_long_becomes_a_hole(patience_s, value):
    async def work(worm):
        segmented_log = SegmentedLog(worm.space("segmented_log"), SIZE, ENTRIES)
        await segmented_log.allocated(0)
        token = (await segmented_log.segment(0).capture()).token
        await segmented_log.segment(0).write(0, b"first", token)

        async def late():
            await asyncio.sleep(0.1)
            with_others = segmented_log.segment(0).write(1, b"late", token)
            await asyncio.gather(with_others, return_exceptions=True)

        task, loop = asyncio.ensure_future(late()), asyncio.get_running_loop()
        watch, began = Watch(worm), loop.time()
        assert await segmented_log.decided(0, 2, patience_s) == [b"first", value]
        assert loop.time() - began <= (patience_s and min(patience_s, 0.1) + 0.03)
        assert watch.counts()["read"] <= 3 + 2 * patience_s / 0.01
        await task
        assert await segmented_log.read(0, 3) == [b"first", value, None]

    virtually(work)


def test_who_fills_goes_on_against_others_until_all_is_decided():
    async def work(worm):
        segmented_log = SegmentedLog(worm.space("segmented_log"), SIZE, ENTRIES)
        await segmented_log.allocated(0)
        segment, captured = segmented_log.segment(0), []
        capture = segment.capture

        async def and_then_another(start, stop, *, timeout):
            captured.append(await capture(start, stop))
            if len(captured) < 4:
                await capture(start + 1, start + 2)
            return captured[-1]

        segment.capture = and_then_another
        await segmented_log.fill(1, 4)
        assert len(captured) == 4
        assert await segmented_log.read(0, SIZE) == [None, HOLE, HOLE, HOLE, None, None]

    virtually(work)


@pytest.mark.parametrize("error", [Unavailable("none"), Trimmed("gone")])
def test_what_a_fill_cannot_do_it_says(error):
    async def work(worm):
        segmented_log, watch = SegmentedLog(worm.space("segmented_log"), SIZE, ENTRIES), Watch(worm)
        await segmented_log.allocated(0)

        def refuse(name, given):
            if name == "write" and given[2] == 1:
                raise error

        watch.before = refuse
        with pytest.raises(type(error)):
            await segmented_log.fill(0, 3)

    virtually(work)


def test_a_write_of_unknown_outcome_is_settled_for_ever():
    async def work(worm):
        segmented_log, watch = SegmentedLog(worm.space("segmented_log"), SIZE, ENTRIES), Watch(worm)
        await segmented_log.allocated(0)
        token = (await segmented_log.segment(0).capture()).token
        await segmented_log.segment(0).write(4, b"mine", token)
        watch.clear()
        assert await segmented_log.settle(4, b"mine")
        assert not await segmented_log.settle(4, b"other")
        assert not await segmented_log.settle(4, b"another")
        assert watch.clear() == {"read_one": 3}, "what is decided is only read"
        assert not await segmented_log.settle(5, b"mine")
        assert not await segmented_log.settle(SIZE + 1, b"mine"), "in the next segment"
        assert await segmented_log.read(4, SIZE) == [b"mine", HOLE]

    virtually(work)


def test_segments_that_are_closed_while_the_end_is_looked_for_are_passed():
    async def work(worm):
        space = worm.space("segmented_log")
        segments = [await space.alloc(metadata(ENTRIES), SIZE + 1) for _ in range(9)]
        segmented_log = SegmentedLog(space, SIZE, ENTRIES)
        rest, tail, closed = segmented_log._rest, space.tail, iter(segments)

        async def close(count):
            for _ in range(count):
                await next(closed).unsafe_write(SIZE, b"seal")

        async def rest_later(number):
            if number in (0, 1, 2):
                await close(1)
            return await rest(number)

        async def tail_later():
            found = await tail()
            await close(2)
            return found - 4  # an old answer, of before most were allocated

        segmented_log._rest = rest_later
        await segments[3].unsafe_write(1, b"x")
        assert await segmented_log.end() == 3 * SIZE + 2
        watch = Watch(worm)
        assert await segmented_log.open_segment() == 3
        assert watch.counts() == {"read_one": 1}, "it is remembered"
        segmented_log._rest, space.tail = rest, tail_later
        await close(1)
        assert await segmented_log.open_segment() == 6
        space.tail = tail
        await segments[6].unsafe_write(SIZE, b"seal")
        await space.trim_prefix(7)
        assert await segmented_log.end() == 7 * SIZE, "what was trimmed was written"

    virtually(work)


def test_an_end_that_was_seen_is_believed_where_nothing_newer_is_written():
    async def work(worm):
        space = worm.space("segmented_log")
        for number in range(3):
            segment = await space.alloc(metadata(ENTRIES), SIZE + 1)
            if number < 2:
                await segment.unsafe_write(SIZE, b"seal")
        segmented_log = SegmentedLog(space, SIZE, ENTRIES)
        first = segmented_log.segment(0)
        await first.unsafe_write(3, b"x")
        for _ in range(2):
            assert await segmented_log.end() == 4
        await first.unsafe_write(SIZE - 1, b"x")
        for _ in range(2):
            assert await segmented_log.end() == SIZE
        await segmented_log.segment(2).unsafe_write(2, b"x")
        for _ in range(2):
            assert await segmented_log.end() == 2 * SIZE + 3

    virtually(work)
