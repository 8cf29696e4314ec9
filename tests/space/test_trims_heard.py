"""A trim is heard once, whenever it came, and costs a listener no more than its spans."""

import asyncio
import itertools
import random

import pytest

from scaling import assert_growth
from wires import World as Wires
from wires import simulated
from wormspace import Address, Allocated, SegmentsTrimmed, Written
from wormspace.knobs import turned
from wormspace.registers.interface import RegistersTrimmed
from wormspace.registers.spans import SpanSet
from wormspace.sim import World
from wormspace.space.follow import Follower


async def filled(w, count, size=1):
    """A space of so many segments, register 0 of each written."""
    space = w.client().space("s")
    for _ in range(count):
        await (await space.alloc(size=size)).unsafe_write(0, b"v")
    return space


async def heard(events, count):
    async with asyncio.timeout(20):
        return [await anext(events) for _ in range(count)]


async def silent(events):
    """Nothing more comes."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(20):
            print("still:", await anext(events))


@pytest.mark.parametrize("page", [1, 4096])
def test_a_trim_of_a_segment_that_was_heard_in_full_is_heard_after_a_gap(page):
    async def work():
        w = Wires(3)
        space = await filled(w, 8)
        client = w.client()
        async with client.space("s").listen() as events:
            await heard(events, 16)
            for wire in client.wires:
                wire.cut()
            for number in (1, 3, 4, 6):
                await space.trim(number)
            for wire in client.wires:
                wire.mend()
            news = await heard(events, 3)
            assert news == [SegmentsTrimmed(1, 2), SegmentsTrimmed(3, 5), SegmentsTrimmed(6, 7)]
            await silent(events)
        await w.close()

    with turned(server_page_spans=page):
        simulated(work)


def test_trims_that_overlap_are_told_once_for_each_segment():
    async def work():
        w = Wires(3)
        space = await filled(w, 5)
        async with w.client().space("s").listen() as events:
            await heard(events, 10)
            await space.trim(2)
            await space.trim_prefix(4)
            assert await heard(events, 3) == [
                SegmentsTrimmed(2, 3),
                SegmentsTrimmed(0, 2),
                SegmentsTrimmed(3, 4),
            ]
            await silent(events)
        await w.close()

    simulated(work)


@pytest.mark.parametrize("page", [1, 4096])
def test_history_has_trims_in_their_place_among_the_addresses(page):
    async def work():
        w = Wires(3)
        space = await filled(w, 6, size=2)
        for number in (0, 1, 3):
            await space.trim(number)
        async with w.client().space("s").listen() as events:
            said = await heard(events, 8)
            await silent(events)
        assert said == [
            SegmentsTrimmed(0, 2),
            Allocated(2, 2, b""),
            Written(Address(2, 0), b"v"),
            SegmentsTrimmed(3, 4),
            Allocated(4, 2, b""),
            Written(Address(4, 0), b"v"),
            Allocated(5, 2, b""),
            Written(Address(5, 0), b"v"),
        ]
        await w.close()

    with turned(server_page_spans=page):
        simulated(work)


def test_a_listener_that_begins_or_stops_in_the_midst_of_a_trim_hears_of_its_part():
    async def work():
        w = Wires(3)
        space = await filled(w, 6)
        await space.trim_prefix(5)
        async with w.client().space("s").listen(2, stop=4) as events:
            assert await heard(events, 1) == [SegmentsTrimmed(2, 4)]
            await silent(events)
        await w.close()

    simulated(work)


class Source:
    """What a listener is fed with; a test plays the registers behind it."""

    def __init__(self):
        self.client = self.registers = self
        self.name = "s"

    def listen(self, space, first, stop):
        return self

    def close(self):
        pass

    def is_coming(self, number, offset):
        return False

    def leave(self, first, stop):
        pass


@pytest.mark.parametrize("first", [0, 3, 1 << 40])
def test_a_trim_costs_the_same_however_many_segments_it_is_of(first):
    worlds = []

    def prepare(n):
        worlds.append(World(1))
        follower = worlds[-1].run(follow())
        return lambda: hear(follower, n)

    async def follow():
        return Follower(Source(), Address(0, 0), (1 << 62) - 1)

    def hear(follower, n):
        assert follower._take(RegistersTrimmed("s", first, first + n)) == [
            SegmentsTrimmed(first, first + n)
        ]
        assert follower._take(RegistersTrimmed("s", first, first + n)) == []
        assert len(follower._next(0)) <= 1

    assert_growth(prepare, [1000, 2000, 4000], at_most=0.0)
    hear(worlds[-1].run(follow()), 1 << 61)
    for world in reversed(worlds):
        world.__exit__(None, None, None)


def test_catching_up_on_a_trimmed_prefix_costs_the_same_however_long_it_is():
    worlds = []

    def prepare(n):
        world = World(1)
        w, space = world.run(trimmed(n))
        worlds.append((world, w))
        return lambda: world.run(hear(space, n))

    async def trimmed(n):
        w = Wires(3)
        await (await filled(w, n)).trim_prefix(n)
        return w, w.client().space("s")

    async def hear(space, n):
        async with space.listen() as events:
            assert await anext(events) == SegmentsTrimmed(0, n)

    assert_growth(prepare, [20, 40, 80], at_most=0.0)
    for world, w in reversed(worlds):
        world.run(w.close())
        world.__exit__(None, None, None)


def test_a_set_of_spans_is_the_set_of_their_numbers():
    rng = random.Random(7)
    for _ in range(100):
        below = rng.choice([0, 0, 5])
        spans, numbers = SpanSet(below), set(range(below))
        for _ in range(rng.randrange(12)):
            lo = rng.randrange(30)
            hi = lo + rng.randrange(6)
            spans.add(lo, hi)
            numbers |= set(range(lo, hi))
            assert all((n in spans) == (n in numbers) for n in range(40))
            assert {n for lo, hi in spans.spans() for n in range(lo, hi)} == numbers
            assert all(a[1] < b[0] for a, b in itertools.pairwise(spans.spans()))
            lo, hi = sorted(rng.randrange(40) for _ in range(2))
            missing = [n for a, b in spans.missing(lo, hi) for n in range(a, b)]
            assert missing == [n for n in range(lo, hi) if n not in numbers]
            assert spans.next_missing(lo) == next(n for n in range(lo, 99) if n not in numbers)
            assert spans.below == next(n for n in range(99) if n not in numbers)
