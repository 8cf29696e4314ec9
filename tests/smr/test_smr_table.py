"""Tables: a dictionary in order, whose frozen image does not change with it."""

import copy
import pickle
import random

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

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


@settings(deadline=None)
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


# ------------------------------------------------------------ against a dictionary

KEYS = st.integers(0, 12)
VALUES = st.integers(0, 3)
ROWS = st.dictionaries(KEYS, VALUES, max_size=5)


class TableAgainstDict(RuleBasedStateMachine):
    """Every way to change and to read a table, with images of it taken in between."""

    def __init__(self):
        super().__init__()
        self.table = Table()
        self.rows = {}
        self.images = []

    def in_order(self):
        return dict(sorted(self.rows.items()))

    # Changes.

    @rule(key=KEYS, value=VALUES)
    def set_row(self, key, value):
        self.table[key] = self.rows[key] = value

    @rule(key=KEYS)
    def delete(self, key):
        if key in self.rows:
            del self.rows[key]
            del self.table[key]
        else:
            with pytest.raises(KeyError) as missing:
                del self.table[key]
            assert missing.value.args == (key,)

    @rule(key=KEYS, value=VALUES)
    def delete_and_set_again(self, key, value):
        """No look at the order in between."""
        self.table.pop(key, None)
        self.table[key] = self.rows[key] = value

    @rule(key=KEYS)
    def pop(self, key):
        if key in self.rows:
            assert self.table.pop(key) == self.rows.pop(key)
        else:
            with pytest.raises(KeyError):
                self.table.pop(key)

    @rule(key=KEYS, default=st.none() | VALUES)
    def pop_with_a_default(self, key, default):
        assert self.table.pop(key, default) == self.rows.pop(key, default)

    @rule()
    def popitem(self):
        if self.rows:
            first = min(self.rows)
            assert self.table.popitem() == (first, self.rows.pop(first))
        else:
            with pytest.raises(KeyError):
                self.table.popitem()

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key, value):
        assert self.table.setdefault(key, value) == self.rows.setdefault(key, value)

    @rule(rows=ROWS, how=st.sampled_from(["rows", "pairs", "table", "nothing"]))
    def update(self, rows, how):
        other = {"rows": rows, "pairs": list(rows.items()), "table": Table()}.get(how)
        if how == "table":
            other.update(rows)
        if how != "nothing":
            self.table.update(other)
            self.rows.update(rows)
        else:
            self.table.update()

    @rule(rows=ROWS, pairs=st.booleans())
    def update_in_place(self, rows, pairs):
        table = self.table
        self.table |= list(rows.items()) if pairs else rows
        assert self.table is table
        self.rows |= rows

    @rule()
    def clear(self):
        self.table.clear()
        self.rows.clear()

    # Images.

    @precondition(lambda self: len(self.images) < 3)
    @rule()
    def freeze(self):
        self.images.append((self.table.freeze(), list(self.in_order().items()), []))

    @precondition(lambda self: self.images)
    @rule(data=st.data(), limit=st.integers(1, 4))
    def take(self, data, limit):
        frozen, expected, seen = data.draw(st.sampled_from(self.images))
        seen += frozen.take(limit)
        assert seen == expected[: len(seen)]

    @precondition(lambda self: self.images)
    @rule(data=st.data(), limit=st.integers(1, 20), times=st.integers(1, 2), whole=st.booleans())
    def close(self, data, limit, times, whole):
        frozen, expected, seen = self.images.pop(
            data.draw(st.integers(0, len(self.images) - 1), "which")
        )
        if whole:
            assert seen + taken(frozen, limit) == expected
        for _ in range(times):
            frozen.close()

    # Looks.

    @rule(key=KEYS)
    def look_at_a_row(self, key):
        assert (key in self.table) == (key in self.rows)
        assert self.table.get(key) == self.rows.get(key)
        assert self.table.get(key, "none") == self.rows.get(key, "none")
        if key in self.rows:
            assert self.table[key] == self.rows[key]
        else:
            with pytest.raises(KeyError):
                self.table[key]

    @rule(start=st.none() | KEYS, stop=st.none() | KEYS)
    def scan(self, start, stop):
        assert list(self.table.scan(start, stop)) == [
            (key, value)
            for key, value in self.in_order().items()
            if (start is None or key >= start) and (stop is None or key < stop)
        ]

    @rule(rows=ROWS)
    def join(self, rows):
        for joined, expected in (
            (self.table | rows, self.in_order() | rows),
            (rows | self.table, rows | self.in_order()),
        ):
            assert type(joined) is dict
            assert list(joined.items()) == list(expected.items())

    @rule()
    def look_at_all(self):
        table, rows = self.table, self.in_order()
        listed = list(rows.items())
        assert list(table) == list(table.keys()) == list(rows)
        assert list(table.items()) == listed
        assert list(table.values()) == list(rows.values())
        assert list(reversed(table)) == list(reversed(rows))
        assert repr(table) == str(table) == f"Table({rows!r})"
        for same in (table.copy(), dict(table), {**table}, dict(table.items())):
            assert type(same) is dict
            assert list(same.items()) == listed
        assert table.keys() & {1, 2, 99} == rows.keys() & {1, 2, 99}
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(table), type=dict[int, int]) == rows

    @rule(how=st.sampled_from([copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))]))
    def copied(self, how):
        other = how(self.table)
        assert type(other) is Table
        assert list(other.items()) == list(self.in_order().items())
        other[99] = 1
        other.pop(0, None)
        assert list(other) == [key for key in self.in_order() if key] + [99]

    @invariant()
    def equal(self):
        assert self.table == self.rows
        assert not self.table != self.rows  # noqa: SIM202
        assert len(self.table) == len(self.rows)
        assert bool(self.table) == bool(self.rows)


