"""What a command's changes note: how they are undone, what images are told, what is settled."""

import copy

import pytest

from wormspace.smr.kinds import Kind
from wormspace.smr.state import StateDict, StateList, StateSet, adopt
from wormspace.smr.table import StateTable
from wormspace.smr.undo_journal import UndoJournal, held_key


class Told:
    """Stands for an image: notes what is lost of a container, and whether places move."""

    def __init__(self):
        self.told = []

    def keep(self, container, lost, is_moved):
        self.told.append((sorted(lost), is_moved))


def made(hint, first):
    journal, told = UndoJournal(), Told()
    held = adopt(first, Kind(hint, "it"), journal)
    journal.images.append(told)
    return held, journal, told


MOVED, KEPT = ([], True), ([], False)
CHANGES = {
    "dict new": (dict[int, int], lambda d: d.__setitem__(9, 9), [MOVED]),
    "dict replaced": (dict[int, int], lambda d: d.__setitem__(1, 9), [([1], False)]),
    "dict deleted": (dict[int, int], lambda d: d.__delitem__(1), [([1], True)]),
    "dict popped": (dict[int, int], lambda d: d.pop(1), [([1], True)]),
    "dict pop nothing": (dict[int, int], lambda d: d.pop(9, 0), []),
    "dict popped item": (dict[int, int], lambda d: d.popitem(), [([2], True)]),
    "dict default there": (dict[int, int], lambda d: d.setdefault(1, 5), []),
    "dict default new": (dict[int, int], lambda d: d.setdefault(9, 5), [MOVED]),
    "dict updated": (dict[int, int], lambda d: d.update({1: 5, 9: 6}), [([1], False), MOVED]),
    "dict or": (dict[int, int], lambda d: d.__ior__({1: 5, 9: 6}), [([1], False), MOVED]),
    "dict cleared": (dict[int, int], lambda d: d.clear(), [([1, 2], True)]),
    "list appended": (list[int], lambda x: x.append(1), [MOVED]),
    "list extended": (list[int], lambda x: x.extend([1, 2]), [MOVED]),
    "list set": (list[int], lambda x: x.__setitem__(0, 5), [MOVED]),
    "list plus": (list[int], lambda x: x.__iadd__([1, 2]), [MOVED]),
    "list times": (list[int], lambda x: x.__imul__(2), [MOVED]),
    "list cleared": (list[int], lambda x: x.clear(), [MOVED]),
    "list removed": (list[int], lambda x: x.remove(1), [MOVED]),
    "list inserted": (list[int], lambda x: x.insert(1, 9), [MOVED]),
    "list slice": (list[int], lambda x: x.__setitem__(slice(0, 2), [7]), [MOVED]),
    "list steps": (list[int], lambda x: x.__setitem__(slice(0, 3, 2), [7, 8]), [MOVED]),
    "list sorted": (list[int], lambda x: x.sort(), [MOVED]),
    "list reversed": (list[int], lambda x: x.reverse(), [MOVED]),
    "list popped": (list[int], lambda x: x.pop(0), [MOVED]),
    "list step": (list[int], lambda x: x.__delitem__(slice(None, None, 2)), [MOVED]),
    "set added": (set[int], lambda s: s.add(9), [MOVED]),
    "set there": (set[int], lambda s: s.add(1), []),
    "set discarded": (set[int], lambda s: s.discard(1), [MOVED]),
    "set not there": (set[int], lambda s: s.discard(9), []),
    "set removed": (set[int], lambda s: s.remove(1), [MOVED]),
    "set cleared": (set[int], lambda s: s.clear(), [MOVED, MOVED]),
    "set updated": (set[int], lambda s: s.update([1, 7], [8]), [MOVED, MOVED]),
    "set or": (set[int], lambda s: s.__ior__({1, 7}), [MOVED]),
    "set and": (set[int], lambda s: s.__iand__({1, 7}), [MOVED]),
    "set minus": (set[int], lambda s: s.__isub__({1, 7}), [MOVED]),
    "set xor": (set[int], lambda s: s.__ixor__({1, 7}), [MOVED, MOVED]),
    "set difference": (set[int], lambda s: s.difference_update([1, 7], [2]), [MOVED, MOVED]),
    "set both": (set[int], lambda s: s.intersection_update([1, 7]), [MOVED]),
    "set either": (set[int], lambda s: s.symmetric_difference_update([1, 7, 7]), [MOVED, MOVED]),
}
FIRST = {dict[int, int]: {1: 1, 2: 2}, list[int]: [3, 1, 2], set[int]: {1, 2}}


