"""Maps of ranges, against a dictionary with one entry per offset."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from wormspace.paxos.ballot import UNSAFE, ballot
from wormspace.paxos.ranges import Range, ballot_at, covers, highest, overlaps, overlay

SPACE = 24

ballots = st.integers(1, 5).map(lambda n: ballot(n, b"proposer"))


@st.composite
def spans(draw):
    lo = draw(st.integers(0, SPACE - 1))
    return lo, draw(st.integers(lo + 1, SPACE))


laid = st.lists(st.tuples(spans(), ballots), max_size=12)


def build(layers):
    ranges, model = (), {}
    for (lo, hi), b in layers:
        ranges = overlay(ranges, Range(lo, hi, b))
        model.update(dict.fromkeys(range(lo, hi), b))
    return ranges, model


@given(laid)
def test_a_map_says_of_each_offset_what_was_laid_last(layers):
    ranges, model = build(layers)
    for offset in range(SPACE):
        assert ballot_at(ranges, offset) == model.get(offset, UNSAFE)


@given(laid, spans())
def test_the_highest_ballot_of_a_range_is_that_of_its_offsets(layers, span):
    ranges, model = build(layers)
    assert highest(ranges, *span) == max(model.get(o, UNSAFE) for o in range(*span))


@given(laid)
def test_ranges_stay_disjoint_and_neighbours_are_joined(layers):
    ranges, model = build(layers)
    covered = [o for r in ranges for o in range(r.lo, r.hi)]
    assert sorted(covered) == sorted(model)
    ordered = sorted(ranges, key=lambda r: r.lo)
    for a, b in pairwise(ordered):
        assert a.hi <= b.lo
        assert a.hi < b.lo or a.ballot != b.ballot


@given(laid, spans(), ballots)
def test_a_slice_that_overlaps_or_touches_is_as_good_as_the_whole_map(layers, span, b):
    """The store hands the core only the part of the map that a message speaks of."""
    lo, hi = span
    ranges, model = build(layers)
    slice_ = tuple(r for r in ranges if r.lo <= hi and r.hi >= lo)
    others = tuple(r for r in ranges if r not in slice_)
    replaced = others + overlay(slice_, Range(lo, hi, b))
    model.update(dict.fromkeys(range(lo, hi), b))
    for offset in range(SPACE):
        assert ballot_at(replaced, offset) == model.get(offset, UNSAFE)


@given(laid, st.randoms(use_true_random=False))
def test_the_order_of_the_ranges_does_not_matter(layers, rng):
    ranges, _ = build(layers)
    shuffled = list(ranges)
    rng.shuffle(shuffled)
    for offset in range(SPACE):
        assert ballot_at(tuple(shuffled), offset) == ballot_at(ranges, offset)


@given(spans(), spans())
def test_overlap_is_a_shared_offset(a, b):
    r = Range(*a, UNSAFE)
    assert overlaps(r, *b) == bool(set(range(*a)) & set(range(*b)))
    assert all(covers(r, o) == (o in range(*a)) for o in range(SPACE))


def test_a_capture_of_any_size_is_one_range():
    ranges = ()
    for i in range(100):
        ranges = overlay(ranges, Range(i, i + 1, ballot(1, b"proposer")))
    assert len(ranges) == 1
    assert len(overlay(ranges, Range(0, 1 << 32, ballot(2, b"proposer")))) == 1
