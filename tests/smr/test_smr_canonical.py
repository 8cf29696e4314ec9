"""Canonical encoding: equal values have equal bytes, however they came about."""

import dataclasses

import msgspec
import pytest
from digests import state_digest
from hypothesis import given
from hypothesis import strategies as st

from wormspace.smr import StateMachine, command, query
from wormspace.smr.calls import encode_calls
from wormspace.smr.canonical import encode_canonical
from wormspace.smr.engine import Engine
from wormspace.smr.records import Batch, Packet, decode_outcome, encode
from wormspace.smr.snapshots import Snapshot, restore

keys = st.one_of(st.integers(-300, 300), st.tuples(st.integers(0, 9), st.text(max_size=2)))
scalars = st.one_of(st.none(), st.integers(-(2**40), 2**40), st.text(max_size=3), st.binary())


def nested(*more):
    return st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4), *more
        ),
        max_leaves=12,
    )


class Inner(msgspec.Struct, frozen=True, tag="inner", array_like=True):
    held: dict[int, set[int]]


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    names: frozenset[str]


def turned_round(value):
    """An equal value whose dictionaries and sets were filled the other way round."""
    if isinstance(value, dict):
        return {key: turned_round(held) for key, held in reversed(value.items())}
    if isinstance(value, set):
        again = set()
        for one in reversed(list(value)):
            again.add(one)  # where two share a place in memory, the first of them takes it
        return again
    if isinstance(value, list):
        return [turned_round(one) for one in value]
    return value


@given(nested(st.sets(scalars, max_size=4)))
def test_equal_values_have_equal_bytes(value):
    assert encode_canonical(value) == encode_canonical(turned_round(value))


@given(nested())
def test_the_bytes_say_what_the_value_was(value):
    assert msgspec.msgpack.decode(encode_canonical(value)) == msgspec.msgpack.decode(encode(value))


def test_structs_and_dataclasses_keep_their_shape():
    one = Outer(Inner({10: {1, 2**20, 3}, -1: set(), 7: {5}}), frozenset("abc"))
    other = Outer(Inner({7: {5}, -1: set(), 10: {2**20, 3, 1}}), frozenset("cab"))
    assert encode_canonical(one) == encode_canonical(other)
    assert msgspec.msgpack.decode(encode_canonical(one), type=Outer) == one
    assert encode_canonical(one) != encode_canonical(dataclasses.replace(one, inner=Inner({})))


def test_what_cannot_be_encoded_is_refused_as_before():
    for wrong in (object(), {1: object()}, [{2: {object()}}]):
        with pytest.raises(TypeError):
            encode_canonical(wrong)
    for wrong in (2**70, {1: 2**70}):
        with pytest.raises((OverflowError, ValueError)):
            encode_canonical(wrong)


class Stock(StateMachine):
    shelves: dict[int, dict[tuple[int, int], str]] = {}  # noqa: RUF012

    @command
    def put(self, shelf: int, place: tuple[int, int], what: str) -> dict[int, int]:
        self.shelves.setdefault(shelf, {})[place] = what
        return {number: len(held) for number, held in self.shelves.items()}

    @query
    def on(self, shelf: int) -> dict[tuple[int, int], str]:
        return self.shelves[shelf]


def applied(calls):
    engine = Engine(Stock())
    method = Stock.declaration.methods["put"]
    raw = encode_calls([method] * len(calls), calls)
    batch = encode(Batch(1, 2, [Packet(b"c" * 8, 1, 1, raw)]))
    (outcome,), _ = engine.apply(batch, 10)
    return engine, [method.decode(value) for value in decode_outcome(outcome.outcome).values]


async def test_state_and_results_may_have_dictionaries_with_any_keys():
    calls = [(300, (1, 2), "nut"), (-4, (0, 0), "bolt"), (7, (9, 9), "nail"), (300, (0, 1), "tack")]
    engine, results = applied(calls)
    assert results[-1] == {300: 2, -4: 1, 7: 1}
    again, _ = applied(list(reversed(calls)))
    assert again.machine.shelves == engine.machine.shelves
    assert state_digest(again) == state_digest(engine)  # filled in another order
    other, _ = applied(calls[:-1])
    assert state_digest(other) != state_digest(engine)
    snapshot = Snapshot(engine)
    pieces = list(snapshot.pieces())
    snapshot.close()

    async def taken():
        for piece in pieces:
            yield piece

    restored = await restore(Stock, taken())
    assert restored.machine.shelves == engine.machine.shelves
    assert state_digest(restored) == state_digest(engine)
