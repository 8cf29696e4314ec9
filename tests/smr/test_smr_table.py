"""Tables: a dictionary in order, whose frozen image does not change with it."""

import random

import hypothesis.strategies as st
from hypothesis import given

from wormspace.smr import Table


def taken(frozen, limit):
    rows = []
    while some := frozen.take(limit):
        rows += some
    return rows


def test_it_is_a_mapping_in_the_order_of_keys():
    table = Table()
    for key in (3, 1, 2):
        table[key] = str(key)
    assert list(table.items()) == [(1, "1"), (2, "2"), (3, "3")]
    assert table.pop(2) == "2"
    assert (2 in table, len(table), table.get(9)) == (False, 2, None)
    assert list(table.scan(2)) == [(3, "3")]
    assert list(table.scan(None, 3)) == [(1, "1")]


@given(
    st.dictionaries(st.integers(0, 40), st.integers()),
    st.lists(st.tuples(st.integers(0, 40), st.none() | st.integers())),
    st.integers(1, 7),
    st.randoms(use_true_random=False),
)
def test_a_frozen_table_shows_what_was_there_however_it_changes_meanwhile(
    rows, changes, limit, rng: random.Random
):
    table = Table()
    table.update(rows)
    frozen = table.freeze()
    seen = []
    expected = dict(rows)
    for key, value in changes:
        if rng.random() < 0.3:
            seen += frozen.take(limit)
        if value is None:
            table.pop(key, None)
            expected.pop(key, None)
        else:
            table[key] = expected[key] = value
    seen += taken(frozen, limit)
    frozen.close()
    assert seen == sorted(rows.items())
    assert dict(table.items()) == expected


def test_two_frozen_tables_are_of_their_own_moments():
    table = Table()
    table[1] = "a"
    first = table.freeze()
    table[1] = "b"
    second = table.freeze()
    table[1] = "c"
    assert taken(first, 10) == [(1, "a")]
    assert taken(second, 10) == [(1, "b")]
