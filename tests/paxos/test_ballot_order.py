"""Ballots: bytes compare as rounds do, then as proposers; nobody shares one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wormspace.paxos.ballot import (
    BALLOT_BYTES,
    MAX_ROUND,
    NOTHING,
    UNSAFE,
    above,
    ballot,
    round_of,
    show,
)

rounds = st.integers(1, MAX_ROUND)
proposers = st.binary(min_size=8, max_size=8)


@given(rounds, proposers, rounds, proposers)
def test_bytes_compare_as_round_then_proposer(n1, p1, n2, p2):
    assert (ballot(n1, p1) < ballot(n2, p2)) == ((n1, p1) < (n2, p2))
    assert (ballot(n1, p1) == ballot(n2, p2)) == ((n1, p1) == (n2, p2))


@given(rounds, proposers)
def test_nothing_is_below_unsafe_is_below_every_ballot(n, p):
    assert NOTHING < UNSAFE < ballot(n, p)


@given(st.integers(1, MAX_ROUND - 1), proposers, proposers)
def test_above_beats_everybody_of_the_round_seen(n, p, mine):
    higher = above(ballot(n, p), mine)
    assert higher > ballot(n, b"\xff" * 8)
    assert round_of(higher) == n + 1
    assert higher.endswith(mine)


def test_the_first_ballot_is_of_round_one():
    assert above(UNSAFE, b"proposer") == ballot(1, b"proposer")
    assert above(NOTHING, b"proposer") == ballot(1, b"proposer")


@pytest.mark.parametrize(
    ("number", "proposer"),
    [(0, b"proposer"), (-1, b"proposer"), (MAX_ROUND + 1, b"proposer"), (1, b"short"), (1, b"")],
)
def test_what_cannot_be_a_ballot_is_refused(number, proposer):
    with pytest.raises(ValueError, match=r"ballot|proposer"):
        ballot(number, proposer)


def test_there_is_no_ballot_above_the_last_round():
    with pytest.raises(ValueError, match="round"):
        above(ballot(MAX_ROUND, b"proposer"), b"proposer")


def test_ballots_print_for_people():
    assert show(NOTHING) == "-"
    assert show(UNSAFE) == "unsafe"
    assert show(ballot(7, b"\xab\xcd" + bytes(6))) == "7.abcd"
    assert len(ballot(1, bytes(8))) == BALLOT_BYTES
