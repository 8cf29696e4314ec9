"""The built-in store alone: what a branch reads, locks and promises, and what its disk does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.tx.pieces import gid, plan, turn

from wormspace.errors import NewerFormat, StoreError, StoreFull, UsageError, WrongIdentity
from wormspace.sim import World
from wormspace.store.memory_engine import MemoryEngine
from wormspace.tx import kv
from wormspace.tx.committing import unknown
from wormspace.tx.errors import CannotPrepare, Conflict, ManagerDown
from wormspace.tx.kv import KeyValueStore
from wormspace.tx.messages import encode
from wormspace.tx.operations import DELETE, GET, PUT, Operation, decode_found
from wormspace.tx.places import Places


class Draft:
    """A batch of which nothing is to be seen before it is committed."""

    def __init__(self) -> None:
        self.changes: list[tuple] = []

    def put(self, *what: object) -> None:
        self.changes.append(("put", *what))

    def put_many(self, *what: object) -> None:
        self.changes.append(("put_many", *what))

    def delete(self, *what: object) -> None:
        self.changes.append(("delete", *what))


class Disk(MemoryEngine):
    """A disk that fails when it is told to, or is busy.

    Attributes:
        failing: the errors of the next commits, None for one that works.
        commits: how many there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failing: list[Exception | None] = []
        self.commits = self.closed = 0
        self.free = asyncio.Event()
        self.free.set()

    def begin(self) -> Draft:  # type: ignore[override]
        return Draft()

    async def commit(self, draft: Draft) -> None:  # type: ignore[override]
        self.commits += 1
        await self.free.wait()
        error = self.failing.pop(0) if self.failing else None
        if error is not None:
            raise error
        batch = super().begin()
        for name, *what in draft.changes:
            getattr(batch, name)(*what)
        await super().commit(batch)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """A disk that is full is tried again soon."""
    monkeypatch.setattr(kv, "RETRY_S", 0.001)
    monkeypatch.setattr(kv, "LAZY_S", 0.001)


async def store() -> tuple[KeyValueStore, Disk]:
    disk = Disk()
    made = await KeyValueStore.open("a", disk)
    disk.commits = 0
    return made, disk


async def prepared(made: KeyValueStore, number: int, **changes: str | None) -> kv.KvBranch:
    branch = await made.begin(gid(number=number))
    for key, value in changes.items():
        if value is None:
            await branch.delete(key.encode())
        elif value == "read":
            await branch.get(key.encode())
        else:
            await branch.put(key.encode(), value.encode())
    await branch.prepare()
    return branch


async def durable(made: KeyValueStore) -> None:
    """Wait until nothing is under way."""
    await until(lambda: not (made._prepared or made._writer._task or made._writer._timer))


async def until(done: Callable[[], object]) -> None:
    for _ in range(5000):
        if done():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it does not come to an end")


async def test_a_branch_sees_its_own_writes_and_others_do_until_they_are_committed() -> None:
    made, disk = await store()
    branch = await made.begin(gid())
    assert branch.session is branch
    assert await branch.get(b"k") is None
    await branch.put(b"k", b"1")
    await branch.put(b"k", b"2")
    assert (await branch.get(b"k"), made.value(b"k"), made.items()) == (b"2", None, {})
    assert branch.held == {b"k": True}
    await branch.prepare()
    assert await made.prepared() == [gid()]
    await made.commit(gid())
    assert made.value(b"k") == b"2"
    assert branch.held == {}
    await durable(made)
    assert (made.items(), await made.prepared()) == ({b"k": b"2"}, [])
    await prepared(made, 2, k=None)
    await made.commit(gid(number=2))
    assert made.value(b"k") is None
    await durable(made)
    assert made.items() == {}
    await prepared(made, 3, k="3")
    for _ in range(2):
        await made.abort(gid(number=3))
    await made.commit(gid(number=9))
    await durable(made)
    assert (made.items(), made.locks._holders) == ({}, {})
    again = await KeyValueStore.open("a", disk)
    assert (await again.prepared(), again.locks._holders) == ([], {})


