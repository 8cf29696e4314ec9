"""What came of calls, as it travels: results that cannot be encoded, or are too large together."""

from typing import Any

import msgspec
import pytest

from wormspace.smr import StateMachine, calls, command
from wormspace.smr.calls import (
    Dispatcher,
    Malformed,
    _check,
    as_fault,
    encode_calls,
    encode_outcome,
)
from wormspace.smr.nesting import MAX_NESTING
from wormspace.smr.records import Fault, decode_outcome, decode_plain_outcome

decode = msgspec.msgpack.decode
encode = msgspec.msgpack.encode


def fault(index):
    return {index: Fault("ValueError", "no", ["no"])}


def test_results_travel_with_the_faults_among_them_and_sets_in_order(monkeypatch):
    monkeypatch.delattr(calls, "_travels")  # what is small enough is looked at once
    outcome = decode_outcome(encode_outcome([1, None, {"b", "a"}], fault(1)))
    assert [decode(one) for one in outcome.values] == [1, None, ["a", "b"]]
    assert (outcome.faults, outcome.refused) == (fault(1), "")
    assert decode_plain_outcome(encode_outcome([], {})).values == []


@pytest.mark.parametrize(
    "value",
    [1 << 70, "\ud800", object(), {1: object()}],
    ids=["large", "surrogate", "object", "object in a dictionary"],
)
def test_a_result_that_cannot_be_encoded_is_a_fault_and_no_other_one_is(value):
    outcome = decode_outcome(encode_outcome([1, value, 3, None, value], fault(3)))
    assert [decode(one) for one in outcome.values] == [1, None, 3, None, None]
    assert sorted(outcome.faults) == [1, 3, 4]
    assert outcome.faults[3] == fault(3)[3]
    assert outcome.faults[1] == outcome.faults[4]
    assert outcome.faults[1].kind in ("OverflowError", "UnicodeEncodeError", "TypeError")


LARGE = "it was made, but its result, of {} bytes, is too large to travel, "


@pytest.mark.parametrize(
    ("most", "kept"),
    [
        (22, [True, True, True]),  # of 5 bytes each, with 7 around them
        (21, [True, True, True]),
        (15, [True, True, True]),
        (14, [True, True, False]),
        (10, [True, True, False]),
        (9, [True, False, False]),
        (5, [True, False, False]),
        (4, [False, False, False]),
    ],
)
def test_of_results_that_are_too_large_together_the_first_ones_travel(most, kept, monkeypatch):
    monkeypatch.setattr(calls, "MAX_OUTCOME_BYTES", most)
    outcome = decode_outcome(encode_outcome(["abcd"] * 3, {}))
    assert [decode(one) == "abcd" for one in outcome.values] == kept
    assert sorted(outcome.faults) == [index for index in range(3) if not kept[index]]
    for one in outcome.faults.values():
        assert one.kind == "ValueError"
        assert one.text.startswith(LARGE.format(5))


def test_a_small_result_behind_one_that_is_too_large_travels(monkeypatch):
    monkeypatch.setattr(calls, "MAX_OUTCOME_BYTES", 10)
    outcome = decode_outcome(encode_outcome(["x" * 20, "abcd", None, "abc", "d"], fault(2)))
    assert [decode(one) for one in outcome.values] == [None, "abcd", None, "abc", None]
    assert sorted(outcome.faults) == [0, 2, 4]
    assert outcome.faults[0].text.startswith(LARGE.format(21))
    exactly = encode_outcome(["x"], {})
    monkeypatch.setattr(calls, "MAX_OUTCOME_BYTES", len(exactly))
    assert encode_outcome(["x"], {}) == exactly


def test_an_exception_is_its_class_its_words_and_what_it_was_given():
    held = [1]
    made = as_fault(ValueError(held, {"b", "a"}))
    held.append(2)
    assert made.kind == "ValueError"
    assert made.arguments == [[1], ["a", "b"]]
    assert as_fault(KeyError("k")) == Fault("KeyError", "'k'", ["k"])
    assert as_fault(ValueError()) == Fault("ValueError", "", [])
    opaque = as_fault(ValueError(object))
    assert (opaque.kind, opaque.text, opaque.arguments) == ("ValueError", str(object), None)
    words = "maximum recursion depth exceeded"
    for error in (RecursionError(), RecursionError("in comparison, 17 frames on")):
        assert as_fault(error) == Fault("RecursionError", words, [words])


