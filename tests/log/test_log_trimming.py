"""Trimming, and a log at a glance, against a log in memory."""

import asyncio
import random

import pytest
from slots import Slots, Start, batch_of

from wormspace.log.errors import NotWritten
from wormspace.log.info import Info, look
from wormspace.log.reading import Reader
from wormspace.log.trim_point import Place
from wormspace.log.trimming import Trimmer


def trimming(slots, start=None):
    start = start or Start()
    return Trimmer(Reader(slots, start, 0.0), start), start


def befores(slots):
    """(position, time, bytes before it) of each entry."""
    for batch in slots.batches.values():
        before = batch.before
        for entry in batch.entries():
            yield entry.position, batch.time_ms, before
            before += len(entry.body) + sum(len(k) + len(v) for k, v in entry.headers.items())


def test_a_log_begins_where_it_was_trimmed_and_whole_segments_below_go():
    async def work():
        for seed in range(12):
            slots = Slots(seed, slots=30, empty=0.15 * bool(seed), holes=0.15 * bool(seed))
            trimmer, start = trimming(slots)
            for position in sorted(random.Random(seed).choices(range(slots.tail + 1), k=4)):
                assert await trimmer.below(position) == position
                assert start.true.position == position
                kept = [slot for slot, batch in slots.batches.items() if batch.end > position]
                floor = start.true.slot
                assert all(slot >= floor for slot in kept)
                if not seed:
                    assert floor == (kept[0] if kept else slots.stop), "not a slot less than it can"
                assert slots.trimmed == min(floor // slots.size, await slots.open_segment())
            assert await trimmer.below(position - 1) == position, "it goes back never"
            with pytest.raises(NotWritten, match=f"position {slots.tail + 1} is above the tail"):
                await trimmer.below(slots.tail + 1)
            assert start.true.position == position

    asyncio.run(work())


def test_the_open_segment_is_never_trimmed_and_what_another_left_is():
    async def work():
        slots = Slots(0, slots=0)
        for slot in range(16):
            slots.put(slot, batch_of(slot, 1))
        slots.space.trim_prefix = trims = Trims()
        open_now = 1

        async def open_segment():
            return open_now

        slots.open_segment = open_segment
        trimmer, start = trimming(slots)
        assert await trimmer.below(16) == 16
        assert start.true == Place(16, 16)
        assert trims.asked == [1], "the second is full, and its seal is not written"
        open_now = 2
        assert await trimmer.below(16) == 16
        assert await trimmer.below(3) == 16
        assert trims.asked == [1, 2, 2]
        fresh, _ = trimming(slots)
        assert await fresh.below(7) == 7
        assert trims.asked == [1, 2, 2], "not one segment is below"

    asyncio.run(work())


class Trims:
    def __init__(self):
        self.asked = []

    async def __call__(self, segments):
        self.asked.append(segments)


def test_a_search_ends_between_those_that_go_and_those_that_stay():
    async def work():
        for seed in range(10):
            rng = random.Random(seed)
            slots = Slots(seed, slots=24, holes=0.3)
            entries = list(befores(slots))
            total = entries[-1][2] + len(slots.entries[entries[-1][0]].body)
            begin = rng.choice((0, rng.randrange(slots.tail)))
            at = [slot for slot, batch in slots.batches.items() if batch.end > begin]
            for _ in range(6):
                cut = rng.choice((0, rng.randrange(total + 2), total * 2))
                age = rng.randrange(-1, 26) * 1000

                def small(time_ms, before, cut=cut):
                    return before >= cut

                def young(time_ms, before, age=age):
                    return time_ms >= age

                for holds in (small, young):
                    trimmer, _ = trimming(slots, Start(begin, at[0]))
                    found = await trimmer.search(holds)
                    assert begin <= found <= slots.tail
                    for position, time_ms, before in entries:
                        if position >= begin:
                            assert holds(time_ms, before) == (position >= found)

    asyncio.run(work())


def test_a_search_looks_at_few_batches():
    async def work():
        slots = Slots(0, slots=0, size=1000)
        for slot in range(500):
            slots.put(slot, batch_of(slot, 1, 10 * slot, slot))
        for wanted in (0, 1, 250, 499, 500):
            trimmer, _ = trimming(slots)
            slots.reads.clear()
            assert await trimmer.search(lambda time, before, w=wanted: before >= 10 * w) == wanted
            assert len(slots.reads) <= 20

    asyncio.run(work())


def test_the_bytes_of_all_that_was_appended_are_known_and_what_is_there_at_a_glance():
    async def work():
        for seed in range(10):
            slots = Slots(seed, slots=24)
            trimmer, _ = trimming(slots)
            last = list(slots.batches.values())[-1]
            assert await trimmer.total() == last.before + last.size
            begin = random.Random(seed).choice((0, random.Random(seed).randrange(slots.tail)))
            kept = [(slot, batch) for slot, batch in slots.batches.items() if batch.end > begin]
            start = Start(begin, kept[0][0])
            info = await look("orders", Reader(slots, start, 0.0))
            there = next(before for position, _, before in befores(slots) if position >= begin)
            assert info == Info(
                "orders",
                begin,
                slots.tail,
                last.before + last.size - there,
                slots.size,
                kept[0][1].time_ms / 1000,
                last.time_ms / 1000,
            )

    asyncio.run(work())


def test_a_log_without_entries_has_no_bytes_and_no_times():
    async def work():
        for start in (Start(), Start(16, 16)):
            slots = Slots(0, slots=0)
            if start.at.slot:
                slots.trimmed = 2
            trimmer, _ = trimming(slots, start)
            assert await trimmer.total() == 0
            assert await trimmer.search(lambda time_ms, before: True) == start.at.position
            assert await trimmer.below(start.at.position) == start.at.position
            at = start.at.position
            info = await look("orders", Reader(slots, start, 0.0))
            assert info == Info("orders", at, at, 0, slots.size, None, None)

    asyncio.run(work())
