"""What a listener costs: in messages, in lines of Python, in memory."""

import asyncio

import pytest

from scaling import assert_growth
from wires import World as Wires
from wires import delay, simulated
from wormspace import SegmentsTrimmed, Written
from wormspace.knobs import turned
from wormspace.paxos.messages import Read
from wormspace.registers.interface import Gap, Wrote
from wormspace.sim import World

SEGMENTS = 128


def reads(client):
    return sum(isinstance(m, Read) for wire in client.wires for m in wire.sent)


def test_unfilled_segments_are_asked_for_what_is_not_known_in_one_message_each():
    """One server is lost, so that the listener looks again: once, and not as long as it is away."""

    async def work():
        w = Wires(3)
        space = w.client().space("s")
        for _ in range(SEGMENTS):
            await (await space.alloc(size=64)).unsafe_write(3, b"v")
        client = w.client()
        delay(w, 0.002)
        async with client.space("s").listen() as events:
            for _ in range(2 * SEGMENTS):
                await anext(events)
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(3)
            before, loop = reads(client), asyncio.get_running_loop()
            client.wires[2].cut()
            await asyncio.sleep(6)
            # One round, and at most a message to each server for each segment.
            after = reads(client)
            assert SEGMENTS <= after - before <= 3 * SEGMENTS + 20
            await asyncio.sleep(60)
            assert reads(client) == after
            segment = await space.segment(SEGMENTS - 1)
            began = loop.time()
            await segment.unsafe_write(5, b"news")
            assert (await waiting).value == b"news"
            assert loop.time() - began < 0.3  # also if it was looking just then
        await w.close()

    simulated(work)


@pytest.mark.parametrize("size", [1 << 10, 1 << 20, (1 << 32) - 2])
def test_catching_up_costs_what_is_written_whatever_the_size(size):
    async def work():
        w = Wires(3)
        segment = await w.client().space("s").alloc(size=size)
        offsets = [0, size // 2, size - 1]
        for offset in offsets:
            await segment.unsafe_write(offset, b"v")
        client = w.client()
        async with client.space("s").listen() as events:
            heard = [await anext(events) for _ in range(4)]
            assert [e.address.offset for e in heard if isinstance(e, Written)] == offsets
        assert sum(isinstance(m, Read) for wire in client.wires for m in wire.sent) < 20
        await w.close()

    simulated(work)


def test_catching_up_is_linear_in_what_is_written():
    worlds = []

    def prepare(n):
        world = World(1)
        w, space = world.run(fill(n))
        worlds.append((world, w))
        return lambda: world.run(hear(space, n))

    async def fill(n):
        w = Wires(3)
        segment = await w.client().space("s").alloc(size=2 * n)
        token = (await segment.capture()).token
        await segment.write_range(0, [b"v"] * n, token)
        return w, w.client().space("s")

    async def hear(space, n):
        async with space.listen() as events:
            for _ in range(n + 1):
                await anext(events)

    with turned(server_page_bytes=65 * 16):
        assert_growth(prepare, [100, 200, 400], at_most=1.0)
    for world, w in reversed(worlds):
        world.run(w.close())
        world.__exit__(None, None, None)


def test_what_a_consumer_leaves_lying_is_bounded_in_bytes_and_nothing_is_lost():
    async def work():
        w = Wires(3)
        space = w.client().space("s")
        segment = await space.alloc(size=64)
        events = w.client().space("s").listen()
        await anext(events)
        with turned(registers_queue_bytes=10_000):
            for offset in range(64):
                await segment.unsafe_write(offset, bytes(1000))
            waiting = [e for e in events._source._events if isinstance(e, Wrote)]
            assert sum(len(e.value) for e in waiting) <= 11_000
            heard = [await anext(events) for _ in range(64)]
        assert sorted(e.address.offset for e in heard) == [*range(64)]
        await events.close()
        await w.close()

    simulated(work)


def test_of_a_segment_that_was_told_whole_a_listener_keeps_nothing():
    async def work():
        w = Wires(3)
        space = w.client().space("s")
        events = w.client().space("s").listen()
        for _ in range(4):
            segment = await space.alloc(size=4)
            for offset in range(4):
                await segment.unsafe_write(offset, b"v")
            _, *heard = [await anext(events) for _ in range(5)]
            assert [e.address.offset for e in heard] == [*range(4)]
            assert not events._progress
        await events.close()
        await w.close()

    simulated(work)


def test_gaps_that_nobody_has_looked_at_yet_are_one_and_trims_are_not_forgotten_with_writes():
    async def work():
        w = Wires(3)
        space = w.client().space("s")
        first, second = [await space.alloc(size=8) for _ in range(2)]
        for offset in range(8):
            await first.unsafe_write(offset, b"v")
        client = w.client()
        events = client.space("s").listen()
        for _ in range(10):
            await anext(events)
        with turned(registers_queue_events=4):
            await first.trim()
            for offset in range(8):
                await second.unsafe_write(offset, b"w")
                client.wires[0].cut()
                client.wires[0].mend()
            await asyncio.sleep(1)
        queued = events._source._events
        assert sum(isinstance(e, Gap) for e in queued) == 1
        heard = [await anext(events) for _ in range(9)]
        assert SegmentsTrimmed(0, 1) in heard
        assert sum(isinstance(e, Written) for e in heard) == 8
        await events.close()
        await w.close()

    simulated(work)
