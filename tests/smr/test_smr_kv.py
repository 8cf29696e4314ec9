"""The key-value store, through a replica, through a client that is none, and under faults."""

import asyncio
import contextlib

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import wormspace
from wormspace.errors import UsageError
from wormspace.smr import (
    Causal,
    Change,
    Entry,
    Eventual,
    KeyValue,
    NoLeader,
    Sequential,
    Sticky,
    Tuning,
    attach,
)
from wormspace.smr.kv import prefix_stop
from wormspace.smr.remote import addresses_of


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@contextlib.asynccontextmanager
async def stores(count=2, **options):
    async with wormspace.connect("memory:") as worm, contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                await worm.replicate(
                    KeyValue,
                    "kv",
                    tuning=Tuning(segment_size=32),
                    leadership=Sticky(0.3),
                    **options,
                )
            )
            for _ in range(count)
        ]


async def test_put_get_delete_cas_and_scan():
    async with stores() as (one, other):
        assert await one.put("b", b"2") == 1
        assert await other.put("a", b"1") == 2
        assert await one.get("a") == b"1"
        assert await other.get("nothing") is None
        assert await one.scan() == [("a", b"1"), ("b", b"2")]
        assert await one.scan("b") == [("b", b"2")]
        assert await one.scan("a", "b") == [("a", b"1")]
        assert await one.scan(limit=1) == [("a", b"1")]
        assert not await one.cas("a", b"0", b"x")
        assert await one.cas("a", b"1", b"x")
        assert await one.cas("c", None, b"new")
        assert await one.cas("c", b"new", None)
        assert await other.delete("a")
        assert not await other.delete("a")
        assert await other.scan() == [("b", b"2")]
        assert await other.size() == 1


async def test_a_key_ends_with_its_time_to_live_and_a_new_value_has_a_new_one():
    clock = Clock()
    async with stores(clock=clock) as (one, other):
        await one.put("short", b"1", 10)
        await one.put("long", b"2", ttl_s=100)
        await one.put("renewed", b"3", 10)
        await one.put("renewed", b"4")
        clock.now += 50
        await asyncio.sleep(0.3)  # nobody writes: the leader lets it happen
        assert await other.scan() == [("long", b"2"), ("renewed", b"4")]
        with pytest.raises(ValueError, match="positive"):
            await one.put("never", b"", -1)


async def test_a_watcher_and_a_reader_are_told_when_a_key_will_go():
    clock = Clock()
    async with stores(clock=clock) as (one, _):
        events = one.listen(1)
        await one.put("short", b"1", 10)
        _, change = await anext(events)
        assert change == Change("short", b"1", 1, int((clock.now + 10) * 1e9))
        assert await one.entry("short") == Entry(b"1", 1, change.expires_ns)
        assert await one.entry("none") is None
        await events.close()


async def test_a_put_that_is_refused_changes_nothing():
    clock = Clock()
    async with stores(clock=clock) as (one, other):
        await one.put("short", b"1", 10)
        with pytest.raises(ValueError, match="positive"):
            await one.put("short", b"2", 0)
        assert await one.put("short", b"3", 20) == 2
        clock.now += 15
        await one.put("other", b"")
        assert await other.get("short") == b"3"


async def test_watchers_on_every_replica_see_the_same_changes_with_the_same_numbers():
    async with stores() as (one, other):
        seen = {}

        async def watch(name, store):
            async for number, change in store.listen(1):
                seen.setdefault(name, []).append((number, change))
                if change.key == "end":
                    return

        watching = [
            asyncio.ensure_future(watch(name, store))
            for name, store in (("one", one), ("other", other))
        ]
        await one.put("a", b"1")
        await other.delete("a")
        await one.put("end", b"")
        await asyncio.wait_for(asyncio.gather(*watching), 5)
        assert seen["one"] == seen["other"]
        assert seen["one"] == [
            (1, Change("a", b"1", 1)),
            (2, Change("a", None, 2)),
            (3, Change("end", b"", 3)),
        ]
        late = [n async for n, _ in _until_end(one.listen(2))]
        assert late == [2, 3]


async def _until_end(events):
    async for number, change in events:
        yield number, change
        if change.key == "end":
            return


async def test_a_client_that_is_no_replica_needs_one_address_and_survives_the_leader():
    async with stores(3) as replicas:
        await replicas[0].put("first", b"")
        follower = next(store for store in replicas if not store.status().leads)
        leader = next(store for store in replicas if store.status().leads)
        addresses = [
            (store.status().member.host, store.status().member.port) for store in (follower, leader)
        ]
        async with await attach(KeyValue, "kv", addresses) as store:
            events = store.listen(2)
            assert await store.put("a", b"1") == 2
            assert await store.get("a") == b"1"
            for level in (Causal(), Sequential(), Eventual()):
                assert await store.at(level).get("a") in (b"1", None)
            assert await store.at(Causal()).get("a") == b"1"
            assert (await anext(events)) == (2, Change("a", b"1", 2))
            await leader.close()
            assert await store.put("a", b"2") == 3
            assert await store.get("a") == b"2"
            assert (await anext(events))[0] == 3
            await events.close()


async def test_a_session_goes_on_elsewhere_with_its_token():
    async with stores() as (one, other):
        await one.put("a", b"1")
        session = other.at(Causal()).session(one.token)
        assert await session.get("a") == b"1"
        with pytest.raises(UsageError):
            other.session("nonsense")


async def test_the_address_space_tells_where_replicas_are():
    async with wormspace.connect("memory:") as worm:
        with pytest.raises(NoLeader):
            await addresses_of(worm, "kv")
        async with await worm.replicate(KeyValue, "kv") as store:
            await store.put("a", b"")
            member = store.status().member
            first, *_ = await addresses_of(worm, "kv")  # others may be known of, dead or alive
            assert first == (member.host, member.port)


async def test_a_value_too_large_for_a_register_is_refused_and_harms_no_other():
    async with stores(1) as (one,):
        results = await asyncio.gather(
            one.put("a", b"x"),
            one.put("b", bytes(2_000_000)),
            one.put("c", bytes(900_000)),
            return_exceptions=True,
        )
        assert [type(result).__name__ for result in results] == ["int", "ValueTooLarge", "int"]


async def test_thousands_of_calls_at_once_all_have_their_own_results():
    async with stores() as (one, other):
        revisions = await asyncio.gather(
            *((one, other)[i % 2].put(f"k{i:05}", str(i).encode()) for i in range(5000))
        )
        assert sorted(revisions) == list(range(1, 5001))
        values = await asyncio.gather(*(other.get(f"k{i:05}") for i in range(5000)))
        assert values == [str(i).encode() for i in range(5000)]


@settings(deadline=None)
@given(st.text(max_size=4), st.text(max_size=6))
def test_the_keys_with_a_prefix_are_those_below_its_stop(prefix, key):
    stop = prefix_stop(prefix)
    inside = key >= prefix and (stop is None or key < stop)
    assert inside == key.startswith(prefix)


@pytest.mark.parametrize("ttl_s", [float("inf"), 1e300, 2e10])
async def test_a_time_to_live_without_an_end_is_refused_in_words(ttl_s):
    async with stores(1) as (one,):
        with pytest.raises(ValueError, match="within some five centuries"):
            await one.put("a", b"1", ttl_s=ttl_s)
        assert await one.put("a", b"1", ttl_s=1e9) == 1
