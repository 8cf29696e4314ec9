"""The suites of new objects, on an old one: see `aged_objects`."""

import asyncio
import inspect
from functools import partial

import aged_objects
import pytest
import test_smr_calls
import test_smr_consistency
import test_smr_events
import test_smr_kv
import test_smr_peers
import test_smr_types
from smr_worlds import run_faulty

import wormspace
from wormspace.knobs import KNOBS, least, turned
from wormspace.smr import (
    Counter,
    LocalSnapshots,
    MemorySnapshots,
    Sticky,
    TrimBehindSnapshots,
    TrimWhenApplied,
)

TIMED = ("test_holding_waits_renews_and_releases",)
"""Leases of 0.3 s by the machine's clock: an old object takes longer than that to open."""

ROOMY = (
    "test_who_stops_waiting_for_a_position_leaves_nothing",
    "test_who_is_far_behind_reads_on_page_by_page",
    "test_events_that_are_larger_than_a_message_together_come_all_the_same",
)
"""With sizes at their least fewer events are kept, and a position is there sooner."""

SUITES = (
    test_smr_types,
    test_smr_kv,
    test_smr_calls,
    test_smr_consistency,
    test_smr_events,
    test_smr_peers,
)
"""Those that call `replicate` themselves, and measure no leases; others make their own worlds."""


def on_replicas(suite):
    """The tests of a suite that take part in an object."""
    for name, test in vars(suite).items():
        if name in (*TIMED, *ROOMY) or not name.startswith("test_"):
            continue
        if asyncio.iscoroutinefunction(test):
            marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
            values = marks[0].args[1] if len(marks) == 1 else [] if marks else [None]
            for value in values:
                arguments = {marks[0].args[0]: value} if marks else {}
                if set(inspect.signature(test).parameters) == set(arguments):
                    of = f"-{value}" if marks else ""
                    name_here = f"{suite.__name__[9:]}-{name[5:]}{of}"
                    yield pytest.param(suite, partial(test, **arguments), id=name_here)


@pytest.mark.parametrize(("suite", "test"), [one for suite in SUITES for one in on_replicas(suite)])
async def test_an_old_object_is_as_a_new_one(suite, test, monkeypatch):
    monkeypatch.setattr(wormspace.Worm, "replicate", aged_objects.replicate)
    with turned(**least()):
        await test()


async def test_the_old_object_is_old():
    with turned(**least()):
        async with (
            wormspace.connect("memory:") as worm,
            await aged_objects.replicate(worm, Counter, "hits") as counter,
        ):
            assert await counter.add() == 1
            status = counter.status()
            assert status.applied.segment >= aged_objects.SEGMENTS
            assert 0 < status.sessions <= 38
            assert len(counter._core.learner.engine.chains) == KNOBS.smr_chains_kept


async def test_an_old_object_is_restored_trimmed_and_joined_again_and_again(tmp_path):
    """Thousands of turns, restarts in between; the sum tells whether any was lost or came twice."""
    durability = TrimBehindSnapshots(LocalSnapshots(tmp_path), registers=20, copies=1, every_s=0.02)
    options = {"durability": durability, "leadership": Sticky(0.05), "tuning": aged_objects.TUNING}
    with turned(**least()):
        async with wormspace.connect("memory:") as worm:
            total = 0
            for _ in range(6):
                async with await aged_objects.replicate(
                    worm, Counter, "hits", **options
                ) as counter:
                    for _ in range(40):
                        sums = await asyncio.gather(*(counter.add() for _ in range(5)))
                        total += 5
                        assert max(sums) == total
                    await asyncio.sleep(0.05)
            assert await worm.space("hits").head() > aged_objects.SEGMENTS


@pytest.mark.parametrize("seed", range(2))
def test_worlds_with_all_sizes_at_their_least(seed):
    durability = [
        TrimWhenApplied(2, every_s=0.1),
        TrimBehindSnapshots(MemorySnapshots(), registers=10, every_s=0.1),
    ][seed % 2]
    with turned(**least()):
        group = run_faulty(seed, options=lambda name: {"durability": durability}, size=4)
    assert group.answered > 100
