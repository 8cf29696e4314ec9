"""Ready-made types."""

import asyncio
import contextlib
import random

import pytest

import wormspace
from wormspace.smr import (
    Counter,
    Dict,
    Election,
    Lock,
    Queue,
    Set,
    Sticky,
)
from wormspace.smr.leaderless import Leaderless


@contextlib.asynccontextmanager
async def two(kind, **options):
    async with wormspace.connect("memory:") as worm:
        options.setdefault("leadership", Sticky(0.3))
        async with (
            await worm.replicate(kind, "thing", **options) as one,
            await worm.replicate(kind, "thing", **options) as other,
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
        assert sorted((job.item for job in taken), key=int) == [b"%d" % i for i in range(20)]
        assert await one.take() is None
        assert await one.size() == 20
        assert all(await asyncio.gather(*(other.finish(job.token) for job in taken)))
        assert await one.size() == 0


@pytest.mark.parametrize("seed", range(2))
async def test_a_queue_loses_no_item_and_does_as_the_model_does(seed):
    """Taken again under its token, a job is the same one: another under it would replace it."""
    rng = random.Random(seed)
    waiting: dict[int, bytes] = {}
    taken: dict[str, int] = {}
    items: dict[int, bytes] = {}
    async with two(Queue) as (one, _):
        for step in range(60):
            token = f"t{rng.randrange(4)}"
            what = rng.choice(("put", "take", "take", "renew", "finish", "give_back"))
            if what == "put":
                number = await one.put(b"%d" % step)
                assert number not in items
                waiting[number] = items[number] = b"%d" % step
                continue
            job = await (one.take(60, token) if what == "take" else getattr(one, what)(token))
            number = taken.get(token)
            if what == "take" and number is None and waiting:
                number = taken[token] = min(waiting)
                del waiting[number]
            if what in ("take", "renew"):
                found = None if job is None else (job.number, job.item, job.token)
                assert found == (None if number is None else (number, items[number], token))
            else:
                assert job == (number is not None)
                taken.pop(token, None)
                if what == "give_back" and number is not None:
                    waiting[number] = items[number]
            assert await one.size() == len(waiting) + len(taken)
            assert await one.peek() == (waiting[min(waiting)] if waiting else None)


async def test_what_is_given_back_has_its_old_place():
    async with two(Queue) as (one, other):
        for i in range(3):
            await one.put(b"%d" % i)
        first, second = await one.take(), await other.take()
        assert await other.give_back(first.token)
        assert not await other.give_back(first.token)
        assert not await other.finish(first.token)
        assert [(await one.take()).item for _ in range(2)] == [b"0", b"2"]
        assert await one.finish(second.token)
        assert await one.renew(second.token) is None


async def test_a_job_that_is_not_finished_in_time_is_given_to_somebody_else():
    async with two(Queue) as (one, other):
        await one.put(b"x")
        lost = await one.take(0.2)
        kept = await other.take(0.2)
        assert kept is None
        async with asyncio.timeout(10):
            while (again := await other.take(100)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (again.item, again.number) == (b"x", 0)
        assert not await one.finish(lost.token)
        assert await other.finish(again.token)


async def test_a_lock_has_one_holder_and_a_fence_that_grows():
    async with two(Lock) as (one, other):
        first = await one.acquire("a", 10)
        assert (first.owner, first.fence, first.lease_s) == ("a", 1, 10.0)
        assert await other.acquire("b", 10) is None
        assert await other.acquire("a", 10) is None, "an owner's name is no acquisition"
        assert (await other.acquire("a", 20, first.token)).fence == 1
        assert (await one.renew(first.token, 0.2)).lease_s == 0.2
        assert not await other.release("b")
        assert await one.renew("b", 10) is None
        async with asyncio.timeout(10):
            while await other.holder() is not None:  # noqa: ASYNC110 - without anybody's command
                await asyncio.sleep(0.05)
        second = await other.acquire("b", 10, "a token")
        assert (second.fence, second.token) == (2, "a token")
        assert not await one.release(first.token)
        assert await one.renew(first.token, 10) is None
        assert await other.release(second.token)


@pytest.mark.parametrize("lease_s", [0, -1.0, float("nan"), float("inf")])
async def test_a_lease_has_a_length(lease_s):
    async with two(Lock) as (one, _):
        with pytest.raises(ValueError, match="positive"):
            await one.acquire("a", lease_s)
        assert await one.acquire("a", 10)


async def test_an_election_has_one_leader_per_term():
    async with two(Election, leadership=Leaderless()) as (one, other):
        results = await asyncio.gather(one.acquire("a", 10), other.acquire("b", 10))
        (grant,) = [result for result in results if result is not None]
        assert (await one.holder()).fence == grant.fence == 1
