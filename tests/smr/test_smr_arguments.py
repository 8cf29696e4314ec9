"""A wrong argument is refused at the door, says what is right, and stops no replica."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

import wormspace
from wormspace.errors import UsageError
from wormspace.smr import (
    Counter,
    Eventual,
    Fixed,
    KeyValue,
    Linearizable,
    LocalSnapshots,
    NeverTrim,
    Rotating,
    StateMachine,
    Sticky,
    TrimBehindSnapshots,
    TrimWhenApplied,
    Tuning,
    attach,
)

NAN = float("nan")

WRONG = [
    {"replica": 5},
    {"replica": b"a"},
    {"replica": "\ud800"},
    {"replica": "a" * 256},
    {"host": 5},
    {"host": "h" * 256},
    {"port": "80"},
    {"port": -1},
    {"port": 65536},
    {"port": True},
    {"leadership": Sticky},
    {"leadership": "sticky"},
    {"durability": NeverTrim},
    {"durability": 5},
    {"consistency": Linearizable},
    {"consistency": "linearizable"},
    {"tuning": Tuning},
    {"timeout": 0},
    {"timeout": NAN},
    {"timeout": "5"},
    {"timeout": None},
    {"clock": 5},
    {"clock": lambda: "now"},
    {"clock": lambda: NAN},
    {"clock": lambda: 1e300},
    {"rng": 5},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: ascii(wrong).partition(" at 0x")[0][:40])
def test_a_replica_with_a_wrong_argument_is_refused_and_the_object_lives(wrong) -> None:
    async def run() -> None:
        async with wormspace.connect("memory:") as worm:
            with pytest.raises(UsageError):
                await worm.replicate(Counter, "hits", **wrong)
            async with await worm.replicate(Counter, "hits") as hits:
                assert await hits.add(1) == 1

    asyncio.run(run())


@pytest.mark.parametrize("says", [NAN, 1e300, "now", None, ZeroDivisionError()])
def test_a_clock_that_goes_bad_later_stops_no_replica(says) -> None:
    """Time goes on without it, and with it when it is sound again."""
    now = 1000.0

    def clock() -> float:
        if isinstance(now, Exception):
            raise now
        return now

    async def run() -> None:
        nonlocal now
        async with (
            wormspace.connect("memory:") as worm,
            await worm.replicate(Counter, "hits", clock=clock) as hits,
        ):
            engine = hits._core.learner.engine
            seen = []
            for one in (1000.0, says, says, 5000.0):
                now = one
                await hits.add(1)
                seen.append(engine.time_ns / 1e9)
            assert await hits.add(0) == 4
            assert 1000 <= seen[0] < seen[1] < seen[2] < 1100 < seen[3]

    asyncio.run(run())


@pytest.mark.parametrize(
    "machine",
    [5, dict, StateMachine, Counter()],
    ids=lambda wrong: ascii(wrong).partition(" at 0x")[0][:40],
)
def test_what_is_no_state_machine_is_refused(machine) -> None:
    async def run() -> None:
        async with wormspace.connect("memory:") as worm:
            with pytest.raises(UsageError, match=r"StateMachine|is a class"):
                await worm.replicate(machine, "hits")
            with pytest.raises(UsageError, match=r"StateMachine|is a class"):
                await attach(machine, "hits", [("localhost", 1)])

    asyncio.run(run())


@pytest.mark.parametrize("name", [5, "", "n" * 256])
def test_a_name_that_no_space_can_have_is_refused(name) -> None:
    async def run() -> None:
        async with wormspace.connect("memory:") as worm:
            for make in (lambda: worm.replicate(Counter, name), lambda: attach(Counter, name, [])):
                with pytest.raises(UsageError):
                    await make()

    asyncio.run(run())


@pytest.mark.parametrize(
    "addresses", [None, "h:1", [], ["h:1"], [("h",)], [("h", "1")], [("h", 0)], [(5, 1)], [1]]
)
def test_addresses_that_are_none_are_refused(addresses) -> None:
    async def run() -> None:
        with pytest.raises(UsageError, match=r"address|port|host"):
            await attach(Counter, "hits", addresses)

    asyncio.run(run())


def test_the_class_of_a_level_is_not_taken_for_a_weaker_level() -> None:
    async def run() -> None:
        async with wormspace.connect("memory:") as worm:
            hits = await worm.replicate(Counter, "hits")
            for level in (Linearizable, Eventual, None, "linearizable"):
                with pytest.raises(UsageError, match="consistency level"):
                    hits.at(level)
            await hits.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sticky(NAN),
        lambda: Sticky(0),
        lambda: Sticky("1"),
        lambda: Rotating(NAN),
        lambda: Rotating(-1),
        lambda: Fixed(5),
        lambda: Fixed("a", NAN),
        lambda: TrimWhenApplied(0),
        lambda: TrimWhenApplied("1"),
        lambda: TrimWhenApplied(1, 0),
        lambda: TrimBehindSnapshots(5),
        lambda: TrimBehindSnapshots("here", registers=0),
        lambda: TrimBehindSnapshots("here", copies=-1),
        lambda: TrimBehindSnapshots("here", every_s=NAN),
        lambda: Tuning(segment_size=0),
        lambda: Tuning(segment_size=1.5),
        lambda: Tuning(batch_bytes=0),
        lambda: Tuning(pipeline=0),
        lambda: Tuning(audit_s=NAN),
        lambda: Tuning(upgrade_s=-1),
    ],
)
def test_a_choice_that_cannot_work_is_refused_where_it_is_made(make) -> None:
    with pytest.raises(UsageError):
        make()


def test_a_client_of_another_objects_replica_is_told_at_once() -> None:
    async def run() -> None:
        async with wormspace.connect("memory:") as worm:
            kv = await worm.replicate(KeyValue, "kv")
            member = kv.status().member
            for_ever = 1e6  # who would wait for the time-out would not come back
            place = [(member.host, member.port)]
            async with await attach(KeyValue, "kvx", place, timeout=for_ever) as other:
                for call in (
                    lambda: other.put("a", b"b"),
                    lambda: other.get("a"),
                    lambda: other.at(Eventual()).get("a"),
                    lambda: anext(other.listen()),
                    lambda: anext(other.listen(8)),
                ):
                    with pytest.raises(UsageError, match="no replica of 'kvx'"):
                        await call()
            await kv.close()

    asyncio.run(run())


def test_one_wrong_address_among_right_ones_does_no_harm() -> None:
    async def run() -> None:
        async with wormspace.connect("memory:") as worm, contextlib.AsyncExitStack() as stack:
            places = []
            for name in ("other", "kv"):
                replica = await stack.enter_async_context(await worm.replicate(KeyValue, name))
                places.append((replica.status().member.host, replica.status().member.port))
            kv = await stack.enter_async_context(await attach(KeyValue, "kv", places))
            events = kv.listen()
            await kv.put("a", b"b")
            assert await kv.at(Eventual()).get("a") == b"b"
            assert (await anext(events))[0] == 1

    asyncio.run(run())


def test_an_object_with_the_longest_name_has_snapshots(tmp_path) -> None:
    async def run() -> None:
        for size in (100, 101, 255):
            name = "n" * size
            async with wormspace.connect("memory:") as worm:
                space = worm.space(name)
                kept = TrimBehindSnapshots(tmp_path, registers=1, copies=1, every_s=0.01)
                how = {
                    "tuning": Tuning(segment_size=2),
                    "durability": kept,
                    "leadership": Sticky(0.1),
                }
                async with await worm.replicate(Counter, name, **how) as hits:
                    while await space.head() < 2:
                        await hits.add(1)
                    told = await hits.read()
                async with await worm.replicate(Counter, name, **how) as hits:
                    assert await hits.read() == told

    asyncio.run(run())


def test_two_long_names_have_two_snapshots(tmp_path) -> None:
    store = LocalSnapshots(tmp_path)
    paths = {store._path("n" * 254 + last) for last in "ab"}
    assert len(paths) == 2
