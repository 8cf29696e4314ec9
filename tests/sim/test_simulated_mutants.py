"""Random runs of the whole system find mistakes in shipped code that nothing was made to find."""

import dataclasses
import logging

import pytest
from mutants import MUTANTS, OF_THE_FORGETFUL, ON_REAL_STORES

from wormspace.sim.campaign import Result, Shape, run
from wormspace.sim.disk import DiskOptions
from wormspace.sim.faults import FaultPlan
from wormspace.sim.network import skewed

SEEDS = 40
"""Runs within which each must be found."""


RARE = (
    "a read that meets values under two ballots helps one of them",
    "a listener that goes back reads on where it was",
    "a listener that lost a stream says no gap when it is back",
    "a listener says no gaps while a stream is away",
    "a server tells of a batch only who listened when it began",
    "a tombstone ends one too late",
)
"""Those that take many runs, or long ones."""


def rare(mistakes):
    """All of them; `make soak` alone looks for the rare ones."""
    return [pytest.param(one, marks=pytest.mark.soak if one in RARE else ()) for one in mistakes]


def on_real_stores(seed):
    """Servers that are killed, and lose their power, again and again."""
    shape = Shape.draw(seed)
    faults = FaultPlan(
        kinds=("crash at work",) * 5 + ("crash", "crash again", "crash host", "stall disk"),
        every_s=(0.01, 0.1),
        lasting_s=(0.05, 0.5),
    )
    calls = {"write": 10, "read": 30, "read_range": 10, "alloc": 1, "holds": 5}
    mix = dataclasses.replace(shape.mix, calls=calls, size=4, pause_s=0.05)
    knobs = {**shape.knobs, "store_inline_bytes": 0}
    return dataclasses.replace(
        shape,
        knobs=knobs,
        disk=DiskOptions(commit_s=skewed(0.001, 0.01)),
        real_store=True,
        errors=False,
        faults=faults,
        duration_s=3.0,
        servers=3,
        partitions=1,
        mix=mix,
    )


def forgetful(seed):
    """Clients that remember next to nothing of what they wrote, and use their tokens again."""
    shape = Shape.draw(seed)
    knobs = {**shape.knobs, "register_memory": 1 + seed % 2, "register_groups": 1}
    calls = {"write": 20, "reuse": 40, "unsafe": 10, "read": 5, "alloc": 1}
    mix = dataclasses.replace(shape.mix, calls=calls, size=12)
    return dataclasses.replace(shape, knobs=knobs, mix=mix, listeners=0, duration_s=4.0)


def find(mutant, shape_of):
    """The report of the first run that shows the mistake."""
    with mutant.applied():
        for seed in mutant.seeds(SEEDS):
            report = run(seed, shape_of(seed))
            if report.result is not Result.RIGHT:
                print(f"seed {seed}: {report.result.name}: {report.claim[:100]}")
                return report
    pytest.fail(f"none of {SEEDS} runs showed it")


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL + 1)


@pytest.mark.parametrize("mistake", rare(MUTANTS))
def test_random_runs_show_that(mistake):
    find(MUTANTS[mistake], Shape.draw)


@pytest.mark.parametrize("mistake", OF_THE_FORGETFUL)
def test_clients_with_no_memory_show_that(mistake):
    find(OF_THE_FORGETFUL[mistake], forgetful)


@pytest.mark.parametrize("mistake", ON_REAL_STORES)
def test_kills_and_power_cuts_show_that(mistake):
    find(ON_REAL_STORES[mistake], on_real_stores)


@pytest.mark.parametrize("seed", range(4))
def test_the_shipped_store_passes_where_they_fail(seed):
    report = run(seed, on_real_stores(seed))
    assert report.result is Result.RIGHT, report.story


@pytest.mark.parametrize("seed", range(3))
def test_damage_to_what_was_synced_is_refused_or_does_no_harm(seed):
    shape = dataclasses.replace(on_real_stores(seed), rot=True)
    report = run(seed, shape)
    assert report.result is Result.RIGHT, report.story


@pytest.mark.parametrize("seed", range(3))
def test_calls_of_the_system_that_fail_cost_nothing_that_was_acknowledged(seed):
    report = run(seed, dataclasses.replace(on_real_stores(seed), errors=True))
    assert report.result is Result.RIGHT, report.story
    assert report.faults["disk error"]
