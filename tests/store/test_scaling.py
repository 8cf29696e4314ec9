"""What each operation of the store costs as it grows: counted, not timed."""

from __future__ import annotations

import asyncio

import pytest

from scaling import assert_growth, count, growth
from wormspace.knobs import turned
from wormspace.server.storage import AcceptorStore
from wormspace.store.memory_engine import MemoryEngine

SIZES = [200, 400, 800]


def key(n):
    return n.to_bytes(8, "big")


def items(n):
    return [(key(2 * i), b"value") for i in range(n)]


@pytest.fixture(params=["memory", "lmdb"])
def make(request, tmp_path):
    """A function that makes engines of a number of rows."""
    opened = []

    def made(n):
        if request.param == "memory":
            engine = MemoryEngine()
        else:
            engine = AcceptorStore(tmp_path / f"store-{len(opened)}", durability="os")
        opened.append(engine)
        batch = engine.begin()
        batch.put_many("rows", items(n))
        asyncio.run(engine.commit(batch))
        return engine

    yield made
    for engine in opened:
        engine.close()


def test_the_count_is_what_it_says():
    def loops(n):
        return lambda: [None for _ in range(n)]

    def nested(n):
        def work():
            for _ in range(n):
                for _ in range(n):
                    pass

        return work

    assert count(lambda: None) == 1
    assert max(growth(nested, SIZES)) == pytest.approx(2, abs=0.05)
    assert_growth(loops, SIZES, at_most=1)
    with pytest.raises(AssertionError, match=r"to the 2\.0"):
        assert_growth(nested, SIZES, at_most=1)


ONE_ROW = {
    "get": lambda view, n: view.get("rows", key(n)),
    "get_many": lambda view, n: view.get_many("rows", [key(n), key(n + 1)]),
    "floor": lambda view, n: view.floor("rows", key(n)),
    "first of a scan": lambda view, n: next(view.scan("rows", key(n), key(2 * n))),
}


@pytest.mark.parametrize("name", ONE_ROW)
def test_one_row_costs_the_same_in_a_store_of_any_size(make, name):
    def prepare(n):
        view = make(n).view
        return lambda: ONE_ROW[name](view, n)

    assert_growth(prepare, SIZES, at_most=0.3)


@pytest.mark.parametrize("name", ONE_ROW)
def test_one_row_costs_the_same_in_a_batch_of_any_size(make, name):
    """What a batch has changed already must not be walked for every look."""

    def prepare(n):
        batch = make(1).begin()
        batch.put_many("rows", items(n))
        return lambda: ONE_ROW[name](batch, n)

    assert_growth(prepare, SIZES, at_most=0.3)


@pytest.mark.parametrize("name", ONE_ROW)
def test_looks_and_changes_in_turn_are_linear(make, name):
    """As captures of one batch do: look for the range around, change it, and so on."""

    def prepare(n):
        batch = make(1).begin()

        def work():
            for at in range(n):
                batch.put("rows", key(2 * (at * 7919 % n)), b"value")
                ONE_ROW[name](batch, at)

        batch.put("rows", key(8 * n), b"last")
        batch.put("rows", key(0), b"first")
        return work if name != "first of a scan" else lambda: _scans(batch, n)

    assert_growth(prepare, SIZES, at_most=1.1)


def _scans(batch, n):
    for at in range(n):
        batch.put("rows", key(2 * at), b"value")
        next(batch.scan("rows", key(at), key(9 * n)))


def test_a_floor_costs_one_step_more_per_row_deleted_right_below(make):
    def prepare(n):
        batch = make(n).begin()
        for at in range(1, n):
            batch.delete("rows", key(2 * at))
        return lambda: batch.floor("rows", key(2 * n))

    assert_growth(prepare, SIZES, at_most=1)


WHOLE = {
    "metrics": lambda engine: engine.metrics(),
    "health": lambda engine: engine.health(),
    "a step of the scrub": lambda engine: engine._scrub.step() if hasattr(engine, "_scrub") else 0,
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_asked_of_the_whole_store_costs_the_same_whatever_its_size(make, name):
    def prepare(n):
        engine = make(n)
        return lambda: WHOLE[name](engine)

    with turned(store_scrub_rows=50):
        assert_growth(prepare, SIZES, at_most=0.1)


def test_deletes_are_linear_in_their_number(make):
    def prepare(n):
        engine = make(n)
        batch = engine.begin()
        for key_, _ in items(n):
            batch.delete("rows", key_)
        return lambda: asyncio.run(engine.commit(batch))

    assert_growth(prepare, SIZES, at_most=1)


@pytest.mark.parametrize(("leaves", "cost"), [(0, 0.1), (1 << 15, 1)])
def test_opening_costs_the_records_of_the_journal_and_the_pages_that_are_checked(
    tmp_path, leaves, cost
):
    """Of a store that was closed, nothing but its last checkpoint is read, and those pages."""

    def prepare(n):
        path = tmp_path / f"closed-{n}"
        engine = AcceptorStore(path, durability="os")
        batch = engine.begin()
        batch.put_many("rows", items(n))
        asyncio.run(engine.commit(batch))
        engine.close()
        return lambda: AcceptorStore(path).close()

    with turned(store_check_leaves=leaves):
        assert_growth(prepare, SIZES, at_most=cost)


def test_a_commit_is_linear_in_its_batch_and_not_in_the_store(make):
    def of_batch(n):
        engine = make(1)
        batch = engine.begin()
        batch.put_many("rows", items(n))
        return lambda: asyncio.run(engine.commit(batch))

    def of_store(n):
        engine = make(n)
        batch = engine.begin()
        batch.put("rows", key(n), b"value")
        return lambda: asyncio.run(engine.commit(batch))

    assert_growth(of_batch, SIZES, at_most=1)
    assert_growth(of_store, SIZES, at_most=0.3)