@pytest.mark.parametrize(
    ("runs", "groups", "words"),
    [
        ([(0, 2), (1, 1), (0, 1)], [[[1, 2, 3]], [[4]]], ""),
        ([(0, 2)], [[[1, 2], [3, 4], iter(())]], ""),
        ([(0, 9)], [[]], ""),
        ([], [], ""),
        ([(1, 1)], [[[1]]], "there is no group 1"),
        ([(2, 1)], [[[1]]], "there is no group 2"),
        ([(0, 1)], [], "there is no group 0"),
        ([(0, 1)], [[[1, 2]]], "not as many arguments"),
        ([(0, 3)], [[[1, 2]]], "not as many arguments"),
        ([(0, 2)], [[[1, 2], [1]]], "not as many arguments"),
        ([], [[[1]]], "not as many arguments"),
        ([(0, 4096)], [[]], ""),
        ([(0, 4096), (1, 1)], [[], [[1]]], "more than 4096 calls"),
        ([(0, 4000), (0, 4000)], [[]], "more than 4096 calls"),
    ],
)
def test_there_are_as_many_arguments_as_calls(runs, groups, words):
    if not words:
        _check(runs, groups)
        return
    with pytest.raises(Malformed, match=words):
        _check(runs, groups)


def test_a_dispatcher_makes_calls_of_its_own_methods_and_passes_on_what_it_must():
    class Box(StateMachine):
        @command
        def put(self, thing: Any, again: int = 2) -> int:
            if thing == "full":
                raise MemoryError
            return again

        @command
        def other(self, n: int) -> int:
            return n

    put, other = (Box.declaration.methods[name] for name in ("put", "other"))
    one, both = Dispatcher("Box", [put], (MemoryError,)), Dispatcher("The box", [put, other])
    raw = encode_calls([put, other, put], [("a", 1), (7,), ("full", 3)])
    values, faults = both.run(Box(), raw)
    assert values == [1, 7, None]
    assert faults[2].kind == "MemoryError"
    with pytest.raises(MemoryError):
        one.run(Box(), encode_calls([put], [("full", 1)]))
    values, faults = one.run(Box(), encode_calls([other, put], [(7,), ("a", 4)]))
    assert values == [None, 4]
    assert (faults[0].kind, faults[0].text) == ("TypeError", "Box has no 'other'")
    older = encode(([(0, 2)], [("put", ["a", "b"])]))
    assert one.run(Box(), older) == ([2, 2], {})
    thing = "deep"
    for depth in range(MAX_NESTING + 1):
        raw = encode_calls([put], [(thing, depth)])
        assert one.run(Box(), raw) == ([depth], {})
        thing = [thing]
    for dispatcher in (one, both):
        with pytest.raises(Malformed, match=f"nested more than {MAX_NESTING} deep"):
            dispatcher.run(Box(), encode_calls([put], [(thing, 1)]))
    assert Dispatcher("Box", []).run(Box(), encode(([], []))) == ([], {})


def test_each_method_has_one_group_however_often_it_comes():
    def made(name):
        method = type("Method", (), {})()
        method.name = name
        return method

    a, b, c = map(made, "abc")
    raw = encode_calls([a, b, a, c, c], [(1,), (2,), (3,), (4,), (5,)])
    runs = [[0, 1], [1, 1], [0, 1], [2, 2]]
    assert decode(raw) == [runs, [["a", [1, 3]], ["b", [2]], ["c", [4, 5]]]]


def test_what_is_encoded_says_nothing_twice():
    assert decode(encode_outcome(["a", 1], {})) == [["a", 1], {}, ""]
    assert encode(decode(encode_outcome([2], fault(0)))) == encode_outcome([2], fault(0))
