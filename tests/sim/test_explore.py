"""Every interleaving of small worlds, on the shipped acceptor and proposer code.

Immutability is the central theorem; that a read which finds a register empty met every write that
was decided before it is checked along with it, and so is every claim a client makes.
"""

import pytest

from wormspace.sim.explore import explore
from wormspace.sim.small_world import Paxos, Plan

WORLDS = {
    "two proposers, one register": Plan(attempts=1, reader=None),
    "two proposers and a reader, one register": Plan(attempts=1, marks=False),
    "two proposers with two ballots each, one register": Plan(reader=None, marks=False),
    "a range of two registers, and one of them": Plan(((0, 2), (1, 2)), attempts=1, reader=None),
    "twice a range of two registers": Plan(((0, 2), (0, 2)), attempts=1, reader=None),
    "an unsafe writer and a proposer with two ballots": Plan(((0, 1),), unsafe=(0,), reader=None),
    "an unsafe writer, a proposer and a reader": Plan(
        ((0, 1),), attempts=1, unsafe=(0,), marks=False
    ),
}

LARGE_WORLDS = {
    "one ballot each, a reader, decided marks": Plan(attempts=1),
    "two ballots each, decided marks": Plan(reader=None),
    "two ballots each on a range and a part of it": Plan(
        ((0, 2), (1, 2)), reader=None, marks=False
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_nothing_goes_wrong_in_any_interleaving(name):
    found = explore(Paxos(WORLDS[name]))
    print(f"{name}: {found}")
    assert found.problem == ""
    assert found.complete


@pytest.mark.soak
@pytest.mark.parametrize("name", LARGE_WORLDS)
def test_nothing_goes_wrong_in_any_interleaving_of_larger_worlds(name):
    found = explore(Paxos(LARGE_WORLDS[name]))
    print(f"{name}: {found}")
    assert found.problem == ""
    assert found.complete


@pytest.mark.soak
def test_nothing_goes_wrong_in_the_first_millions_of_states_of_the_largest_world():
    found = explore(Paxos(Plan()), max_states=6_000_000)
    print(found)
    assert found.problem == ""


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
