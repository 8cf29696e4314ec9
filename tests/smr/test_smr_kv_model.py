"""The key-value store does as a dictionary with ends does, call by call and event by event."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wormspace.smr.calls import encode_calls
from wormspace.smr.engine import Engine
from wormspace.smr.kinds import INT_MAX
from wormspace.smr.kv import Change, Entry, KeyValue, prefix_stop
from wormspace.smr.records import Batch, Packet, decode_plain_outcome, encode
from wormspace.smr.submit import as_exception

SECOND = 10**9
METHODS = KeyValue.declaration.methods


class Model:
    """Keys with values, revisions and ends; what was said of each change."""

    def __init__(self):
        self.rows, self.revision, self.said, self.now = {}, 0, [], 0

    def begin(self, time_s):
        self.now = max(self.now, int(time_s * SECOND))
        ends = sorted((row[2], key) for key, row in self.rows.items() if row[2])
        for end, key in ends:
            if end <= self.now:
                self.delete(key)

    def put(self, key, value, ttl_s=None):
        end = 0
        if ttl_s is not None:
            if ttl_s <= 0 or math.isnan(ttl_s):
                return ValueError("a time to live is positive")
            end = self.now + int(ttl_s * SECOND)
            if end >= 1 << 64:
                return ValueError("a time to live ends within some five centuries")
        self.revision += 1
        self.rows[key] = (value, self.revision, end)
        self.said.append(Change(key, value, self.revision, end))
        return self.revision

    def delete(self, key):
        if key not in self.rows:
            return False
        del self.rows[key]
        self.revision += 1
        self.said.append(Change(key, None, self.revision))
        return True

    def cas(self, key, expected, value, ttl_s=None):
        if self.rows.get(key, (None,))[0] != expected:
            return False
        if value is not None:
            found = self.put(key, value, ttl_s)
            return found if isinstance(found, ValueError) else True
        self.delete(key)
        return True


KEYS = st.sampled_from(["a", "b", "c", ""])
VALUES = st.sampled_from([b"", b"x", b"y"])
TTLS = st.sampled_from([None, None, 0.5, 1.0, 2.0, 2.5, 0.0, -1.0, 2e10, math.nan])
CALLS = st.one_of(
    st.tuples(st.just("put"), KEYS, VALUES, TTLS),
    st.tuples(st.just("put"), KEYS, VALUES, TTLS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("cas"), KEYS, VALUES | st.none(), VALUES | st.none(), TTLS),
)


def run(engine, number, calls, time_ns):
    raw = encode_calls([METHODS[name] for name, *_ in calls], [tuple(a) for _, *a in calls])
    applied, _ = engine.apply(encode(Batch(time_ns, 7, [Packet(b"c", number, 1, raw)])), 9999)
    outcome = decode_plain_outcome(applied[0].outcome)
    values = list(outcome.values)
    for index, fault in outcome.faults.items():
        values[index] = as_exception(fault, KeyValue.declaration)
    return values


def query(engine, name, *arguments):
    method = METHODS[name]
    defaults = [p.default for p in method.parameters][len(arguments) :]
    return engine.query(method, (*arguments, *defaults))


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 8), st.lists(CALLS, max_size=4)), max_size=8))
@example([(0, [("put", "a", b"x", 1.0), ("put", "b", b"y", 1.0)]), (1, [("delete", "a")]), (2, [])])
@example([(0, [("put", "a", b"x", 1.0), ("put", "a", b"y", None), ("delete", "a")]), (5, [])])
@example([(0, [("put", "a", b"x", 1.0), ("put", "c", b"z", 3.0)]), (2, []), (3, [])])
@example(
    [
        (
            0,
            [
                ("put", "a", b"x", None),
                ("cas", "a", b"x", b"y", 2e10),
                ("cas", "a", b"x", None, None),
            ],
        )
    ]
)
def test_it_does_as_the_model_does(batches):
    engine, model = Engine(KeyValue()), Model()
    for number, (time_s, calls) in enumerate(batches, 1):
        model.begin(time_s)
        expected = [getattr(model, name)(*arguments) for name, *arguments in calls]
        found = run(engine, number, calls, int(time_s * SECOND))
        assert list(map(repr, found)) == list(map(repr, expected))
        machine = engine.machine
        assert list(engine.recent) == model.said
        assert machine.revision == model.revision
        ends = sorted((row[2], key) for key, row in model.rows.items() if row[2])
        assert [key for key, _ in machine.expiries.scan()] == ends
        assert engine.due() == (ends[0][0] / 1e9 if ends else None)
        assert query(engine, "size") == len(model.rows)
        assert query(engine, "scan") == [(k, v[0]) for k, v in sorted(model.rows.items())]
        for key in ("a", "b", "c", ""):
            value, revision, end = model.rows.get(key, (None, 0, 0))
            assert query(engine, "get", key) == value
            entry = None if value is None else Entry(value, revision, end)
            assert query(engine, "entry", key) == entry


def test_a_scan_has_bounds_and_a_limit():
    engine = Engine(KeyValue())
    run(engine, 1, [("put", key, key.encode(), None) for key in "dbace"], 0)
    for start in ("", "b", "bb", "f"):
        for stop in (None, "", "c", "d", "z"):
            for limit in range(-1, 7):
                keys = [k for k in "abcde" if k >= start and (stop is None or k < stop)]
                del keys[max(0, limit) :]
                expected = [(key, key.encode()) for key in keys]
                assert query(engine, "scan", start, stop, limit) == expected


def test_where_nothing_ends_nothing_is_due():
    assert KeyValue().due() is None


def test_an_end_is_at_most_the_last_number_that_travels():
    last = next(s for s in (1.8446744073709548e10, 1.844674407370955e10) if int(s * 1e9) <= INT_MAX)
    rest = INT_MAX - int(last * 1e9)
    engine = Engine(KeyValue())
    assert run(engine, 1, [("put", "a", b"", last)], rest) == [1]
    assert query(engine, "entry", "a").expires_ns == INT_MAX
    (error,) = run(engine, 2, [("put", "a", b"", last)], rest + 1)
    assert str(error) == "a time to live ends within some five centuries"
    assert query(engine, "entry", "a").revision == 1


@pytest.mark.parametrize(
    ("prefix", "stop"),
    [
        ("", None),
        ("a", "b"),
        ("ab", "ac"),
        ("a\U0010ffff", "b"),
        ("\U0010ffff", None),
        ("a\U0010ffff\U0010ffff", "b"),
        ("\ud7ff", "\ue000"),
        ("\ud7fe", "\ud7ff"),
        ("\ue000", "\ue001"),
        ("\U0010fffe", "\U0010ffff"),
        ("\x00", "\x01"),
    ],
)
def test_the_bound_of_a_prefix(prefix, stop):
    assert prefix_stop(prefix) == stop
