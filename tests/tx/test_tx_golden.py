"""What this version has written: every later one reads it, or says that it must be updated.

The files in tests/golden/tx are hexadecimal, one item a line.  They are never rewritten: a new
format gets files of its own beside them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import wormspace
from wormspace import tx
from wormspace.errors import NewerFormat, ProtocolViolation, StoreError
from wormspace.space import read_stamp
from wormspace.store.memory_engine import MemoryEngine
from wormspace.tx.deciding import decode, encode
from wormspace.tx.mariadb import parse_xid, xid
from wormspace.tx.space import find_space

GOLDEN = Path(__file__).parents[1] / "golden" / "tx"
IDENTITY = "0123456789abcdef"
GID = tx.Gid(IDENTITY, "tx", "orders", tx.TxId("9f1c52aa01d3e877", 17))


def golden(name: str) -> list[bytes]:
    return [bytes.fromhex(line) for line in (GOLDEN / name).read_text().split()]


VOTES = [
    tx.Vote(True, ("orders", "billing"), str(GID), 1764340000.5, "orders"),
    tx.Vote(False, ("orders",), "", 0.0, "resolver 9f1c", "key b'k' is locked", True),
    tx.Vote(False, (), "", 0.0, ""),
]


def test_votes_of_format_1_are_read_and_written_alike() -> None:
    raws = golden("votes-1.hex")
    assert [decode(raw) for raw in raws] == VOTES
    assert [encode(vote) for vote in VOTES] == raws


def test_a_vote_of_a_newer_format_is_refused_and_other_bytes_are_none() -> None:
    [raw, *_] = golden("votes-1.hex")
    with pytest.raises(NewerFormat, match="update"):
        decode(raw[:1] + b"\x02" + raw[2:])
    for other in (b"", raw[:1], raw[:-1], raw[1:], b"something else"):
        with pytest.raises(ProtocolViolation):
            decode(other)


async def test_a_transaction_space_of_format_1_is_read() -> None:
    space, votes = golden("space-1.hex")
    async with wormspace.connect("memory:") as worm:
        await worm.space("tx").alloc(space)
        home = await find_space(worm, "tx", worm.deadline(5))
        assert home == tx.TransactionSpace("tx", IDENTITY, 1024)
        assert home.stamp == votes
        assert read_stamp(votes) == ("tx", 1, IDENTITY.encode())


def test_gids_of_format_2_and_1_are_read_and_written_alike() -> None:
    ours, first, second, old = (GOLDEN / "gids.txt").read_text().split()
    assert str(GID) == ours
    assert tx.Gid.parse(ours) == GID
    assert xid(GID) == f"'{first}','{second}'"
    assert parse_xid(first, second) == ours
    assert str(tx.Gid.parse(old)) == old


STORE = {
    "identity": {b"name": b"orders", b"format": b"\x01"},
    "data": {b"k": b"v", b"l": b""},
    "prepared": {},
}


async def restored(**tables: dict[bytes, bytes]) -> MemoryEngine:
    engine = MemoryEngine()
    batch = engine.begin()
    for table, items in {**STORE, **tables}.items():
        batch.put_many(table, list(items.items()))
    await engine.commit(batch)
    return engine


async def test_a_store_of_format_1_is_read_with_what_it_promised() -> None:
    gid, record = golden("store-1.hex")
    store = await tx.KeyValueStore.open("orders", await restored(prepared={gid: record}))
    assert await store.prepared() == [GID]
    assert store.items() == {b"k": b"v", b"l": b""}
    other = await store.begin(tx.Gid(IDENTITY, "tx", "orders", tx.TxId("j", 1)))
    with pytest.raises(tx.Conflict):
        await other.put(b"read", b"x")
    await store.commit(GID)
    assert [store.value(key) for key in (b"k", b"new")] == [None, b"w"]
    await store.close()


async def test_a_store_that_was_made_without_an_identity_gets_one_for_good() -> None:
    engine = await restored()
    identities = {await (await tx.KeyValueStore.open("orders", engine)).identity() for _ in "ab"}
    assert identities == {engine.view.get("identity", b"identity").decode()}
    assert engine.view.get("identity", b"name") == b"orders"


async def test_a_store_writes_what_is_kept_here() -> None:
    engine = MemoryEngine()
    store = await tx.KeyValueStore.open("orders", engine)
    said = {b"identity": (await store.identity()).encode(), **STORE["identity"]}
    assert dict(engine.view.scan("identity", b"", b"\xff")) == said
    branch = await store.begin(GID)
    await branch.get(b"read")
    await branch.put(b"new", b"w")
    await branch.delete(b"k")
    await branch.prepare()
    [item] = engine.view.scan("prepared", b"", b"\xff" * 128)
    assert list(item) == golden("store-1.hex")
    await store.close()


async def test_a_store_of_a_newer_format_is_refused() -> None:
    newer = await restored(identity={b"name": b"orders", b"format": b"\x02"})
    with pytest.raises(NewerFormat, match="update"):
        await tx.KeyValueStore.open("orders", newer)


async def test_a_damaged_branch_is_damage_and_says_which() -> None:
    gid, record = golden("store-1.hex")
    with pytest.raises(StoreError, match="damaged"):
        await tx.KeyValueStore.open("orders", await restored(prepared={gid: record[:-1]}))