async def test_a_lock_is_for_reading_until_it_is_for_writing() -> None:
    made, _ = await store()
    one, two = await made.begin(gid()), await made.begin(gid(number=2))
    for branch in (one, two):
        await branch.get(b"k")
    with pytest.raises(Conflict):
        await one.put(b"k", b"v")
    await two.rollback()
    await two.rollback()
    assert two.held == {}
    await one.put(b"k", b"v")
    await one.get(b"k")
    assert one.held == {b"k": True}
    three = await made.begin(gid(number=3))
    for work in (three.get(b"k"), three.put(b"k", b"w"), three.delete(b"k")):
        with pytest.raises(Conflict):
            await work
    with pytest.raises(Conflict):
        await one.prepare()  # it has met a lock before: whatever it read may be old
    assert one.held == {}


async def test_a_branch_that_is_over_takes_nothing() -> None:
    made, _ = await store()
    branch = await made.begin(gid())
    await branch.rollback()
    with pytest.raises(CannotPrepare, match="rolled back"):
        await branch.prepare()
    with pytest.raises(UsageError, match="over"):
        await branch.put(b"k", b"v")
    ready = await prepared(made, 2, k="v")
    for key in (b"k", b"other"):
        for call in (ready.get(key), ready.put(key, b"w"), ready.delete(key)):
            with pytest.raises(UsageError, match="over"):
                await call
    await ready.rollback()
    assert ready.held == {b"k": True}  # what is prepared is ended by its votes alone
    assert ready.writes == {b"k": b"v"}
    young = await made.begin(gid(number=3))
    for call in (young.get(b""), young.put(b"", b"w"), young.delete(b"x" * 128)):
        with pytest.raises(UsageError, match="a key is"):
            await call
    with pytest.raises(UsageError, match="a value is bytes"):
        await young.put(b"y", "w")
    assert (young.held, young.writes) == ({}, {})


async def test_who_meets_a_branch_that_is_prepared_waits_for_its_outcome() -> None:
    made, _ = await store()
    await prepared(made, 1, k="1")
    later, over = await made.begin(gid(number=2)), await made.begin(gid(number=3))
    waiting = [asyncio.ensure_future(b.get(b"k")) for b in (later, over)]
    writing = asyncio.ensure_future((await made.begin(gid(number=4))).put(b"k", b"4"))
    await turn()
    await over.rollback()
    await made.commit(gid())
    assert await waiting[0] == b"1"
    with pytest.raises(UsageError, match="over"):
        await waiting[1]
    assert over.held == {}
    with pytest.raises(Conflict):
        await writing


async def test_what_comes_while_the_disk_is_busy_shares_the_next_commit() -> None:
    made, disk = await store()
    disk.free.clear()
    preparing = [asyncio.ensure_future(prepared(made, n, **{f"k{n}": "v"})) for n in range(3)]
    await turn()
    preparing += [asyncio.ensure_future(prepared(made, n, **{f"k{n}": "v"})) for n in range(3, 6)]
    await turn()
    disk.free.set()
    await asyncio.gather(*preparing)
    assert disk.commits == 2
    start, starts = made._writer._start, []
    made._writer._start = lambda: starts.append(start())
    for n in range(6):
        await made.commit(gid(number=n))
    assert disk.commits == 2
    await durable(made)
    assert (disk.commits, len(starts)) == (3, 1)
    assert len(made.items()) == 6
    await prepared(made, 6, k6="v")
    disk.free.clear()
    await made.commit(gid(number=6))
    await until(lambda: made._writer._leaving)
    for _ in range(2):
        await made.commit(gid(number=6))
    disk.free.set()
    await durable(made)
    assert disk.commits == 5, "what is said again is not written again"


