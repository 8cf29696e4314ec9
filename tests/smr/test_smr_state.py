"""The containers of the state are those of Python to whoever uses them, and can take back all."""

import copy
import json
import math
import pickle

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wormspace.smr.canonical import encode_canonical
from wormspace.smr.kinds import Kind
from wormspace.smr.state import StateDict, StateList, StateSet, adopt
from wormspace.smr.table import StateTable, Table
from wormspace.smr.undo_journal import UndoJournal

NUMBERS = st.integers(0, 5)
MANY = st.lists(NUMBERS, max_size=4)
PAIRS = st.dictionaries(NUMBERS, NUMBERS, max_size=4)


def on_dict(d, name, key, value, pairs):
    match name:
        case "set":
            d[key] = value
        case "delete":
            del d[key]
        case "pop":
            return d.pop(key)
        case "pop default":
            return d.pop(key, None)
        case "popitem":
            return d.popitem()
        case "setdefault":
            return d.setdefault(key, value)
        case "update":
            d.update(pairs)
        case "update pairs":
            d.update(list(pairs.items()))
        case "or":
            d |= pairs
        case "clear":
            d.clear()
    return None


DICT = (
    *("set", "delete", "pop", "pop default", "popitem", "setdefault", "update", "update pairs"),
    *("or", "clear"),
)


def on_list(one, name, at, value, many):
    match name:
        case "append":
            one.append(value)
        case "extend":
            one.extend(iter(many))
        case "extend by itself":
            one.extend(one)
        case "set":
            one[at] = value
        case "set from behind":
            one[-at] = value
        case "slice":
            one[at : at + 2] = many
        case "steps":
            one[::2] = many
        case "insert":
            one.insert(at, value)
        case "pop":
            return one.pop()
        case "pop at":
            return one.pop(at)
        case "delete":
            del one[at]
        case "delete slice":
            del one[at:]
        case "remove":
            one.remove(value)
        case "sort":
            one.sort(key=lambda n: -n)
        case "reverse":
            one.reverse()
        case "add":
            one += many
        case "times":
            one *= 2
        case "clear":
            one.clear()
    return None


LIST = (
    *("append", "extend", "extend by itself", "set", "set from behind", "slice", "steps"),
    *("insert", "pop", "pop at", "delete", "delete slice", "remove", "sort", "reverse", "add"),
    *("times", "clear"),
)


def on_set(one, name, value, _, many):
    match name:
        case "add":
            one.add(value)
        case "discard":
            one.discard(value)
        case "remove":
            one.remove(value)
        case "update":
            one.update(many, {value})
        case "or":
            one |= set(many)
        case "and":
            one &= set(many)
        case "minus":
            one -= set(many)
        case "xor":
            one ^= set(many)
        case "intersection":
            one.intersection_update(many)
        case "difference":
            one.difference_update(many)
        case "symmetric":
            one.symmetric_difference_update(many)
        case "clear":
            one.clear()
    return


SET = (
    *("add", "discard", "remove", "update", "or", "and", "minus", "xor", "intersection"),
    *("difference", "symmetric", "clear"),
)


def outcome(call, container, step):
    name, *rest = step
    try:
        return call(container, name, *rest)
    except (KeyError, IndexError, ValueError) as e:
        return type(e)


def steps(names, rest):
    return st.lists(st.tuples(st.sampled_from(names), NUMBERS, NUMBERS, rest), max_size=12)


@settings(deadline=None, max_examples=150)
@given(
    st.one_of(
        st.tuples(st.just((dict[int, int], {}, on_dict)), steps(DICT, PAIRS), steps(DICT, PAIRS)),
        st.tuples(st.just((list[int], [], on_list)), steps(LIST, MANY), steps(LIST, MANY)),
        st.tuples(st.just((set[int], set(), on_set)), steps(SET, MANY), steps(SET, MANY)),
    )
)
def test_they_do_what_pythons_do_and_take_it_back(case):
    (hint, first, call), kept, undone = case
    journal = UndoJournal()
    here, there = adopt(first, Kind(hint, "it"), journal), copy.copy(first)
    journal.begin()
    for step in kept:
        assert outcome(call, here, step) == outcome(call, there, step)
    journal.commit()
    assert here == there
    if isinstance(here, dict):
        assert list(here) == list(there)
    journal.begin()
    for step in undone:
        outcome(call, here, step)
    journal.roll_back()
    assert here == there
    assert isinstance(here, StateDict | StateList | StateSet)


