"""Replicas in a simulated world: what must hold whatever is killed, frozen or cut off."""

import asyncio

import msgspec
import pytest
from smr_worlds import SMR_PORT, TIMEOUT_S, Cells, Group, StatesDiffer, Witness, run_faulty

from wormspace.errors import WormError
from wormspace.sim import World
from wormspace.smr import Fixed, Leaderless, NoLeader, OtherStrategy, Rotating, Sticky

STRATEGIES = {
    "sticky": Sticky(TIMEOUT_S),
    "short-tempered": Sticky(0.15),
    "fixed": Fixed("r1", TIMEOUT_S),
    "rotating": Rotating(0.5),
    "leaderless": Leaderless(),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(4))
def test_histories_are_linearizable_and_states_equal_whatever_happens(strategy, seed):
    group = run_faulty(seed, options=lambda name: {"leadership": STRATEGIES[strategy]})
    assert group.answered > 100


def test_tiny_segments_change_hands_all_the_time():
    for seed in range(3):
        assert run_faulty(seed, size=2).answered > 100


@pytest.mark.soak
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_many_worlds(strategy):
    for seed in range(1000, 1100):
        run_faulty(seed, options=lambda name: {"leadership": STRATEGIES[strategy]})


def in_world(seed, drive, *, deadline_s=120, **options):
    """Run `drive(world, group)` with servers and replicas started."""
    with World(seed) as world, Witness() as witness:
        group = Group(world, **options)

        async def main():
            group.start_servers()
            group.start_replicas()
            async with asyncio.timeout(10):
                await group.all_started()
            await drive(world, group)

        world.run(main(), deadline_s=deadline_s)
        witness.check()


def on(world, group, name, work):
    """Run `work(replica)` within the replica's process."""

    async def call():
        try:
            return await work(group.replicas[name])
        finally:
            await asyncio.sleep(0.001)  # what the call began ends with this process

    return world.spawn(name, call, name="call", may_fail=True).wait()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("how", ["killed", "power cut", "cut off", "frozen"])
def test_service_resumes_within_two_election_timeouts(seed, how):
    async def drive(world, group):
        leader = await group.leader()
        other = next(name for name in group.names if name != leader)
        await on(world, group, other, lambda replica: replica.put("a", "1"))
        lost = world.now
        if how == "killed":
            world.host(leader).processes[-1].crash()
        elif how == "power cut":
            world.host(leader).crash()
        elif how == "frozen":
            world.host(leader).processes[-1].pause()
        else:
            world.network.cut([leader])
        await on(world, group, other, lambda replica: replica.append("a", "2"))
        assert world.now - lost < 2 * TIMEOUT_S
        assert await on(world, group, other, lambda replica: replica.get("a")) == "12"

    in_world(seed, drive, options=lambda name: {"leadership": Sticky(TIMEOUT_S)})


CUTS = {
    "from all": lambda network, leader, servers: network.cut([leader]),
    "from the servers": lambda network, leader, servers: network.cut([leader], servers),
    "from hearing the servers": lambda network, leader, servers: network.cut(
        servers, [leader], one_way=True
    ),
    "from telling the servers": lambda network, leader, servers: network.cut(
        [leader], servers, one_way=True
    ),
}


@pytest.mark.parametrize("strategy", ["sticky", "rotating", "leaderless"])
@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("seed", range(3))
def test_a_leader_that_is_cut_off_answers_no_linearizable_read_at_once(seed, how, strategy):
    """A read that it cannot forward has no answer, and none has an old one."""

    async def drive(world, group):
        leader = await group.leader()
        other = next(name for name in group.names if name != leader)
        await on(world, group, leader, lambda replica: replica.put("a", "old"))
        answers = []

        async def read(replica):
            """As many as come, until the other side has gone on for a while."""
            while world.now < until:
                began = world.now
                try:
                    answers.append((began, await replica.get("a")))
                except WormError:
                    answers.append((began, None))

        until = world.now + 9
        reading = [on(world, group, leader, read) for _ in range(3)]
        await asyncio.sleep(1)
        lost = world.now
        cut = CUTS[how](world.network, leader, group.servers)
        await on(world, group, other, lambda replica: replica.put("a", "new"))
        acknowledged = world.now
        await asyncio.gather(*reading)
        assert {answer for began, answer in answers if began < lost - 0.5} == {"old"}
        later = {answer for began, answer in answers if began >= acknowledged}
        assert later
        assert later <= {"new", None}
        if how == "from all":
            assert {answer for began, answer in answers if began >= lost} == {None}
        world.network.heal(cut)
        async with asyncio.timeout(30):
            assert await on(world, group, leader, lambda replica: replica.get("a")) == "new"

    in_world(seed, drive, options=lambda name: {"leadership": STRATEGIES[strategy]})