def test_an_outcome_waits_its_time_for_a_promise_to_share_a_commit_with() -> None:
    async def work() -> None:
        made, disk = await store()
        for number in range(4):
            await prepared(made, number, **{f"k{number}": "v"})
        now, begun = asyncio.get_running_loop().time, asyncio.get_running_loop().time()
        disk.commits = 0

        async def at(share: float) -> None:
            await asyncio.sleep(begun + share * kv.LAZY_S - now())

        await made.commit(gid(number=0))
        await at(0.5)
        await prepared(made, 4, k4="v")
        await at(0.6)
        await made.commit(gid(number=1))
        await at(1.3)
        assert disk.commits == 1
        await prepared(made, 5, k5="v")
        assert disk.commits == 2
        await at(2)
        await made.commit(gid(number=2))
        await at(2.9)
        assert (disk.commits, len(await made.prepared())) == (2, 4)
        await at(3.1)
        assert (disk.commits, len(await made.prepared())) == (3, 3)

    with World(0) as world:
        world.run(work())


async def test_what_is_on_its_way_to_the_disk_is_read() -> None:
    made, disk = await store()
    await prepared(made, 1, k="1", gone="1")
    await made.commit(gid())
    await durable(made)
    await prepared(made, 2, k="2", gone=None)
    await prepared(made, 3, other="3")
    disk.free.clear()
    await made.commit(gid(number=2))
    await until(lambda: made._writer._leaving)
    assert (made.value(b"k"), made.value(b"gone")) == (b"2", None)
    await made.commit(gid(number=3))
    assert (made.value(b"other"), made.items()[b"k"]) == (b"3", b"1")
    disk.free.set()
    await durable(made)
    assert made.items() == {b"k": b"2", b"other": b"3"}


async def test_a_full_disk_refuses_promises_and_keeps_outcomes() -> None:
    made, disk = await store()
    await prepared(made, 1, k="1")
    await prepared(made, 2, k2="1")
    disk.failing = [StoreFull("no room"), StoreFull("no room"), None]
    await made.commit(gid())
    with pytest.raises(CannotPrepare, match="no room"):
        await prepared(made, 3, other="3")
    assert made.value(b"k") == b"1"
    assert await made.prepared() == [gid(), gid(number=2)]
    assert b"other" not in made.locks._holders
    await made.commit(gid(number=2))
    await durable(made)
    assert made.items() == {b"k": b"1", b"k2": b"1"}
    assert disk.failing == []
    await prepared(made, 3, other="3")


async def test_who_waits_no_longer_for_a_promise_is_not_told_that_it_failed() -> None:
    made, disk = await store()
    disk.free.clear()
    waiting = [asyncio.ensure_future(prepared(made, n, **{f"k{n}": "v"})) for n in range(2)]
    await turn()
    waiting[0].cancel()
    await turn()
    disk.failing = [StoreFull("no room")]
    disk.free.set()
    with pytest.raises(CannotPrepare, match="no room"):
        await waiting[1]
    await prepared(made, 0, k0="v", k1="v")
    assert await made.prepared() == [gid(number=0)]


async def test_after_any_other_failure_the_store_says_so_to_all() -> None:
    made, disk = await store()
    await prepared(made, 1, k="1")
    early = await made.begin(gid(number=4))
    disk.commits = 0
    disk.free.clear()
    lost = [asyncio.ensure_future(prepared(made, 2, k2="2"))]
    await turn()
    lost.append(asyncio.ensure_future(prepared(made, 3, k3="3")))
    await turn()
    disk.failing = [StoreError("torn")]
    disk.free.set()
    for one in lost:
        with pytest.raises(ManagerDown, match="failed half-way"):
            await one
    assert disk.commits == 1
    calls = [made.begin(gid()), made.prepared(), made.commit(gid()), made.abort(gid())]
    for call in calls:
        with pytest.raises(ManagerDown, match="torn"):
            await call
    with pytest.raises(ManagerDown):
        made.value(b"k")
    with pytest.raises(ManagerDown, match="torn"):
        await early.prepare()
    assert made._writer._promises == []
    await made.close()
    assert (disk.closed, disk.commits) == (1, 1)


