"""A writer that lost its registers knows from the refusal how high it must go to get them back."""

import pytest

import wormspace
from inprocess import serving
from wormspace import CaptureLost


async def test_the_capture_after_a_lost_write_is_granted_at_once():
    async with serving() as server:
        url = f"worm://127.0.0.1:{server.port}"
        async with wormspace.connect(url) as loser, wormspace.connect(url) as winner:
            segment = await loser.space("s").alloc(size=4)
            token = (await segment.capture()).token
            theirs = await winner.space("s").segment(0)
            for _ in range(8):  # ever higher ballots, of which the loser hears nothing
                await theirs.capture()
            with pytest.raises(CaptureLost):
                await segment.write(0, b"late", token)
            before = server.node.counters.captures
            again = await segment.capture()
            assert server.node.counters.captures == before + 1
            await segment.write(0, b"mine", again.token)