def state(hint, value):
    return adopt(value, Kind(hint, "it"), UndoJournal())


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (dict[str, list[int]], {"a": [1]}),
        (list[dict[str, int]], [{"a": 1}]),
        (set[str], {"a"}),
        (dict[str, set[int]] | None, {"a": {1}}),
    ],
)
def test_copies_are_pythons_own(hint, value):
    held = state(hint, value)
    for again in (copy.deepcopy(held), pickle.loads(pickle.dumps(held))):
        assert again == value
        assert type(again) is type(value)
    assert type(held.copy()) is type(value)
    assert msgspec.msgpack.encode(held) == msgspec.msgpack.encode(value)


def test_what_is_in_them_is_tracked_too():
    held = state(dict[str, list[int]], {"a": [1]})
    with pytest.raises(TypeError, match="it: Expected `int`"):
        held["a"].append("x")
    held["a"].append(2)
    assert json.dumps(held) == '{"a": [1, 2]}'


def test_a_set_has_no_order_to_take_a_member_by():
    with pytest.raises(TypeError, match="no order"):
        state(set[int], {1, 2}).pop()


def test_what_is_not_even_itself_is_no_key():
    held = state(dict[float, int], {})
    with pytest.raises(ValueError, match="not-a-number"):
        held[float("nan")] = 1
    with pytest.raises(ValueError, match="not-a-number"):
        state(set[tuple[int, float]], set()).add((1, float("nan")))


@pytest.mark.parametrize(
    ("hint", "first", "keys"),
    [
        (dict[int, str], {1: "a", 2: "b"}, (1.0, True)),
        (dict[float, int], {0.0: 1, 1.0: 2}, (-0.0, 0, False, 1)),
        (dict[tuple[float, str], int], {(0.0, "a"): 1}, ((0, "a"), (-0.0, "a"))),
        (set[int], {1, 2}, (1.0, True)),
        (set[float], {0.0, 1.0}, (-0.0, 0, 1)),
        (Table, {0.0: 1, 1.0: 2}, (-0.0, 0, 1)),
    ],
)
def test_what_is_taken_back_has_the_key_that_it_had(hint, first, keys):
    journal = UndoJournal()
    for key in keys:
        if hint is Table:
            held = StateTable(Kind(float, "key", is_key=True), Kind(int, "row"), journal)
            held.update(first)
        else:
            held = adopt(first, Kind(hint, "it"), journal)
        journal.begin()
        held.remove(key) if isinstance(held, set) else held.pop(key)
        assert len(held) == len(first) - 1
        journal.roll_back()
        assert encode_canonical(dict.fromkeys(held)) == encode_canonical(dict.fromkeys(first))


def test_a_row_that_an_image_lost_under_another_key_is_in_it_under_its_own():
    table = StateTable(Kind(float, "key", is_key=True), Kind(int, "row"), UndoJournal())
    table.update({1.0: 1, 2.0: 2})
    frozen = table.freeze()
    del table[1]
    assert [type(key) for key, _ in frozen.take(10)] == [float, float]


def take_one_after_the_other(held):
    while held:
        held.pop(0)


SINGLY = {
    "from the front": take_one_after_the_other,
    "into the middle": lambda held: [held.insert(len(held) // 2, [i]) for i in range(100)],
    "slice by slice": lambda held: [held.__setitem__(slice(i, i + 1), [[i]]) for i in range(100)],
    "deleted": lambda held: [held.__delitem__(len(held) // 2) for _ in range(50)],
    "removed": lambda held: [held.remove([i]) for i in range(100)],
    "appended": lambda held: [held.append([i]) for i in range(100)],
}


@pytest.mark.parametrize("how", SINGLY)
def test_what_is_noted_of_a_list_grows_with_its_changes_and_not_with_its_length(how):
    journal = UndoJournal()
    first = [[i] for i in range(100)]
    held = adopt(first, Kind(list[list[int]], "it"), journal)
    journal.begin()
    SINGLY[how](held)
    noted = [one for _, arguments in journal.undo for one in arguments if isinstance(one, list)]
    assert sum(map(len, noted)) <= 100
    assert len(journal._fresh) <= 1, "the list is gone through once, when the command is over"
    journal.roll_back()
    assert held == first


def test_a_list_holds_no_not_a_number_that_somebody_else_has():
    """Python finds it by its identity, which a replica that was restored does not have."""
    held = state(list[float], [])
    held.append(math.nan)
    held[:] = [*held, math.nan]
    assert len(held) == 2
    assert math.nan not in held
