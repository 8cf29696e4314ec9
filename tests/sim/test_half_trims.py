"""A trim whose author died between its decision and telling the servers."""

import asyncio

import pytest

import wormspace
from wormspace.addresses import TRIM
from wormspace.registers.paxos.client import TRIM_VALUE


def test_a_prefix_trim_finishes_what_a_dead_trimmer_left_half_done():
    async def main():
        async with wormspace.connect("memory:") as worm:
            segment = await worm.space("s").alloc(size=2)
            deadline = worm.deadline(5.0)
            await worm.registers.write(("s", 0), None, TRIM, TRIM_VALUE, deadline)
            await worm.space("s").trim_prefix(1)
            with pytest.raises(wormspace.Trimmed):
                await segment.capture()

    asyncio.run(main())
