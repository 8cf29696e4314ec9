"""Gathering: which calls travel together, and when."""

import asyncio
import random
from contextlib import asynccontextmanager

import msgspec
import pytest

from wormspace.knobs import KNOBS
from wormspace.smr import StateMachine, command
from wormspace.smr.consistency import Session
from wormspace.smr.records import Outcome, Reply, encode
from wormspace.smr.submit import Submitter
from wormspace.space import Address

UNDER_WAY, PACKET_CALLS = KNOBS.smr_packets_under_way, KNOBS.smr_packet_calls


class Counter(StateMachine):
    total: int = 0

    @command
    def add(self, amount: int) -> int:
        self.total += amount
        return self.total


class Road:
    """Where packets go; each arrives when it is told to."""

    def __init__(self):
        self.packets = []
        self.sizes = []
        self.submitter = Submitter(Counter.declaration, 60.0, random.Random(1), self._carry)

    async def _carry(self, packet, deadline):
        _, [(_, amounts)] = msgspec.msgpack.decode(packet.commands)
        self.sizes.append(len(amounts))
        arrived = asyncio.get_running_loop().create_future()
        self.packets.append(arrived)
        await arrived
        return Reply(encode(Outcome(amounts, {})), Address(0, 1))

    def add(self, count):
        method = Counter.declaration.methods["add"]
        session = Session()
        return [self.submitter.add(method, (n,), session) for n in range(count)]

    def arrive(self):
        """The packet that left first arrives."""
        self.packets.pop(0).set_result(None)


async def turns(count=4):
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def opened():
    road = Road()
    try:
        yield road
    finally:
        await road.submitter.close()


async def test_the_calls_of_a_turn_travel_together():
    async with opened() as road:
        futures = road.add(5)
        await turns()
        assert road.sizes == [5]
        road.arrive()
        assert await asyncio.gather(*futures) == list(range(5))


async def test_what_is_called_while_enough_is_under_way_travels_in_the_next_packet():
    async with opened() as road:
        for n in range(UNDER_WAY):
            road.add(n + 1)
            await turns()
        waiting = road.add(3) + road.add(4)
        await turns()
        assert road.sizes == list(range(1, UNDER_WAY + 1))
        road.arrive()
        await turns()
        assert road.sizes[UNDER_WAY:] == [7]
        assert not any(future.done() for future in waiting)


async def test_a_full_packet_leaves_before_the_turn_is_over():
    async with opened() as road:
        before = len(asyncio.all_tasks())
        road.add(PACKET_CALLS + 1)
        assert len(asyncio.all_tasks()) == before + 1
        await turns()
        assert road.sizes == [PACKET_CALLS, 1]


async def test_no_more_packets_than_may_be_under_way_however_much_is_called():
    async with opened() as road:
        futures = road.add((UNDER_WAY + 2) * PACKET_CALLS)
        await turns()
        assert road.sizes == [PACKET_CALLS] * UNDER_WAY
        for more in (1, 2):
            road.arrive()
            await turns()
            assert road.sizes == [PACKET_CALLS] * (UNDER_WAY + more)
        for _ in range(len(road.packets)):
            road.arrive()
        assert len(await asyncio.gather(*futures)) == (UNDER_WAY + 2) * PACKET_CALLS


async def test_a_fault_of_ours_on_the_way_leaves_nobody_waiting():
    class Broken(Exception):
        pass

    async def carry(packet, deadline):
        raise Broken

    submitter = Submitter(Counter.declaration, 60.0, random.Random(1), carry)
    call = submitter.add(Counter.declaration.methods["add"], (1,), Session())
    async with asyncio.timeout(5):
        with pytest.raises(Broken):
            await call
    await submitter.close()
