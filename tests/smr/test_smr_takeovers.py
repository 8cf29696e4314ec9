"""A takeover that takes longer than a follower's time-out comes to its end all the same."""

import asyncio

import pytest
from smr_worlds import Group, Witness

from wormspace.sim import NetworkOptions, World
from wormspace.sim.latency import constant
from wormspace.smr import Rotating, Sticky, Tuning
from wormspace.smr.rotating import RotatingProposer

DELAY_S = 0.4
"""A message's.  A takeover takes some nine round trips: seven times a follower's time-out."""

TIMEOUT_S = 1.0
SETTLING_S, QUIET_S = 60.0, 120.0
CALLS = 8


def slow_world(delay_s=DELAY_S):
    return World(0, network=NetworkOptions(latency=constant(delay_s)))


def group_in(world, leadership):
    return Group(
        world,
        options=lambda name: {"leadership": leadership, "tuning": Tuning(segment_size=4)},
        patience_s=30.0,
    )


async def segments(group):
    """How many segments were allocated, by the replicas that live."""
    alive = [r for name, r in group.replicas.items() if group.world.host(name).alive]
    return 1 + max(replica._core.learner.highest for replica in alive)


@pytest.mark.parametrize("crashes", [False, True])
def test_a_leader_comes_up_and_stays(crashes):
    with slow_world() as world, Witness() as witness:
        group = group_in(world, Sticky(TIMEOUT_S))

        async def drive():
            group.start_servers()
            group.start_replicas()
            await group.all_started()
            before = 0
            if crashes:
                await asyncio.sleep(SETTLING_S)
                before, leader = await segments(group), await group.leader()
                world.host(leader).processes[-1].crash()
                group.replicas.pop(leader)
            await asyncio.sleep(SETTLING_S)
            took, leader = await segments(group) - before, await group.leader()
            await asyncio.sleep(QUIET_S)
            assert await group.leader() == leader
            assert await segments(group) - before == took, "nobody takes its place"
            return took

        assert world.run(drive(), deadline_s=600) <= 3, "each replica, once"
        witness.check()


def test_owners_that_answer_late_are_not_made_to_rest_for_ever(monkeypatch):
    """Writing takes longer than the time-out, for every owner."""
    rests = []
    settle = RotatingProposer._settle

    async def noting(proposer, segment, place):
        rests.append(place)
        await settle(proposer, segment, place)

    monkeypatch.setattr(RotatingProposer, "_settle", noting)
    with slow_world(0.8) as world, Witness() as witness:
        group = group_in(world, Rotating(TIMEOUT_S))

        async def call(name):
            for number in range(CALLS):
                await group.replicas[name].put(name, str(number))

        async def drive():
            group.start_servers()
            group.start_replicas()
            await group.all_started()
            calls = [world.spawn(name, lambda name=name: call(name)) for name in group.names]
            for one in calls:
                await one.wait()

        world.run(drive(), deadline_s=3000)
        witness.check()
    assert len(rests) <= 3 * CALLS / 2, "before it was one for each call, for ever"


def test_an_owner_that_is_further_than_the_others_gets_its_turns():
    """It answers later than the time-out asks for, and the others sooner."""
    with World(0, network=NetworkOptions(latency=constant(0.002))) as world, Witness() as witness:
        group = group_in(world, Rotating(TIMEOUT_S))
        *near, far = group.names
        for other in [*near, *group.servers]:
            world.network.set_latency(far, other, constant(0.3))
            world.network.set_latency(other, far, constant(0.3))

        async def call(name):
            for number in range(CALLS):
                await group.replicas[name].put(name, str(number))

        async def drive():
            group.start_servers()
            group.start_replicas()
            await group.all_started()
            calls = [world.spawn(name, lambda name=name: call(name)) for name in group.names]
            for one in calls:
                await one.wait()

        world.run(drive(), deadline_s=300)
        witness.check()
