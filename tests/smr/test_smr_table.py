"""Tables: a dictionary in order, whose frozen image does not change with it."""

import random

import hypothesis.strategies as st
import pytest
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
    assert table.setdefault(0, "0") == table[0]
    table.update({2: "two", 4: "4"})
    assert list(table) == [0, 1, 2, 3, 4]
    assert list(table.values()) == ["0", "1", "two", "3", "4"]
    assert table.popitem() == (0, "0")
    table.clear()
    assert list(table.items()) == []
    with pytest.raises(KeyError):
        table.pop(1)


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


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.clear(),
        lambda table: table.popitem(),
        lambda table: table.pop(1),
        lambda table: table.update({1: "new", 0: "new"}),
        lambda table: table.setdefault(0, "new"),
        lambda table: table.__delitem__(2),
    ],
)
def test_no_way_to_change_a_table_is_missed_by_its_frozen_image(change):
    table = Table()
    table.update({1: "a", 2: "b"})
    frozen = table.freeze()
    change(table)
    assert dict(table.items()) != {1: "a", 2: "b"}
    assert taken(frozen, 10) == [(1, "a"), (2, "b")]


def test_two_frozen_tables_are_of_their_own_moments():
    table = Table()
    table[1] = "a"
    first = table.freeze()
    table[1] = "b"
    second = table.freeze()
    table[1] = "c"
    assert taken(first, 10) == [(1, "a")]
    assert taken(second, 10) == [(1, "b")]
