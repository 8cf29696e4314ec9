"""Trims that the simulator once showed not to hold: holes in a prefix, and segments told whole."""

import asyncio

import pytest

import wormspace
from wires import World as Wires
from wires import delay, simulated
from wormspace.paxos.messages import Trim


def test_a_prefix_trim_leaves_nothing_below_it():
    """Single trims, or a prefix trim that failed half-way, leave segments between trimmed ones."""

    async def main():
        async with wormspace.connect("memory:") as worm:
            space = worm.space("s")
            for _ in range(4):
                await space.alloc(size=2)
            for number in (0, 1, 3):
                await space.trim(number)
            await space.trim_prefix(4)
            with pytest.raises(wormspace.Trimmed):
                await space.segment(2)

    asyncio.run(main())


def test_calls_that_trim_a_prefix_at_the_same_time_tell_of_no_empty_range():
    """One call has told the servers while the other looks for the head."""

    async def work():
        w = Wires(3)
        space = w.client().space("s")
        for _ in range(6):
            await space.alloc(size=2)
        delay(w, 0.01)
        first = asyncio.ensure_future(space.trim_prefix(6))
        await asyncio.sleep(0.015)
        looking = space._find_head

        async def look_late(deadline):
            await asyncio.wait([first])
            return await looking(deadline)

        space._find_head = look_late
        await asyncio.gather(first, space.trim_prefix(5), space.trim_prefix(6))
        trims = [m for wire in w.wires[0] for m in wire.sent if isinstance(m, Trim)]
        assert trims
        assert all(m.segment < m.stop for m in trims)
        await w.close()

    simulated(work)


def test_a_client_remembers_of_trimmed_segments_where_they_are_and_not_each():
    async def main():
        async with wormspace.connect("memory:") as worm:
            space = worm.space("s")
            for _ in range(50):
                await space.alloc(size=1)
            await space.trim_prefix(40)
            await space.trim(45)
            for number in (*range(40), 45):
                with pytest.raises(wormspace.Trimmed):
                    await space.segment(number)
            assert worm.registers._trimmed_told["s"].spans() == [(0, 40), (45, 46)]

    asyncio.run(main())
