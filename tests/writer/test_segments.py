"""The next segment is there for whoever needs it, and one is held until it is used up."""

import asyncio

import pytest
from tests.virtual import Watch, virtually

from wormspace.errors import Trimmed, Unavailable
from wormspace.space import Token
from wormspace.writer.segments import CapturedSegment, find_or_allocate

SIZE = 8


def test_a_segment_is_allocated_by_the_first_who_needs_it_with_all_below_it():
    async def work(worm):
        space = worm.space("s")
        segment, is_new = await find_or_allocate(space, 2, b"mine", SIZE)
        assert (segment.number, segment.metadata, segment.size, is_new) == (2, b"mine", SIZE, True)
        assert await space.tail() == 3
        segment, is_new = await find_or_allocate(space, 1, b"other", 1)
        assert (segment.number, segment.metadata, segment.size, is_new) == (1, b"mine", SIZE, False)
        assert await space.tail() == 3
        await space.trim_prefix(1)
        with pytest.raises(Trimmed):
            await find_or_allocate(space, 0, b"mine", SIZE)

    virtually(work)


def test_of_many_who_need_it_one_has_allocated_it():
    async def work(worm):
        space = worm.space("s")
        finding = (find_or_allocate(space, 0, b"%d" % n, SIZE) for n in range(5))
        found = await asyncio.gather(*finding)
        assert {segment.number for segment, _ in found} == {0}
        assert len({segment.metadata for segment, _ in found}) == 1
        [own] = [n for n, (_, is_new) in enumerate(found) if is_new]
        assert found[0][0].metadata == b"%d" % own

    virtually(work)


def test_it_is_looked_for_no_longer_than_it_may():
    async def work(worm):
        watch, loop = Watch(worm), asyncio.get_running_loop()
        await find_or_allocate(worm.space("s"), 0, b"", SIZE, 3.0)
        deadlines = [given[-1] for _, given in watch.calls]
        assert deadlines == pytest.approx([loop.time() + 3.0] * len(deadlines))

        def fail(name, given):
            raise Unavailable("no servers")

        watch.before = fail
        with pytest.raises(Unavailable, match="no servers"):
            await find_or_allocate(worm.space("s"), 1, b"", SIZE)

    virtually(work)


def test_a_captured_segment_is_full_when_its_last_register_is_given_out():
    async def work(worm):
        segment = await worm.space("s").alloc(size=2)
        token = Token("s", 0, 0, 2, b"fence")
        held = CapturedSegment(segment, token)
        assert (held.segment, held.token, held.next) == (segment, token, 0)
        fulls = []
        for held.next in range(3):
            fulls.append(held.is_full)
        assert fulls == [False, False, True]
        assert CapturedSegment(segment, token, 2).is_full

    virtually(work)
