"""Who takes part is known, whoever leads; who is gone is in no list, and counts no more."""

import asyncio

import pytest
from smr_worlds import SMR_PORT, Cells, Group

import wormspace
from wormspace.sim import World
from wormspace.smr import (
    Counter,
    Leaderless,
    Rotating,
    Sequential,
    Sticky,
    TrimWhenApplied,
    Tuning,
    attach,
)
from wormspace.smr.peers import FORGET_S, MOST, Peers
from wormspace.smr.records import Member
from wormspace.smr.remote import LEARNED
from wormspace.space import Address

STRATEGIES = {"sticky": Sticky(0.5), "rotating": Rotating(0.5), "leaderless": Leaderless()}

ANN, BOB, CY = (Member(name, name.encode(), name, 1) for name in ("ann", "bob", "cy"))


def test_whoever_sends_names_fills_no_memory_and_pushes_out_nobody_who_is_heard():
    now = [0.0]
    peers = Peers(ANN, lambda: now[0])
    peers.hear(BOB, Address(3, 0))
    for n in range(3 * MOST):
        now[0] += 0.001
        peers.introduce([Member(f"{n}", b"%d" % n, "h", 1)])
    assert len(peers.members()) == MOST
    assert BOB in peers.members()
    assert Member(f"{3 * MOST - 1}", b"%d" % (3 * MOST - 1), "h", 1) in peers.members()
    for n in range(3 * MOST):
        peers.hear(Member(f"x{n}", b"x%d" % n, "h", 1), Address(0, 0))
    assert len(peers.members()) == len(peers.heard()) == MOST
    assert BOB in peers.members(), "who is alive is not pushed out"


def test_of_those_who_were_only_introduced_who_was_named_longest_ago_makes_room():
    now = [0.0]
    peers = Peers(ANN, lambda: now[0])
    named = [Member(f"{n}", b"%d" % n, "h", 1) for n in range(MOST)]
    for one in named:
        now[0] += 0.01
        peers.introduce([one])
    peers.introduce(named[:3])
    peers.introduce([BOB])
    left = set(peers.members())
    assert set(named) - left == {named[3]}
    assert BOB in left


def test_who_was_not_heard_of_for_a_while_is_forgotten_and_counts_for_nothing():
    now = [0.0]
    peers = Peers(ANN, lambda: now[0])
    peers.hear(BOB, Address(3, 0), Address(2, 0))
    peers.introduce([ANN, BOB, CY])
    assert peers.members() == [BOB, CY]
    assert [(one.member, one.applied, one.kept) for one in peers.heard()] == [
        (BOB, Address(3, 0), Address(2, 0))
    ]
    peers.hear(BOB, Address(4, 0))
    assert peers.heard()[0].kept == Address(2, 0)
    now[0] += FORGET_S - 1
    peers.introduce([BOB])  # hearsay keeps a name, not what it had
    now[0] += 2
    assert peers.members() == [BOB]
    assert peers.heard() == []
    now[0] += FORGET_S
    assert peers.members() == []


def test_another_one_of_the_same_name_has_kept_nothing_yet():
    peers = Peers(ANN, lambda: 0.0)
    peers.hear(BOB, Address(3, 0), Address(2, 0))
    again = Member("bob", b"another", "bob", 1)
    peers.hear(again, Address(1, 0))
    assert [(one.member, one.kept) for one in peers.heard()] == [(again, Address(0, 0))]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_segments_are_trimmed_when_all_have_applied_them_whoever_leads(strategy):
    options = {"leadership": STRATEGIES[strategy], "durability": TrimWhenApplied(3)}
    with World(3) as world:
        group = Group(world, options=lambda name: options, size=4)

        async def work(replica):
            for i in range(20):
                await replica.put("a", f"{i}")
            await asyncio.sleep(10)
            assert await replica._core.context.space.head() > 2

        async def main():
            group.start_servers()
            group.start_replicas()
            await group.all_started()
            replica = group.replicas["r2"]
            await world.spawn("r2", lambda: work(replica), name="call", may_fail=True).wait()

        world.run(main(), deadline_s=100)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_replicas_that_are_gone_leave_the_lists_of_the_others(strategy):
    leadership = STRATEGIES[strategy]
    with World(4) as world:
        group = Group(world, options=lambda name: {"leadership": leadership}, size=4)

        async def come_and_go(replica):
            for i in range(4):
                guest = await replica._core.context.space.client.replicate(
                    Cells,
                    "cells",
                    replica=f"guest {i}",
                    host="r1",
                    port=SMR_PORT + 1 + i,
                    leadership=leadership,
                    tuning=Tuning(segment_size=4),
                    rng=world.random_for(f"guest {i}"),
                )
                await guest.put("a", f"{i}")
                await asyncio.sleep(2)
                await guest.close()
            await asyncio.sleep(3 * FORGET_S)
            for i in range(12):  # where turns rotate, they are no owners any more
                await replica.put("a", f"{i}")
            await asyncio.sleep(FORGET_S + 5)

        async def main():
            group.start_servers()
            group.start_replicas()
            await group.all_started()
            await world.spawn(
                "r1", lambda: come_and_go(group.replicas["r1"]), name="call", may_fail=True
            ).wait()
            for replica in group.replicas.values():
                context = replica._core.context
                assert {one.name for one in context.peers.members()} <= set(group.names)
                assert {host for host, port in context._callers} <= set(group.names)
                assert {port for host, port in context._callers} <= {SMR_PORT}

        world.run(main(), deadline_s=200)


async def test_who_stops_waiting_for_a_position_leaves_nothing():
    async with (
        wormspace.connect("memory:") as worm,
        await worm.replicate(Counter, "hits", leadership=Sticky(0.2)) as replica,
    ):
        ahead = replica.at(Sequential()).session("5/0")
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await ahead.read()
        await asyncio.sleep(0)
        assert replica._core.learner._waiting == []


async def test_a_client_forgets_the_leaders_of_long_ago():
    async with await attach(Counter, "hits", [("127.0.0.1", 1)]) as remote:
        line = remote._client
        for port in range(2, 200):
            line._turn(line._leader, Member(f"{port}", b"", "127.0.0.1", port))
        assert line.addresses[0] == ("127.0.0.1", 1)
        assert len(line.addresses) <= 1 + LEARNED
        assert line._leader in line.addresses
