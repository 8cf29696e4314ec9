"""The acceptor's handlers, against a naive acceptor that keeps every register apart."""

from hypothesis import given
from hypothesis import strategies as st

from wormspace.paxos.acceptor import ACCEPTED, is_decided, on_capture, on_decided, on_write
from wormspace.paxos.ballot import NOTHING, UNSAFE, ballot
from wormspace.paxos.messages import Row
from wormspace.paxos.ranges import Range, ballot_at

SPACE = 6
B1, B2, B3 = (ballot(n, b"proposer") for n in (1, 2, 3))


class Naive:
    """One promise and one acceptance per register."""

    def __init__(self):
        self.promised = dict.fromkeys(range(SPACE), UNSAFE)
        self.accepted = {}

    def capture(self, lo, hi, b):
        if all(b > self.promised[o] for o in range(lo, hi)):
            self.promised.update(dict.fromkeys(range(lo, hi), b))
            return True
        return False

    def write(self, o, b, value):
        if b < self.promised[o]:
            return False
        held = self.accepted.get(o)
        if held and held[0] == b and held[1] != value:
            return False
        self.promised[o] = b
        self.accepted[o] = (b, value)
        return True


ballots = st.sampled_from([UNSAFE, B1, B2, B3])
offsets = st.integers(0, SPACE - 1)
captures = st.tuples(st.just("capture"), offsets, st.integers(1, SPACE), ballots)
writes = st.tuples(st.just("write"), offsets, ballots, st.sampled_from([b"", b"x", b"y"]))


@given(st.lists(captures | writes, max_size=30))
def test_the_handlers_do_what_the_naive_acceptor_does(messages):
    naive, promises, rows = Naive(), (), {}
    for kind, *m in messages:
        if kind == "capture":
            lo, hi, b = m
            if lo >= hi:
                continue
            new, top = on_capture(promises, lo, hi, b)
            assert (b > top) == naive.capture(lo, hi, b)
            if not b > top:
                assert new is promises
            promises = new
        else:
            o, b, value = m
            row = rows.get(o, Row(o))
            promises, after, verdict = on_write(promises, row, o, b, value)
            assert (verdict == ACCEPTED) == naive.write(o, b, value)
            if verdict != ACCEPTED:
                assert after is row
                assert verdict >= b
            elif after.ballot != NOTHING:
                rows[o] = after
        for o in range(SPACE):
            assert ballot_at(promises, o) == naive.promised[o]
            row = rows.get(o)
            assert (row and (row.ballot, row.value)) == naive.accepted.get(o)
            assert row is None or row.ballot <= ballot_at(promises, o)


def test_a_capture_is_granted_on_all_of_its_range_or_not_at_all():
    promises, _ = on_capture((), 2, 3, B2)
    after, top = on_capture(promises, 0, 6, B1)
    assert after is promises
    assert top == B2
    after, _ = on_capture(promises, 0, 6, B3)
    assert after == (Range(0, 6, B3),)


def test_the_same_capture_twice_is_refused_the_second_time():
    promises, _ = on_capture((), 0, 4, B1)
    _, top = on_capture(promises, 0, 4, B1)
    assert top == B1


def test_the_same_write_twice_is_accepted_and_changes_nothing():
    promises, row, _ = on_write((), Row(0), 0, B1, b"v")
    again, same, verdict = on_write(promises, row, 0, B1, b"v")
    assert (again, same, verdict) == (promises, row, ACCEPTED)


def test_accepting_raises_the_promise():
    promises, _, _ = on_write((), Row(0), 0, B2, b"v")
    _, top = on_capture(promises, 0, 1, B1)
    assert top == B2
    _, _, verdict = on_write(promises, Row(0, B2, b"v"), 0, B1, b"w")
    assert verdict == B2


def test_an_unsafe_write_is_accepted_only_where_nothing_was_promised():
    _, row, verdict = on_write((), Row(0), 0, UNSAFE, b"v")
    assert verdict == ACCEPTED
    assert row == Row(0, UNSAFE, b"v")
    promises, _ = on_capture((), 0, 1, B1)
    _, _, verdict = on_write(promises, Row(0), 0, UNSAFE, b"v")
    assert verdict == B1


def test_a_second_value_under_one_ballot_is_refused_with_that_very_ballot():
    promises, row, _ = on_write((), Row(0), 0, B1, b"v")
    _, after, verdict = on_write(promises, row, 0, B1, b"w")
    assert verdict == B1
    assert after is row


@given(st.lists(st.tuples(offsets, st.integers(1, SPACE), ballots), max_size=8), offsets, ballots)
def test_a_mark_speaks_of_its_range_at_its_ballot_and_above(marks, offset, b):
    kept, model = (), {}
    for lo, hi, mark in marks:
        if lo < hi:
            kept = on_decided(kept, lo, hi, mark)
            model.update(dict.fromkeys(range(lo, hi), mark))
    expected = offset in model and b >= model[offset]
    assert is_decided(kept, offset, b) == expected


def test_nothing_accepted_is_never_decided():
    assert not is_decided(on_decided((), 0, 4, UNSAFE), 0, NOTHING)
