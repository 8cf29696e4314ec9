"""What `explore` leaves out is nothing: step by step, the same is found.

`every_step` puts nothing off and forgets nothing.  The two must come to the very same combinations
of the actors' states, to each in the same least number of steps, and to the same problems.
"""

import pytest
from every_step import every_step
from explorer.search import Search
from explorer.small_world import Paxos, Plan
from mutations import SMALL, Mutation

WORLDS = {
    "two proposers": Plan(attempts=1, reader=None),
    "a proposer, a reader": Plan(((0, 1),), attempts=1),
    "a proposer with two ballots, a reader": Plan(((0, 1),), marks=False),
    "an unsafe writer, a proposer": Plan(((0, 1),), attempts=1, unsafe=(0,), reader=None),
    "an unsafe writer, a reader": Plan((), unsafe=(0,)),
    "a range and a part of it": Plan(((0, 2), (1, 2)), attempts=1, reader=None, marks=False),
    "a range, a reader": Plan(((0, 2),), attempts=1, reader=(0, 2), marks=False),
    "a trimmer, a proposer": Plan(((0, 1),), attempts=1, trims=True, reader=None),
    "a trimmer, a reader": Plan((), trims=True),
}

LARGE_WORLDS = {
    "two proposers with two ballots": Plan(reader=None, marks=False),
    "two proposers, a reader": Plan(attempts=1, marks=False),
    "a proposer with two ballots, a reader, marks": Plan(((0, 1),)),
    "a trimmer, a proposer, a reader": Plan(((0, 1),), attempts=1, trims=True, marks=False),
    "a trimmer, an unsafe writer, a reader": Plan((), unsafe=(0,), trims=True),
}

QUICK = [
    "capture with a minority",
    "count one acceptor twice",
    "count a refusal as an acceptance",
    "a read trusts one server's undecided word",
    "a read takes one server for a majority",
    "tell of a trim before it is decided",
    "a trim returns when one server knows",
]


def reached(plan):
    """Per combination of the actors' states the least number of steps to it, and the search."""
    search = Search(Paxos(plan))
    search.run(max_states=2_000_000)
    actors = {}
    for state, (cost, _) in search.reached.items():
        key = search.explorer.actors(state)
        actors[key] = min(cost, actors.get(key, cost))
    return actors, search


def compare(plan):
    step_by_step = every_step(Paxos(plan))
    actors, search = reached(plan)
    print(f"{plan}: {step_by_step.states} states, step by step; {len(search.reached)} reduced")
    assert step_by_step.complete
    assert search.found.complete
    assert actors == step_by_step.actors
    assert step_by_step.problem == ""
    assert search.end is None
    assert_acceptors_only_become_stricter(search.explorer.acceptors)


def assert_acceptors_only_become_stricter(acceptors):
    """What a message cannot change now, it never can, and a vote that is refused stays so.

    Of all the acceptors that were met, and all their steps.
    """
    messages, votes = range(len(acceptors.messages.values)), range(len(acceptors.votes.values))
    for before in range(len(acceptors.stores.values)):
        spent = {m for m in messages if acceptors.is_spent(before, m)}
        refused = {v for v in votes if not acceptors.accepts(before, v)}
        following = {acceptors.answer(before, m)[0] for m in messages}
        for after in following | {acceptors.restarted(before)}:
            assert all(acceptors.is_spent(after, m) for m in spent)
            assert not any(acceptors.accepts(after, v) for v in refused)


@pytest.mark.parametrize("name", WORLDS)
def test_the_same_is_reached_in_as_few_steps(name):
    compare(WORLDS[name])


@pytest.mark.soak
@pytest.mark.parametrize("name", LARGE_WORLDS)
def test_the_same_is_reached_in_as_few_steps_in_larger_worlds(name):
    compare(LARGE_WORLDS[name])


def find(mutation: Mutation):
    with mutation.applied():
        step_by_step = every_step(Paxos(mutation.plan), max_states=5_000_000)
        search = Search(Paxos(mutation.plan))
        search.run(max_states=2_000_000)
    assert step_by_step.problem
    assert search.end is not None
    assert search.end.cost == step_by_step.steps
    assert len(search.transcript(search.end)) == step_by_step.steps


@pytest.mark.parametrize("name", QUICK)
def test_a_counterexample_is_a_shortest_one(name):
    find(SMALL[name])


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(SMALL.keys() - set(QUICK)))
def test_every_counterexample_is_a_shortest_one(name):
    find(SMALL[name])
