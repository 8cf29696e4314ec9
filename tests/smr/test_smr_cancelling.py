"""Every call of a replica and of a client is cancelled at each of its waits, and leaves nothing.

A command that was cancelled was applied once, or not at all; the same call works afterwards.
"""

import asyncio
import contextlib
import random

import pytest

import wormspace
from cancelling import cancel_everywhere
from wormspace.smr import (
    Causal,
    Counter,
    Eventual,
    Leaderless,
    Rotating,
    Sequential,
    Sticky,
    attach,
)
from wormspace.smr.remote import addresses_of

STRATEGIES = {"sticky": Sticky(0.3), "rotating": Rotating(0.3), "leaderless": Leaderless()}


class Scene:
    """A replica and a client of it, on one connection to an embedded space."""

    def __init__(self, worm, replica, remote, leadership):
        self.worm = worm
        self.replica = replica
        self.remote = remote
        self.leadership = leadership

    async def join(self, seed):
        """Another replica of the same object."""
        return await self.worm.replicate(
            Counter, "hits", leadership=self.leadership, rng=random.Random(seed)
        )


@contextlib.asynccontextmanager
async def scene(strategy="sticky"):
    leadership = STRATEGIES[strategy]
    async with (
        wormspace.connect("memory:") as worm,
        await worm.replicate(
            Counter, "hits", leadership=leadership, rng=random.Random(1)
        ) as replica,
    ):
        member = replica.status().member
        async with await attach(
            Counter, "hits", [(member.host, member.port)], rng=random.Random(2)
        ) as remote:
            await remote.read()
            yield Scene(worm, replica, remote, leadership)


async def check_serving(it):
    """What was cancelled was done at most once, and everybody still serves."""
    held = await it.replica.read()
    assert held in (0, 1)
    assert await it.remote.add(1) == held + 1
    assert await it.replica.add(1) == held + 2
    assert await it.remote.read() == held + 2
    context = it.replica._core.context
    assert not context.waiting
    assert not it.replica._core.router._forwarded
    for gatherer in (it.replica._core._submitter, it.remote._client._submitter):
        assert not gatherer._tasks
        assert not gatherer._open


CALLS = {
    "command": lambda it: it.replica.add(1),
    "a client's command": lambda it: it.remote.add(1),
    "query": lambda it: it.replica.read(),
    "a client's query": lambda it: it.remote.read(),
    "sequential query": lambda it: it.replica.at(Sequential()).read(),
    "causal query of a client": lambda it: it.remote.at(Causal()).read(),
    "eventual query": lambda it: it.replica.at(Eventual()).read(),
    "addresses": lambda it: addresses_of(it.worm, "hits"),
    "versions": lambda it: it.replica.versions(),
    "upgrade": lambda it: it.replica.upgrade(),
}


async def awaited(call):
    return await call


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["command", "query", "a client's command", "a client's query"])
def test_calls_can_be_cancelled_anywhere_whoever_leads(name, strategy):
    act = CALLS[name]
    assert cancel_everywhere(lambda: scene(strategy), lambda it: awaited(act(it)), check_serving)


@pytest.mark.parametrize("name", [name for name in CALLS if "mmand" not in name])
def test_other_calls_can_be_cancelled_anywhere(name):
    act = CALLS[name]
    cancel_everywhere(scene, lambda it: awaited(act(it)), check_serving)


def test_taking_part_can_be_cancelled_anywhere():
    async def act(it):
        other = await it.join(3)
        await other.close()

    async def check(it):
        await check_serving(it)
        async with await it.join(4) as other:
            assert await other.read() >= 2

    assert cancel_everywhere(scene, act, check) > 2


async def test_a_port_that_is_taken_is_said_to_be_and_nothing_is_left():
    async with scene() as it:
        taken = it.replica.status().member.port
        before = asyncio.all_tasks()
        with pytest.raises(wormspace.WormError, match="in use"):
            await it.worm.replicate(Counter, "hits", leadership=it.leadership, port=taken)
        assert asyncio.all_tasks() == before


def test_closing_can_be_cancelled_and_called_again():
    async def act(it):
        it.other = await it.join(3)
        await it.other.close()

    async def check(it):
        if hasattr(it, "other"):
            await it.other.close()
            context = it.other._core.context
            assert all(caller._closed for caller in context._callers.values())
        await check_serving(it)

    assert cancel_everywhere(scene, act, check)
