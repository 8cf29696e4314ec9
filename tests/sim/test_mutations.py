"""The checkers have no holes where we looked: each deliberate mistake is found, and how soon."""

import logging

import pytest
from explorer.search import explore
from explorer.small_world import Paxos
from mutations import LARGE, SMALL

from wormspace.sim.campaign import Result, run

SEEDS = 40


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL)


@pytest.mark.parametrize("name", SMALL)
def test_exploring_a_small_world_finds(name):
    mutation = SMALL[name]
    with mutation.applied():
        found = explore(Paxos(mutation.plan), max_states=1_500_000)
    print(f"{name}: {found.problem}: {len(found.transcript)} steps, {found.states} states")
    assert found.problem
    assert found.transcript


@pytest.mark.parametrize("name", LARGE)
def test_random_runs_find(name):
    mutation = LARGE[name]
    with mutation.applied():
        for seed in range(SEEDS):
            report = run(seed, mutation.shape)
            if report.result is not Result.RIGHT:
                break
    print(f"{name}: {report.claim}: seed {seed}, {report.operations} calls")
    assert report.result is Result.WRONG
    assert f"seed {seed}, " in report.story


@pytest.mark.parametrize("name", LARGE)
def test_the_shipped_code_passes_where_a_mutation_fails(name):
    report = run(0, LARGE[name].shape)
    assert report.result is Result.RIGHT, report.story