def test_without_a_majority_of_servers_nothing_is_answered_and_afterwards_all_is_there():
    async def drive(world, group):
        await on(world, group, "r1", lambda replica: replica.put("a", "1"))
        for name in ("s1", "s2"):
            world.host(name).crash()
        for call in (lambda r: r.get("a"), lambda r: r.put("a", "2")):
            with pytest.raises(NoLeader):
                await on(world, group, "r1", call)
        for name in ("s1", "s2"):
            world.host(name).processes[-1].restart()
        async with asyncio.timeout(30):
            assert await on(world, group, "r2", lambda replica: replica.get("a")) in ("1", "2")

    in_world(3, drive)


def test_a_fixed_leader_is_never_replaced():
    async def drive(world, group):
        assert await group.leader() == "r2"
        world.host("r2").processes[-1].crash()
        with pytest.raises(NoLeader):
            await on(world, group, "r1", lambda replica: replica.put("a", "1"))
        world.host("r2").processes[-1].restart()
        async with asyncio.timeout(30):
            await on(world, group, "r1", lambda replica: replica.put("a", "2"))

    in_world(1, drive, options=lambda name: {"leadership": Fixed("r2", TIMEOUT_S)})


def test_a_reader_that_steals_a_register_does_not_end_a_term():
    async def drive(world, group):
        await asyncio.sleep(1)  # two may have begun at once
        leader = await group.leader()
        number = group.replicas[leader].status().applied.segment
        await on(world, group, leader, lambda replica: replica.put("a", "1"))

        async def steal(replica):
            core = replica._core
            place = core.learner.position
            segment = await core.context.space.segment(place.segment)
            await segment.capture(place.offset)

        await on(world, group, leader, steal)
        await on(world, group, leader, lambda replica: replica.append("a", "2"))
        assert await on(world, group, leader, lambda replica: replica.get("a")) == "12"
        assert await group.leader() == leader
        assert group.replicas[leader].status().applied.segment == number

    in_world(2, drive)


def test_a_replica_whose_state_differs_is_detected_even_if_no_outcome_shows_it():
    async def drive(world, group):
        await asyncio.sleep(1)
        leader = await group.leader()
        bad = next(name for name in group.names if name != leader)
        await on(world, group, leader, lambda replica: replica.put("a", "1"))
        await asyncio.sleep(0.5)
        group.replicas[bad]._core.learner.engine.machine.cells["hidden"] = "a cosmic ray"
        for i in range(30):
            await on(world, group, leader, lambda replica, i=i: replica.put("a", str(i)))
            await asyncio.sleep(0.1)
        assert "differs" in group.replicas[bad].status().failed
        with pytest.raises(WormError, match="differs"):
            await on(world, group, bad, lambda replica: replica.get("a"))
        assert group.replicas[leader].status().failed == ""

    with pytest.raises(StatesDiffer):
        in_world(4, drive)


@pytest.mark.parametrize("other", [Rotating(), Leaderless(), Fixed("r1"), Fixed("r2")], ids=repr)
@pytest.mark.parametrize("trimmed", [False, True])
def test_a_replica_that_was_told_another_leadership_is_refused(other, trimmed):
    mine = Fixed("r1", TIMEOUT_S) if other == Fixed("r2") else Sticky(TIMEOUT_S)

    async def drive(world, group):
        await on(world, group, "r1", lambda replica: replica.put("a", "1"))
        if trimmed:
            for i in range(4 * group.size):
                await on(world, group, "r1", lambda replica, i=i: replica.put("a", str(i)))
            await on(world, group, "r1", lambda replica: replica._core.context.space.trim_prefix(2))

        async def join(replica):
            worm = replica._core.context.space.client
            with pytest.raises(OtherStrategy, match=mine.strategy) as refusal:
                await worm.replicate(
                    Cells, "cells", replica="x", port=SMR_PORT + 1, leadership=other
                )
            assert other.strategy in str(refusal.value)
            again = msgspec.structs.replace(mine, timeout_s=3.0)  # time-outs may differ
            alike = await worm.replicate(
                Cells, "cells", replica="y", host="r1", port=SMR_PORT + 1, leadership=again
            )
            await alike.close()

        await on(world, group, "r1", join)

    in_world(5, drive, options=lambda name: {"leadership": mine})


@pytest.mark.parametrize("seed", range(4))
def test_of_two_replicas_that_begin_an_object_differently_at_once_one_goes_on(seed):
    told = {"r1": Sticky(0.5), "r2": Rotating(0.5), "r3": Leaderless()}

    async def drive(world, group):
        works, refused = [], []
        for name in group.names:
            try:
                async with asyncio.timeout(20):
                    await on(world, group, name, lambda replica: replica.put("a", "1"))
                works.append(name)
            except OtherStrategy as e:
                refused.append(str(e))
        assert len(works) == 1
        assert len(refused) == 2
        assert all(told[works[0]].strategy in text for text in refused)
        async with asyncio.timeout(20):
            assert await on(world, group, works[0], lambda replica: replica.get("a")) == "1"

    in_world(seed, drive, options=lambda name: {"leadership": told[name]})
