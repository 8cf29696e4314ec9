"""Every interleaving of small worlds, on the shipped acceptor and proposer code.

Immutability is the central theorem; that a read which finds a register empty met every write that
was decided before it is checked along with it, and so is every claim a client makes.
"""

import pytest
from explorer.search import explore
from explorer.small_world import Paxos, Plan

RANGE_AND_PART = ((0, 2), (1, 2))

WORLDS = {
    "two proposers, one ballot each, a reader, marks": Plan(attempts=1),
    "two proposers, two ballots each, marks": Plan(reader=None),
    "an unsafe writer, a proposer with two ballots, a reader": Plan(((0, 1),), unsafe=(0,)),
    "a range and a part of it, two ballots each": Plan(RANGE_AND_PART, reader=None, marks=False),
    "a range and a part of it, one ballot each, a reader": Plan(
        RANGE_AND_PART, attempts=1, reader=(0, 2), marks=False
    ),
    "a range, twice, two ballots each, marks": Plan(((0, 2), (0, 2)), reader=None),
    "a trimmer, a proposer, a reader, marks": Plan(((0, 1),), attempts=1, trims=True),
    "a trimmer, an unsafe writer, a reader, marks": Plan((), unsafe=(0,), trims=True),
}

LARGE_WORLDS = {
    "two proposers, two ballots each, a reader, marks": Plan(),
    "a range and a part of it, two ballots each, marks": Plan(RANGE_AND_PART, reader=None),
    "a range, twice, two ballots each, a reader of one register": Plan(
        ((0, 2), (0, 2)), reader=(0, 1), marks=False
    ),
    "a trimmer, a proposer with two ballots, a reader, marks": Plan(((0, 1),), trims=True),
}


def explore_all(plan):
    found = explore(Paxos(plan), max_states=20_000_000)
    print(f"{plan}: {found}")
    assert found.problem == ""
    assert found.complete


@pytest.mark.parametrize("name", WORLDS)
def test_nothing_goes_wrong_in_any_interleaving(name):
    explore_all(WORLDS[name])


@pytest.mark.soak
@pytest.mark.parametrize("name", LARGE_WORLDS)
def test_nothing_goes_wrong_in_any_interleaving_of_larger_worlds(name):
    explore_all(LARGE_WORLDS[name])


def test_a_value_is_decided_and_read_somewhere():
    """The worlds are not vacuous: claims are made, and a false one is found at once."""

    class Doubter(Paxos):
        def conflict(self, chosen):
            return "a value is decided" if chosen else ""

    found = explore(Doubter(Plan(attempts=1)))
    assert found.problem == "a value is decided"
    assert len(found.transcript) == 6  # begin, two promises, propose, two acceptances


def test_a_counterexample_reads_as_a_transcript():
    class Doubter(Paxos):
        def conflict(self, chosen):
            return "a value is decided" if chosen else ""

    lines = explore(Doubter(Plan(attempts=1, reader=None))).transcript
    assert lines[0] == "A begins: capture [0, 1) at 1.A"
    assert lines[-1].startswith("server ")
    assert "write 0=A1 at 1.A -> accepted" in lines[-1]
