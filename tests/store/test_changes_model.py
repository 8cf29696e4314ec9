"""A batch over a view, and the engine in memory, against dictionaries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from wormspace.errors import Closed
from wormspace.store import changes as changes_module
from wormspace.store.changes import Changes, decode, encode, puts
from wormspace.store.engine import Item
from wormspace.store.memory_engine import MemoryEngine


@pytest.fixture(params=[1, 8])
def many(request, monkeypatch):
    """From one row on what was deleted is remembered, and as shipped."""
    monkeypatch.setattr(changes_module, "MANY", request.param)


KEYS = [bytes([i]) for i in range(7)] + [b"\3\0", b"\5\0"]
"""Of two pairs nothing lies between the one key and the other."""
ROUNDS = 40


def some_rows(rng: random.Random) -> dict[bytes, bytes]:
    return {key: rng.randbytes(rng.randrange(3)) for key in rng.sample(KEYS, rng.randrange(7))}


def some_steps(rng: random.Random) -> list[tuple]:
    """Changes of two tables, and looks at them."""
    steps: list[tuple] = []
    for _ in range(rng.randrange(10)):
        kind, table = rng.choice(["put", "delete", "many", "look"]), rng.choice("tu")
        items = list(some_rows(rng).items())
        one = (rng.choice(KEYS), rng.randbytes(rng.randrange(3)))
        what = {"put": one, "many": items[:3]}.get(kind, one[0])
        steps.append((kind, table, what))
    return steps


class Held:
    """A view that can be walked downward; it counts the rows it gives."""

    def __init__(self, held: dict[str, dict[bytes, bytes]]) -> None:
        self.held, self.given = held, 0

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.held.get(table, {}).get(key)

    def get_many(self, table: str, keys: list[bytes]) -> list[bytes | None]:
        return [self.get(table, key) for key in keys]

    def scan(self, table: str, lo: bytes, hi: bytes) -> Iterator[Item]:
        for item in sorted(self.held.get(table, {}).items()):
            if lo <= item[0] < hi:
                self.given += 1
                yield item

    def descend(self, table: str, key: bytes) -> Iterator[Item]:
        for item in sorted(self.held.get(table, {}).items(), reverse=True):
            if item[0] <= key:
                self.given += 1
                yield item

    def floor(self, table: str, key: bytes) -> Item | None:
        return next(self.descend(table, key), None)


def change(batch, model: dict[str, dict[bytes, bytes]], step) -> None:
    kind, table, what = step
    own = model.setdefault(table, {})
    if kind == "put":
        batch.put(table, *what)
        own[what[0]] = what[1]
    elif kind == "many":
        batch.put_many(table, iter(what))
        own.update(what)
    elif kind == "delete":
        batch.delete(table, what)
        own.pop(what, None)
    else:
        look(batch, model, table, what)


def look(view, model: dict[str, dict[bytes, bytes]], table: str, key: bytes) -> None:
    held = sorted(model.get(table, {}).items())
    assert view.get(table, key) == dict(held).get(key)
    assert view.floor(table, key) == max((i for i in held if i[0] <= key), default=None)
    assert list(view.scan(table, key, b"\x06")) == [i for i in held if key <= i[0] < b"\x06"]
    some = [b"\x03", key, b"\x00"]
    assert view.get_many(table, some) == [dict(held).get(k) for k in some]


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("seed", range(6))
def test_what_is_put_where_much_was_deleted_is_found(seed: int) -> None:
    """A span that was found bare does not hide what comes into it, by whatever call."""
    rng = random.Random(seed)
    below = {"t": some_rows(rng)}
    model = {"t": dict(below["t"])}
    batch = Changes(Held(below))
    for _ in range(60):
        for key in rng.sample(KEYS, rng.randrange(1, len(KEYS))):
            change(batch, model, ("delete", "t", key))
        look(batch, model, "t", rng.choice(KEYS))
        items = list(some_rows(rng).items())[: rng.randrange(3)]
        if rng.random() < 0.5:
            change(batch, model, ("many", "t", items))
        else:
            for item in items:
                change(batch, model, ("put", "t", item))
        look(batch, model, "t", rng.choice(KEYS))


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_batch_is_its_changes_over_what_is_below(seed: int) -> None:
    rng = random.Random(seed)
    below, key, done = {"t": some_rows(rng), "u": some_rows(rng)}, rng.choice(KEYS), some_steps(rng)
    model = {name: dict(held) for name, held in below.items()}
    batch = Changes(Held(below))
    for step in done:
        change(batch, model, step)
    for table in ("t", "u", "other"):
        look(batch, model, table, key)
    assert decode(encode(batch.tables)) == batch.tables
    for table, own in batch.tables.items():
        assert {k: v for k, v in (below[table] | own).items() if v is not None} == model[table]
    batch.abort()
    assert batch.tables == {}
    model = {name: dict(held) for name, held in below.items()}
    for step in some_steps(rng):
        change(batch, model, step)
    for table in below:
        look(batch, model, table, key)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_scan_sees_what_the_batch_changes_ahead_of_it(seed: int) -> None:
    rng = random.Random(seed)
    t, before, meanwhile = some_rows(rng), some_steps(rng), some_steps(rng)
    taken = rng.randrange(4)
    model = {"t": dict(t)}
    batch = Changes(Held({"t": t}))
    batch.put("t", b"\x03", b"mine")
    model["t"][b"\x03"] = b"mine"
    for step in before:
        change(batch, model, step)
    scan = batch.scan("t", b"\x01", b"\x07")
    passed = [item for _, item in zip(range(taken), scan, strict=False)]
    if len(passed) < taken:  # it has ended
        return
    now = passed[-1][0] if passed else b"\x00"
    ahead = [s for s in meanwhile if s[0] in ("put", "delete") and s[1] == "t"]
    for step in ahead:
        key = step[2][0] if step[0] == "put" else step[2]
        if key > now and key not in t:  # of what is below, the next row is read ahead
            change(batch, model, step)
    left = [i for i in sorted(model["t"].items()) if now < i[0] and b"\x01" <= i[0] < b"\x07"]
    assert list(scan) == left


def test_a_batch_that_changes_nothing_there_is_the_view_below() -> None:
    below = Held({"t": {b"a": b"1", b"b": b"2"}})
    batch = Changes(below)
    batch.put("u", b"x", b"y")
    assert list(batch.scan("t", b"", b"z")) == [(b"a", b"1"), (b"b", b"2")]
    assert batch.get_many("t", [b"a", b"c"]) == [b"1", None]
    assert batch.floor("t", b"b") == (b"b", b"2")
    assert below.given == 3


def test_a_floor_reads_one_row_more_for_each_that_is_deleted_right_there() -> None:
    below = Held({"t": {bytes([i]): b"" for i in range(100)}})
    batch = Changes(below)
    batch.put("t", b"\x00", b"")
    assert batch.floor("t", b"\x63") == (b"\x63", b"")
    assert below.given == 1
    for i in (0x63, 0x62):
        batch.delete("t", bytes([i]))
    assert batch.floor("t", b"\x63") == (b"\x61", b"")
    assert below.given == 4


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("count", [100, 200, 400])
def test_rows_that_were_deleted_are_passed_once(count) -> None:
    def key(i):
        return i.to_bytes(4, "big")

    below = Held({"t": {key(i): b"" for i in range(count + 1)}})
    batch = Changes(below)
    batch.put("t", key(0), b"first")
    for i in range(1, count):
        batch.delete("t", key(i))
    for look in range(20):
        below.given = 0
        at = count - 1 - look
        if look == 10:
            batch.put("t", key(count // 2), b"new")
        there = (key(count // 2), b"new") if look >= 10 else (key(0), b"first")
        assert batch.floor("t", key(at)) == there
        last = (key(count), b"")
        expected = [(key(0), b"first"), (key(count // 2), b"new"), last]
        assert list(batch.scan("t", b"", key(count + 1))) == [
            item for item in expected if look >= 10 or item[1] != b"new"
        ]
        assert below.given <= (2 * count + 10 if look in (0, 10) else 10)


def test_a_scan_over_what_was_deleted_reads_what_is_below_once() -> None:
    below = Held({"t": {bytes([i]): b"" for i in range(100)}})
    batch = Changes(below)
    for i in range(10, 30):
        batch.delete("t", bytes([i]))
    assert len(list(batch.scan("t", b"", b"\xff"))) == 80
    assert below.given == 100


def test_keys_are_put_in_order_once_and_only_where_somebody_looks(monkeypatch) -> None:
    made = []

    def ordered(held):
        made.append(held)
        return real(held)

    real = changes_module.SortedList
    monkeypatch.setattr(changes_module, "SortedList", ordered)
    batch = Changes(Held({}))
    batch.put_many("t", [(b"b", b"1"), (b"a", b"2")])
    assert made == []
    for i in range(5):
        batch.put("t", bytes([i]), b"")
        batch.put_many("t", [(b"x%d" % i, b""), (b"a", b"3")])
        assert batch.floor("t", b"a") == (b"a", b"3")
        assert [key for key, _ in batch.scan("t", b"x", b"y")] == [b"x%d" % n for n in range(i + 1)]
    assert len(made) == 1


def test_what_is_free_is_not_taken_for_a_put() -> None:
    asked = []

    def free(*row: object) -> bool:
        asked.append(row)
        return row[1] == b"free"

    changed = {"t": {b"free": b"1", b"gone": None}, "u": {b"k": b"2"}}
    assert not puts(changed, ["t", "none"], free)
    assert asked == [("t", b"free", b"1")]
    assert puts(changed, ["t", "u"], free)
    assert not puts(changed, [], free)
    assert not puts({"t": {b"gone": None}}, ["t"], free)


# ---------------------------------------------------------------- in memory


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_the_engine_in_memory_is_dictionaries_and_knows_its_size(seed: int) -> None:
    rng = random.Random(seed)
    batches = [(some_steps(rng), rng.random() < 0.6) for _ in range(3)]
    key = rng.choice(KEYS)

    async def run() -> None:
        engine = MemoryEngine()
        model: dict[str, dict[bytes, bytes]] = {"t": {}, "u": {}}
        for done, commits in batches:
            draft = {name: dict(held) for name, held in model.items()}
            batch = engine.begin()
            for step in done:
                change(batch, draft, step)
            if commits:
                await engine.commit(batch)
                model = draft
                batch.abort()  # of what is done, nothing is undone
            else:
                batch.abort()
            for table in ("t", "u", "other"):
                look(engine.view, model, table, key)
            size = sum(len(k) + len(v) for held in model.values() for k, v in held.items())
            assert engine.metrics() == {"store_bytes": size}
        assert engine.health() == ""
        engine.close()
        with pytest.raises(Closed):
            engine.view.get("t", key)

    asyncio.run(run())


async def test_a_batch_in_memory_that_was_dropped_is_dropped_once() -> None:
    engine = MemoryEngine()
    dropped = engine.begin()
    dropped.put("t", b"a", b"1")
    dropped.abort()
    batch = engine.begin()
    batch.put("t", b"a", b"2")
    await engine.commit(batch)
    dropped.abort()
    assert list(engine.view.scan("t", b"", b"z")) == [(b"a", b"2")]


@pytest.mark.parametrize("table", ["t", "other"])
def test_a_table_that_nobody_wrote_is_empty(table: str) -> None:
    view = MemoryEngine().view
    assert view.get(table, b"a") is None
    assert view.floor(table, b"a") is None
    assert list(view.scan(table, b"", b"z")) == []
