"""Ready-made types."""

import asyncio
import contextlib

import pytest

import wormspace
from wormspace.smr import (
    Counter,
    Dict,
    Election,
    LeaseLost,
    Lock,
    Queue,
    Set,
    Sticky,
    holding,
    replicate,
)
from wormspace.smr.leaderless import Leaderless


@contextlib.asynccontextmanager
async def two(kind, **options):
    async with wormspace.connect("memory:") as worm:
        options.setdefault("leadership", Sticky(0.3))
        async with (
            await replicate(kind, worm, "thing", **options) as one,
            await replicate(kind, worm, "thing", **options) as other,
        ):
            yield one, other


async def test_a_counter():
    async with two(Counter) as (one, other):
        sums = await asyncio.gather(*(side.add() for side in (one, other) * 50))
        assert sorted(sums) == list(range(1, 101))
        assert await other.set_to(5) == 100
        assert await one.read() == 5


async def test_a_dict():
    async with two(Dict) as (one, other):
        assert await one.set("b", b"1") is None
        assert await other.set_default("b", b"2") == b"1"
        assert await other.set("a", b"3") is None
        assert await one.items() == [("a", b"3"), ("b", b"1")]
        assert await one.pop("a") == b"3"
        assert await one.pop("a") is None
        assert (await one.get("b"), await one.size()) == (b"1", 1)


async def test_a_set():
    async with two(Set) as (one, other):
        assert [await one.add("x"), await other.add("x"), await other.add("a")] == [1, 0, 1]
        assert await one.members() == ["a", "x"]
        assert [await one.discard("x"), await one.discard("x")] == [True, False]
        assert [await one.contains("x"), await one.contains("a")] == [False, True]


async def test_a_queue_gives_each_item_once_in_order():
    async with two(Queue) as (one, other):
        for i in range(20):
            assert await one.put(b"%d" % i) == i
        assert await other.peek() == b"0"
        taken = await asyncio.gather(*(side.take() for side in (one, other) * 10))
        assert sorted(taken, key=int) == [b"%d" % i for i in range(20)]
        assert await one.take() is None
        assert await one.size() == 0


async def test_a_lock_has_one_holder_and_a_fence_that_grows():
    now = [100.0]
    async with two(Lock, clock=lambda: now[0]) as (one, other):
        first = await one.acquire("a", 10)
        assert (first.owner, first.fence, first.until) == ("a", 1, 110.0)
        assert await other.acquire("b", 10) is None
        now[0] += 5
        assert (await one.acquire("a", 10)).until == 115.0
        assert not await other.release("b")
        now[0] += 11
        await asyncio.sleep(0.3)
        assert await other.holder() is None, "a lease ends without anybody's command"
        second = await other.acquire("b", 10)
        assert second.fence == 2
        assert not await one.release("a")
        assert await other.release("b")


async def test_holding_waits_renews_and_releases():
    async with two(Lock) as (one, other):
        order = []

        async def hold(lock, owner):
            async with holding(lock, owner, 0.3) as grant:
                order.append((owner, "has it", grant.fence))
                await asyncio.sleep(0.7)  # longer than the lease
                order.append((owner, "gives it back", grant.fence))

        await asyncio.gather(hold(one, "a"), hold(other, "b"))
        owners = [owner for owner, *_ in order]
        assert owners[0] == owners[1] != owners[2] == owners[3]
        assert [fence for *_, fence in order] == [1, 1, 2, 2]


async def test_a_holder_that_loses_its_lease_is_told():
    async with two(Lock) as (one, other):

        async def hold():
            async with holding(one, "a", 0.3):
                await other.release("a")
                await other.acquire("b", 100)
                await asyncio.sleep(5)

        with pytest.raises(LeaseLost):
            await hold()


async def test_an_election_has_one_leader_per_term():
    async with two(Election, leadership=Leaderless()) as (one, other):
        results = await asyncio.gather(one.acquire("a", 10), other.acquire("b", 10))
        (grant,) = [result for result in results if result is not None]
        assert (await one.holder()).fence == grant.fence == 1