async def test_a_store_is_closed_when_its_outcomes_are_on_disk_or_the_disk_refuses() -> None:
    made, disk = await store()
    await prepared(made, 1, k="1")
    await made.commit(gid())
    await made.close()
    assert (disk.closed, made.items(), await made.prepared()) == (1, {b"k": b"1"}, [])
    made, disk = await store()
    disk.free.clear()
    preparing = asyncio.ensure_future(prepared(made, 1, k="1"))
    await turn()
    closing = asyncio.ensure_future(made.close())
    await asyncio.sleep(0.005)
    assert not closing.done()  # the disk is busy, and refuses nothing
    disk.free.set()
    await asyncio.gather(preparing, closing)
    made, disk = await store()
    await prepared(made, 1, k="1")
    disk.failing = [StoreFull("no room")] * 1000
    await made.commit(gid())
    await made.close()
    assert (disk.closed, made.items(), made._writer._task) == (1, {}, None)


async def test_a_store_takes_up_what_it_promised_with_its_locks() -> None:
    made, disk = await store()
    await prepared(made, 1, k="1", read="read", gone=None)
    again = await KeyValueStore.open("a", disk)
    assert await again.prepared() == [gid()]
    [branch] = again._prepared.values()
    assert branch.held == {b"k": True, b"read": False, b"gone": True}
    assert branch.prepared
    with pytest.raises(UsageError, match="over"):
        await branch.get(b"k")
    assert disk.commits == 1
    await (await again.begin(gid(number=2))).get(b"read")
    await again.commit(gid())
    await durable(again)
    assert again.items() == {b"k": b"1"}


@pytest.mark.parametrize(
    ("table", "key", "value", "error"),
    [
        ("identity", b"name", b"b", WrongIdentity),
        ("identity", b"format", b"\2", NewerFormat),
        ("prepared", b"nobody", encode(kv._Record({}, [])), StoreError),
        ("prepared", str(gid()).encode(), b"\xc1", StoreError),
    ],
)
async def test_what_is_no_store_of_that_name_is_refused(table, key, value, error) -> None:
    disk = Disk()
    batch = disk.begin()
    batch.put(table, key, value)
    await disk.commit(batch)
    with pytest.raises(error):
        await KeyValueStore.open("a", disk)
    assert disk.commits == 1


async def test_operations_from_elsewhere_are_those_of_a_branch() -> None:
    made, _ = await store()
    branch = await made.begin(gid())

    async def operate(kind: str, value: bytes = b"") -> bytes:
        return await branch.operate(encode(Operation(kind, b"k", value)))

    assert await operate(PUT, b"v") == b""
    assert decode_found(await operate(GET)).value == b"v"
    assert await operate(DELETE) == b""
    assert branch.writes == {b"k": None}
    for kind in ("", "zap", "a", "~"):
        with pytest.raises(UsageError, match="a store has no"):
            await operate(kind)
    with pytest.raises(UsageError, match="not an operation"):
        await branch.operate(b"x")
    assert made.is_conflict(Conflict("x"))
    assert not made.is_conflict(CannotPrepare("x"))


async def test_a_place_is_waited_for_until_the_deadline() -> None:
    places, now = Places("a", 2), asyncio.get_running_loop().time
    for _ in range(2):
        await places.take(now() + 60)
    with pytest.raises(ManagerDown, match="a: all 2 connections were in use"):
        await places.take(now() + 0.001)
    places.release()
    await places.take(now() + 60)


@pytest.mark.parametrize(("error", "says"), [(OSError("gone"), "gone"), (OSError(), "no answer")])
def test_an_outcome_that_nobody_knows_says_of_which_transaction(error, says: str) -> None:
    told = unknown(plan(), error)
    assert (told.id, told.participants) == (plan().id, ("a", "b"))
    assert str(told).startswith("transaction j-1 (a, b) is committed or aborted, and which of them")
    assert f"unknown here: {says}" in str(told)