@pytest.mark.parametrize("what", CHANGES)
def test_an_image_is_told_once_of_each_change_and_what_it_loses(what):
    hint, change, told = CHANGES[what]
    held, journal, image = made(hint, FIRST[hint])
    expected = copy.copy(FIRST[hint])
    change(held)  # while no command runs, too
    change(expected)
    assert (held, list(held)) == (expected, list(expected))
    assert image.told == told
    held, journal, image = made(hint, FIRST[hint])
    journal.begin()
    change(held)
    assert image.told == told
    assert len(journal.undo) == len(told)
    assert not journal._fresh, "immutable values are not looked at again when it is over"
    journal.roll_back()
    assert held == FIRST[hint]
    assert journal.undo is None


@pytest.mark.parametrize("what", CHANGES)
def test_while_a_query_runs_nothing_changes(what):
    hint, change, told = CHANGES[what]
    held, journal, image = made(hint, FIRST[hint])
    if told:
        with pytest.raises(TypeError, match=r"look\(\) is a query"), journal.closed("look"):
            change(held)
        assert (held, image.told) == (FIRST[hint], [])
    change(held)
    assert image.told == told


# ---------------------------------------------------------------- values that go on changing


def put_into_dict(held, value):
    held["x"] = value


def put_first(held, value):
    held[0] = value


PUT = {
    "dict": (dict[str, list[int]], {"x": [7]}, put_into_dict),
    "new in dict": (dict[str, list[int]], {}, put_into_dict),
    "default": (dict[str, list[int]], {}, lambda held, one: held.setdefault("x", one)),
    "update": (dict[str, list[int]], {}, lambda held, one: held.update({"x": one})),
    "append": (list[list[int]], [], lambda held, one: held.append(one)),
    "insert": (list[list[int]], [], lambda held, one: held.insert(0, one)),
    "extend": (list[list[int]], [], lambda held, one: held.extend([one])),
    "set": (list[list[int]], [[7]], put_first),
    "slice": (list[list[int]], [[7]], lambda held, one: held.__setitem__(slice(0, 1), [one])),
    "steps": (list[list[int]], [[7]], lambda held, one: held.__setitem__(slice(0, 1, 2), [one])),
}


def values(held):
    return list(held.values()) if isinstance(held, dict) else list(held)


@pytest.mark.parametrize("how", PUT)
def test_what_a_command_puts_into_the_state_is_its_own_until_it_is_over(how):
    hint, first, put = PUT[how]
    held, journal, _ = made(hint, first)
    journal.begin()
    mine = [1]
    put(held, mine)
    mine.append(2)
    assert values(held)[0] is mine
    journal.commit()
    (settled,) = values(held)
    assert (settled, type(settled)) == ([1, 2], StateList)
    mine.append(3)
    assert settled == [1, 2]
    journal.begin()
    settled.append(4)
    journal.roll_back()
    assert values(held) == [[1, 2]]


@pytest.mark.parametrize("how", PUT)
def test_what_is_not_what_was_declared_is_said_when_the_command_is_over_and_taken_back(how):
    hint, first, put = PUT[how]
    held, journal, _ = made(hint, first)
    journal.begin()
    mine = []
    put(held, mine)
    mine.append("no number")
    with pytest.raises(TypeError, match="it: Expected `int`"):
        journal.commit()
    journal.roll_back()
    assert held == first
    before = values(held)
    journal.begin()
    journal.commit()  # and what was put is not looked at again
    assert held == first
    assert [id(one) for one in values(held)] == [id(one) for one in before]


@pytest.mark.parametrize("how", PUT)
def test_without_a_command_it_is_settled_at_once(how):
    hint, first, put = PUT[how]
    held, _, _ = made(hint, first)
    mine = [1]
    put(held, mine)
    mine.append(2)
    assert values(held) == [[1]]
    assert type(values(held)[0]) is StateList


def test_one_value_in_several_places_is_several_values_afterwards():
    held, journal, _ = made(dict[str, list[int]], {})
    journal.begin()
    held["a"] = held["b"] = mine = [1]
    journal.commit()
    assert held["a"] is not held["b"]
    held["a"].append(2)
    assert (held, mine) == ({"a": [1, 2], "b": [1]}, [1])
    held, journal, _ = made(list[list[int]], [])
    journal.begin()
    held.extend([mine, mine])
    del held[0]
    journal.commit()
    held.append([5])
    assert held == [[1], [5]]
    assert held[0] is not mine


def test_what_was_put_and_taken_out_again_is_not_looked_at():
    held, journal, _ = made(dict[str, list[int]], {})
    journal.begin()
    held["a"] = ["no number"]
    del held["a"]
    journal.commit()
    assert held == {}


def test_to_put_a_value_where_it_is_already_is_no_change():
    held, journal, image = made(dict[str, list[int]], {"a": [1]})
    journal.begin()
    same = held["a"]
    held["a"] = same
    assert (journal.undo, image.told) == ([], [])
    held["a"] += [2]
    assert held["a"] is same
    journal.commit()
    assert held == {"a": [1, 2]}


