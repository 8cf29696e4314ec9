"""Quorums, against a second implementation that enumerates sets."""

from itertools import combinations

import pytest

from wormspace.paxos.quorum import everyone, is_quorum, majority, members, out_of_reach

SIZES = range(1, 8)


def subsets(n):
    return [set(c) for k in range(n + 1) for c in combinations(range(n), k)]


def mask(servers):
    return sum(1 << i for i in servers)


@pytest.mark.parametrize("n", SIZES)
def test_a_quorum_is_more_than_half_each_counted_once(n):
    for chosen in subsets(n):
        assert is_quorum(mask(chosen), n) == (2 * len(chosen) > n)


@pytest.mark.parametrize("n", SIZES)
def test_any_two_quorums_share_a_server(n):
    quorums = [s for s in subsets(n) if is_quorum(mask(s), n)]
    assert all(a & b for a in quorums for b in quorums)


@pytest.mark.parametrize("n", SIZES)
def test_a_majority_is_the_smallest_quorum(n):
    smallest = min(len(s) for s in subsets(n) if is_quorum(mask(s), n))
    assert majority(n) == smallest


@pytest.mark.parametrize("n", SIZES)
def test_out_of_reach_means_that_the_rest_holds_no_quorum(n):
    everybody = set(range(n))
    for lost in subsets(n):
        rest_has_one = any(is_quorum(mask(s), n) for s in subsets(n) if s <= everybody - lost)
        assert out_of_reach(mask(lost), n) == (not rest_has_one)


@pytest.mark.parametrize("n", SIZES)
def test_masks_and_members_are_the_same_sets(n):
    assert set(members(everyone(n))) == set(range(n))
    for chosen in subsets(n):
        assert set(members(mask(chosen))) == chosen
        assert list(members(mask(chosen))) == sorted(chosen)