TestTableAgainstDict = TableAgainstDict.TestCase
TestTableAgainstDict.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def filled(rows):
    table = Table()
    table.update(rows)
    return table


def test_a_key_that_goes_and_comes_again_between_two_looks_is_in_its_place():
    table = filled({2: "b", 1: "a"})
    assert list(table) == [1, 2]
    table[4] = "d"
    del table[1]
    table[3] = "c"
    table[1] = "again"
    del table[4]
    table[4] = "again"
    assert list(table.items()) == [(1, "again"), (2, "b"), (3, "c"), (4, "again")]


def test_a_table_of_given_keys():
    table = Table.fromkeys([3, 1, 2], "x")
    assert type(table) is Table
    assert list(table.items()) == [(1, "x"), (2, "x"), (3, "x")]


CHANGES = {
    "set": lambda table: table.__setitem__(1, "new"),
    "set a new one": lambda table: table.__setitem__(0, "new"),
    "del": lambda table: table.__delitem__(2),
    "pop": lambda table: table.pop(1),
    "pop with a default": lambda table: table.pop(1, None),
    "popitem": lambda table: table.popitem(),
    "setdefault": lambda table: table.setdefault(0, "new"),
    "update": lambda table: table.update({1: "new", 0: "new"}),
    "update with pairs": lambda table: table.update([(1, "new")]),
    "|=": lambda table: table.__ior__({2: "new"}),
    "clear": lambda table: table.clear(),
}


def test_every_way_to_change_a_dict_is_among_those_that_are_tried():
    """A method that a later Python gives to dictionaries would go past the images."""
    reading = {"copy", "fromkeys", "get", "items", "keys", "values"}
    changing = {name for name in vars(dict) if not name.startswith("_")} - reading
    assert changing == {"clear", "pop", "popitem", "setdefault", "update"}
    in_place = {name for name in vars(dict) if name.startswith("__i") and name != "__init__"}
    assert in_place == {"__iter__", "__ior__"}
    for name in changing | in_place:
        assert getattr(Table, name) is not getattr(dict, name)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_image_sees_every_way_to_change_a_table(change, images):
    table = filled({1: "a", 2: "b"})
    frozen = [table.freeze() for _ in range(images)]
    change(table)
    assert table != {1: "a", 2: "b"}
    for image in frozen:
        assert taken(image, 10) == [(1, "a"), (2, "b")]


def test_an_image_that_is_closed_twice_takes_no_other_with_it():
    table = filled({1: "a"})
    first, second = table.freeze(), table.freeze()
    first.close()
    first.close()
    table[1] = "b"
    assert taken(second, 10) == [(1, "a")]
    second.close()
    assert type(table) is Table, "nothing is put aside any more"


@pytest.mark.parametrize(
    "walk", [iter, reversed, Table.items, Table.values, Table.scan], ids=lambda walk: walk.__name__
)
@pytest.mark.parametrize("change", [lambda table: table.pop(2), lambda table: table.update({9: 9})])
def test_who_changes_the_size_while_he_iterates_is_told_as_by_a_dict(walk, change):
    table = filled({1: 1, 2: 2, 3: 3})
    walking = iter(walk(table))
    next(walking)
    change(table)
    with pytest.raises(RuntimeError, match="changed size"):
        next(walking)
    table = filled({1: 1, 2: 2, 3: 3})
    for _ in walk(table):
        table[2] = "values may change"


def test_a_key_that_cannot_be_compared_is_said_and_can_be_taken_back():
    table = filled({(1, "a"): 0})
    assert list(table) == [(1, "a")]
    table[1, 2] = 0
    table[0, "x"] = 0
    for _ in range(2):
        with pytest.raises(TypeError, match="not supported between"):
            list(table)
    dict.__delitem__(table, (1, 2))
    assert list(table) == [(0, "x"), (1, "a")]


def test_joined_with_others_copied_and_pickled_it_has_its_rows_in_order():
    table = Table()
    table.update({2: "b", 1: "a"})
    assert table | {0: "z", 2: "x"} == {1: "a", 2: "x", 0: "z"}
    assert {0: "z", 2: "x"} | table == {0: "z", 2: "b", 1: "a"}
    assert [type(one) for one in (table | {}, {} | table, table.copy())] == [dict] * 3
    assert list(table.copy().items()) == [(1, "a"), (2, "b")]
    same = table
    table |= {3: "c"}
    assert table is same
    assert list(table.items()) == [(1, "a"), (2, "b"), (3, "c")]
    table.freeze()
    for again in (copy.copy(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert type(again) is Table
        assert list(again.items()) == list(table.items())
        again[0] = "z"
        assert (list(again), 0 in table) == ([0, 1, 2, 3], False)
    assert repr(table) == "Table({1: 'a', 2: 'b', 3: 'c'})"
