"""What a client tells the servers of decisions fits into messages that they take."""

import asyncio

import wormspace
from inprocess import serving
from wormspace.paxos.messages import MAX_ITEMS


async def test_marks_of_more_spans_than_a_message_has_travel_in_several():
    count = MAX_ITEMS + 100
    async with (
        serving() as server,
        await wormspace.connect(f"worm://127.0.0.1:{server.port}") as worm,
    ):
        segment = await worm.space("s").alloc(size=2 * count)
        captured = await segment.capture()
        await asyncio.gather(*(segment.write(2 * i, b"v", captured.token) for i in range(count)))
        worm.registers._partitions[0].send_marks()
        [held] = (await segment.inspect()).values()
        written = [state for state in held if state.value is not None]
        assert len(written) == count
        assert all(state.decided for state in written)
        assert server.node.metrics()["bad_requests"] == 0