def test_a_container_of_containers_is_filled_with_what_was_decoded():
    journal = UndoJournal()
    held = StateDict(Kind(dict[int, list[int]], "it"), journal)
    held.fill([(1, [1]), (2, [])])
    held.fill({3: [3]})
    assert held == {1: [1], 2: [], 3: [3]}
    assert {type(one) for one in held.values()} == {StateList}
    plain = StateDict(Kind(dict[int, int], "it"), journal)
    plain.fill([(1, 2)])
    plain.fill({3: 4})
    assert plain == {1: 2, 3: 4}
    rows = StateList(Kind(list[set[int]], "it"), journal)
    rows.fill([[1], [2]])
    rows.fill([[3]])
    assert (rows, {type(one) for one in rows}) == ([{1}, {2}, {3}], {StateSet})
    numbers = StateList(Kind(list[int], "it"), journal)
    numbers.fill([1])
    numbers.fill([2])
    members = StateSet(Kind(set[int], "it"), journal)
    members.fill([1])
    members.fill([2])
    assert (numbers, members) == ([1, 2], {1, 2})


def test_a_list_is_sorted_by_what_is_asked():
    held, _, _ = made(list[int], [3, -1, 2])
    held.sort()
    assert held == [-1, 2, 3]
    held.sort(reverse=True)
    assert held == [3, 2, -1]
    held.sort(key=abs)
    assert held == [-1, 2, 3]
    held.sort(key=abs, reverse=True)
    assert held == [3, 2, -1]


@pytest.mark.parametrize("kind", [list[int], list[list[int]]])
def test_places_in_a_list_are_pythons(kind):
    def item(n):
        return n if kind == list[int] else [n]

    for at in (-9, -2, -1, 0, 1, 2, 3, 9):
        for stop in (-9, -1, 0, 1, 2, 9, None):
            for step in (None, 1, 2, -1):
                first = [item(n) for n in range(3)]
                held, journal, _ = made(kind, first)
                journal.begin()
                expected = list(first)
                part = slice(at, stop, step)
                new = [item(7)] * len(expected[part])
                held[part] = new
                expected[part] = new
                assert held == expected
                journal.roll_back()
                del held[part]
                expected = list(first)
                del expected[part]
                assert held == expected
        held, expected = made(kind, [item(n) for n in range(3)])[0], [item(n) for n in range(3)]
        held.insert(at, item(8))
        expected.insert(at, item(8))
        assert held == expected
        for act in (lambda x, at=at: x.__setitem__(at, item(9)), lambda x, at=at: x.pop(at)):
            outcomes = []
            for one in (held, expected):
                try:
                    outcomes.append(act(one))
                except IndexError:
                    outcomes.append(IndexError)
            assert outcomes[0] == outcomes[1]
            assert held == expected


def test_what_is_asked_of_what_is_not_there_is_an_error_and_changes_nothing():
    held, journal, image = made(dict[int, int], {})
    journal.begin()
    for act in (
        lambda: held.pop(1),
        lambda: held.__delitem__(1),
        lambda: held.popitem(),
        lambda: made(set[int], set())[0].remove(1),
    ):
        with pytest.raises(KeyError):
            act()
    with pytest.raises(ValueError, match="not in list"):
        made(list[int], [])[0].remove(1)
    assert (journal.undo, image.told) == ([], [])
    assert held.setdefault(3, 4) == 4
    assert held.setdefault(3, 5) == 4
    assert held.popitem() == (3, 4)


def test_keys_and_values_are_looked_at_before_they_are_put():
    held, journal, image = made(dict[str, int], {"a": 1})
    table = StateTable(Kind(str, "key", is_key=True), Kind(int, "row"), journal)
    table["a"] = 1
    journal.begin()
    for one in (held, table):
        for key, value in ((1, 1), ("a", "b"), (b"a", 1)):
            with pytest.raises(TypeError):
                one[key] = value
        assert dict(one) == {"a": 1}
    numbers, inner, told = made(list[int], [1])
    inner.begin()
    for act in (
        lambda: numbers.append("a"),
        lambda: numbers.extend([2, "a"]),
        lambda: numbers.insert(0, "a"),
        lambda: numbers.__setitem__(0, "a"),
        lambda: numbers.__setitem__(slice(0, 1), ["a"]),
    ):
        with pytest.raises(TypeError):
            act()
    assert (numbers, inner.undo, told.told) == ([1], [], [])
    assert (journal.undo, image.told) == ([], [])


@pytest.mark.parametrize(
    ("keys", "key", "held"),
    [
        ([1], 1.0, int),
        ([1.0], 1, float),
        ([True], 1, bool),
        ([(0.0, "a")], (0, "a"), tuple),
        (["a"], "a", str),
        ([b"a"], b"a", bytes),
        ([2], 1.0, float),
    ],
)
def test_the_key_that_is_held_is_found_by_an_equal_one(keys, key, held):
    for container in (dict.fromkeys(keys), set(keys)):
        found = held_key(container, key)
        assert (found, type(found)) == (key, held)
        if key in container and held not in (str, bytes):
            assert any(found is one for one in container)
