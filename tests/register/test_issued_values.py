"""What was issued under a ballot, against a model: one value for each register."""

from hypothesis import given
from hypothesis import strategies as st

from wormspace.registers.paxos.issued import Issued

OFFSETS = st.integers(0, 3)
VALUES = st.sampled_from([b"", b"a", b"b", b"bb"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("issue"), OFFSETS, VALUES),
        st.tuples(st.just("give up"), OFFSETS, st.none()),
    ),
    max_size=12,
)


@given(STEPS)
def test_no_second_value_is_issued_whatever_came_of_the_first(steps):
    issued, first = Issued(), {}
    for what, offset, value in steps:
        if what == "give up":
            issued.give_up(offset)
        else:
            assert issued.issue(offset, value) == (first.setdefault(offset, value) == value)
        known = issued.open.keys() | issued.doubt.keys()
        assert known == first.keys(), "it forgot what it sent"
        assert not issued.open.keys() & issued.doubt.keys()


@given(STEPS, st.integers(0, 3), st.integers(0, 3))
def test_what_is_settled_is_no_longer_open_and_the_rest_is_as_it_was(steps, lo, hi):
    issued = Issued()
    for what, offset, value in steps:
        if what == "give up":
            issued.give_up(offset)
        else:
            issued.issue(offset, value)
    before = dict(issued.open)
    issued.decide([(lo, hi)] if lo < hi else [])
    settled = set(range(lo, hi))
    assert issued.open == {n: v for n, v in before.items() if n not in settled}
    assert {n for n in range(5) if n in issued.decided} == settled
