"""Trims that the simulator once showed not to hold: holes in a prefix, and segments told whole."""

import asyncio

import pytest

import wormspace


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
