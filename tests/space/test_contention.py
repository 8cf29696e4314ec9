"""Many clients that want the same at once: all of them get something, in time."""

import asyncio

from wires import World as Wires
from wires import delay, simulated

CLIENTS = 100


def test_a_hundred_clients_allocate_at_once():
    async def work():
        w = Wires(3)
        spaces = [w.client().space("s") for _ in range(CLIENTS)]
        delay(w, 0.002)
        began = asyncio.get_running_loop().time()
        segments = await asyncio.gather(*(space.alloc(size=1) for space in spaces))
        assert asyncio.get_running_loop().time() - began < 3
        frames = sum(len(wire.sent) for wires in w.wires for wire in wires)
        assert frames < 300 * CLIENTS
        assert sorted(segment.number for segment in segments) == list(range(CLIENTS))
        await w.close()

    simulated(work)


def test_many_clients_capture_one_register_at_once():
    async def work():
        w = Wires(3)
        first = await w.client().space("s").alloc(size=1)
        segments = [await w.client().space("s").segment(first.number) for _ in range(CLIENTS // 4)]
        delay(w, 0.001)
        await asyncio.gather(*(segment.capture(0) for segment in segments))
        await w.close()

    simulated(work)
