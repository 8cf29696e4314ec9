"""What the servers take is asked of them: what fits goes on, what does not fails alone."""

import asyncio
import random

import pytest
from smr_worlds import SMR_PORT, Cells, Group

from wormspace.errors import ValueTooLarge
from wormspace.knobs import turned
from wormspace.rpc import Caller
from wormspace.server.limits import Limits
from wormspace.sim import World
from wormspace.smr import Leaderless, Rotating, Sticky, attach
from wormspace.smr.calls import encode_calls
from wormspace.smr.records import Packet, Reply, decoder, encode

STRATEGIES = {"sticky": Sticky(0.5), "rotating": Rotating(0.5), "leaderless": Leaderless()}
TINY = Limits(max_value=4096)


def in_tiny(strategy, drive, **knobs):
    """A world whose servers take small values only; `drive(replica, remote)` runs on a replica."""
    with World(1) as world, turned(**knobs):
        group = Group(world, options=lambda name: {"leadership": STRATEGIES[strategy]}, limits=TINY)

        async def run():
            addresses = [(name, SMR_PORT) for name in group.names]
            async with await attach(
                Cells, "cells", addresses, timeout=8.0, rng=random.Random(1)
            ) as remote:
                await drive(group.replicas["r2"], remote)

        async def main():
            group.start_servers()
            group.start_replicas()
            await group.all_started()
            await world.spawn("r2", run, name="call", may_fail=True).wait()
            for replica in group.replicas.values():
                assert replica.status().failed == ""

        world.run(main(), deadline_s=200)


@pytest.mark.parametrize("side", ["replica", "remote"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_small_calls_fill_registers_of_tiny_servers_and_a_large_one_fails_alone(strategy, side):
    async def drive(replica, remote):
        target = replica if side == "replica" else remote
        calls = [target.put(f"{i}", "x" * 50) for i in range(300)]
        calls.insert(150, target.put("large", "x" * 5000))
        calls.insert(20, target.put("fits", "x" * 2500))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        failed = [answer for answer in answers if answer is not None]
        assert len(failed) == 1, failed[:3]
        assert isinstance(failed[0], ValueTooLarge)
        assert "max_value" in str(failed[0])
        assert await target.get("299") == "x" * 50
        assert await target.get("large") is None
        with pytest.raises(ValueTooLarge):
            await target.put("large", "x" * 5000)
        assert await target.get("fits") == "x" * 2500

    in_tiny(strategy, drive)


def test_one_call_at_a_time_with_the_smallest_packets():
    async def drive(replica, remote):
        for target in (replica, remote):
            await asyncio.gather(*(target.append("a", f"{i};") for i in range(20)))
        assert len((await remote.get("a")).split(";")) == 41

    in_tiny("sticky", drive, smr_packets_under_way=1, smr_packet_calls=1, smr_packet_bytes=1)


def test_a_packet_that_does_not_fit_costs_its_sender_only():
    """Whatever a client sends: the leader goes on leading."""

    async def drive(replica, remote):
        await replica.put("a", "1")
        leader = replica.status().leader
        method = Cells.declaration.methods["put"]
        raw = encode_calls([method], [("a", "x" * 100_000)])
        caller = Caller(leader.host, leader.port)
        answer = await caller.call("smr/cells/submit", encode(Packet(bytes(8), 1, 1, raw)), 5.0)
        reply = decoder(Reply)(answer)
        assert (reply.body, reply.too_large) == (None, True)
        assert 2048 < reply.largest < 4096
        await caller.close()
        await replica.put("b", "2")
        assert replica.status().leader == leader

    in_tiny("sticky", drive)
