"""Random runs of the whole system find mistakes in shipped code that nothing was made to find."""

import dataclasses
import logging

import pytest
import shapes
from mutants import MUTANTS, SHOWN_BY

from wormspace.sim.campaign import Result, Shape, run

SEEDS = 40
"""Runs within which each must be found."""


RARE = ("a tombstone ends one too late",)
"""Those that take many runs, or long ones."""


def rare(mistakes):
    """All of them; `make soak` alone looks for the rare ones."""
    return [pytest.param(one, marks=pytest.mark.soak if one in RARE else ()) for one in mistakes]


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


@pytest.mark.parametrize(
    ("shape", "mistake"), [(shape, one) for shape, mutants in SHOWN_BY.items() for one in mutants]
)
def test_runs_of_a_shape_show_that(shape, mistake):
    find(SHOWN_BY[shape][mistake], getattr(shapes, shape))


@pytest.mark.parametrize(
    "shape", ["forgetful", "scattered", "quiet", "crowded", "asked", "contended"]
)
def test_the_shipped_code_passes_in_a_shape_where_they_fail(shape):
    for seed in range(2):
        report = run(seed, getattr(shapes, shape)(seed))
        assert report.result is Result.RIGHT, report.story


@pytest.mark.parametrize("seed", range(4))
def test_the_shipped_store_passes_where_they_fail(seed):
    report = run(seed, shapes.on_real_stores(seed))
    assert report.result is Result.RIGHT, report.story


@pytest.mark.parametrize("seed", range(3))
def test_damage_to_what_was_synced_is_refused_or_does_no_harm(seed):
    report = run(seed, shapes.rotting(seed))
    assert report.result is Result.RIGHT, report.story


@pytest.mark.parametrize("seed", range(3))
def test_calls_of_the_system_that_fail_cost_nothing_that_was_acknowledged(seed):
    report = run(seed, dataclasses.replace(shapes.on_real_stores(seed), errors=True))
    assert report.result is Result.RIGHT, report.story
    assert report.faults["disk error"]
