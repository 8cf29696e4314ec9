"""Every call of a replica, a client and a lock ends by its time-out, and says what is missing.

Time is virtual.  Servers are silent, or nobody leads, or this machine is cut off.
"""

import asyncio
import logging
import random

import pytest
from smr_worlds import SMR_PORT, Cells, Group

from wormspace.errors import Closed, Unavailable, WormError
from wormspace.sim import World
from wormspace.smr import (
    Causal,
    Eventual,
    Fixed,
    Leaderless,
    NoLeader,
    Rotating,
    Sequential,
    Sticky,
    attach,
)
from wormspace.smr.remote import addresses_of

PATIENCE_S = 2.0
TIMEOUT_S = 2 * PATIENCE_S

STRATEGIES = {
    "sticky": Sticky(0.5),
    "fixed": Fixed("r1", 0.5),
    "rotating": Rotating(0.5),
    "leaderless": Leaderless(),
}
BY_NAME = {one.strategy: one for one in STRATEGIES.values()}


async def many(call):
    """More calls than travel at once: those that wait for others have no more time than they."""
    ended = await asyncio.gather(*(call() for _ in range(3000)), return_exceptions=True)
    raise next(error for error in ended if isinstance(error, BaseException))


async def behind(view, level):
    await view.at(level).session("9/0").get("a")


CALLS = {
    "command": lambda replica, remote: replica.put("a", "1"),
    "many commands": lambda replica, remote: many(lambda: replica.put("a", "1")),
    "query": lambda replica, remote: replica.get("a"),
    "many queries": lambda replica, remote: many(lambda: replica.get("a")),
    "sequential query": lambda replica, remote: behind(replica, Sequential()),
    "causal query": lambda replica, remote: behind(replica, Causal()),
    "a client's command": lambda replica, remote: remote.put("a", "1"),
    "many commands of a client": lambda replica, remote: many(lambda: remote.put("a", "1")),
    "a client's query": lambda replica, remote: remote.get("a"),
    "a client's sequential query": lambda replica, remote: behind(remote, Sequential()),
    "upgrade": lambda replica, remote: replica.upgrade(),
    "addresses": lambda replica, remote: addresses_of(replica._core.context.space.client, "cells"),
    "another replica": lambda replica, remote: replica._core.context.space.client.replicate(
        Cells,
        "cells",
        host="r2",
        leadership=BY_NAME[replica._core.learner.strategy],
    ),
}

STILL_WORK = {"addresses", "another replica"}
"""They ask servers only."""


def trouble(world, group, what):
    if what == "servers silent":
        for name in group.servers:
            world.host(name).crash()
    elif what == "cut off":
        world.network.cut(["r2"])
    else:
        for name in ("r1", "r3"):
            world.host(name).processes[-1].crash()


async def timed(world, call):
    """What came of a call, and how long it took."""
    began = world.now
    try:
        return await call, world.now - began
    except WormError as error:
        return error, world.now - began


@pytest.mark.parametrize("what", ["servers silent", "cut off", "nobody leads"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_call_ends_by_its_timeout_and_says_what_is_missing(strategy, what):
    logging.getLogger("wormspace").setLevel(logging.CRITICAL)
    options = {"leadership": STRATEGIES[strategy]}
    if what == "nobody leads" and strategy != "fixed":
        pytest.skip("somebody else leads soon")
    ended = []
    with World(5) as world:
        group = Group(world, options=lambda name: options, patience_s=PATIENCE_S)

        async def run(name):
            replica = group.replicas["r2"]
            addresses = [(name, SMR_PORT) for name in group.names]
            remote = await attach(
                Cells, "cells", addresses, timeout=TIMEOUT_S, rng=random.Random(1)
            )
            said, took = await timed(world, CALLS[name](replica, remote))
            await remote.close()
            if name in STILL_WORK and what == "nobody leads":
                ended.append(name)
                return
            ended.append(name)
            assert isinstance(said, Unavailable), f"{name}: {said!r}"
            assert took <= TIMEOUT_S + 0.01, f"{name} took {took} s"
            if isinstance(said, NoLeader):
                assert "unknown" in str(said)
                assert "(" in str(said), f"{name} does not say what is missing: {said}"

        async def main():
            group.start_servers()
            group.start_replicas()
            await group.all_started()
            await group.leader()
            trouble(world, group, what)
            await asyncio.sleep(3)
            for name in CALLS:
                call = world.spawn("r2", lambda name=name: run(name), name="call", may_fail=True)
                await call.wait()

        world.run(main(), deadline_s=400)
        assert ended == list(CALLS)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_who_waits_while_a_replica_is_closed_is_told_at_once(strategy):
    logging.getLogger("wormspace").setLevel(logging.CRITICAL)
    options = {"leadership": STRATEGIES[strategy]}
    told = []
    with World(6) as world:
        group = Group(world, options=lambda name: options, patience_s=PATIENCE_S)

        async def run():
            replica = group.replicas["r2"]
            level = replica.at(Sequential()).session("9/0")
            calls = [replica.put("a", "1"), replica.get("a"), level.get("a")]
            waiting = [asyncio.ensure_future(timed(world, call)) for call in calls]
            await asyncio.sleep(0.1)
            await replica.close()
            for said, took in await asyncio.gather(*waiting):
                assert isinstance(said, WormError), said
                assert took < 0.5
            with pytest.raises(Closed):
                await replica.put("a", "1")
            with pytest.raises(Closed):
                await replica.at(Eventual()).get("a")
            told.append(True)

        async def main():
            group.start_servers()
            group.start_replicas()
            await group.all_started()
            await group.leader()
            for name in group.servers:
                world.host(name).crash()
            await world.spawn("r2", run, name="call", may_fail=True).wait()

        world.run(main(), deadline_s=100)
        assert told
