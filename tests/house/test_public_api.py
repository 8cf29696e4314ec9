"""The public API reads as one hand's work: names, durations, ends, and what is shown."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import wormspace
from wormspace import log, smr, tx
from wormspace.smr import Counter, attach
from wormspace.tx.mariadb import MariaDb
from wormspace.tx.postgres import Postgres

PACKAGES = (wormspace, log, smr, tx)
EXPORTED: dict[str, Any] = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in PACKAGES
    for name in package.__all__
} | {"postgres.Postgres": Postgres, "mariadb.MariaDb": MariaDb}
CLASSES = {name: thing for name, thing in EXPORTED.items() if inspect.isclass(thing)}
ERRORS = {name: thing for name, thing in CLASSES.items() if issubclass(thing, BaseException)}
OBJECTS = {
    name: thing
    for name, thing in CLASSES.items()
    if name not in ERRORS and not getattr(thing, "_is_protocol", False)
}

FAMILIES = {"WormError", "UsageError", "StoreError"}
"""Named after whom they concern; every other error says what happened."""

ENDED_BY_OTHERS = {
    "wormspace.tx.Transaction": "by commit and rollback, or the block",
    "wormspace.tx.LmdbStore": "by the KeyValueStore that has it",
    "wormspace.Connection": "it is nothing yet",
}

SECRET = "swordfish"


def test_every_error_has_one_base_and_a_name_that_says_what_happened() -> None:
    assert len(ERRORS) > 40
    for name, error in ERRORS.items():
        assert issubclass(error, wormspace.WormError), name
        last = name.rpartition(".")[2]
        assert last.endswith("Error") == (last in FAMILIES), name


def parameters() -> list[tuple[str, inspect.Parameter]]:
    """Those of all calls for users."""
    found = []
    for name, thing in EXPORTED.items():
        calls = {"": thing} if inspect.isfunction(thing) else {}
        if inspect.isclass(thing) and name not in ERRORS:
            calls = {"__init__": thing.__init__, **dict(inspect.getmembers(thing))}
        for call, function in calls.items():
            if inspect.isfunction(function) and (call == "__init__" or not call.startswith("_")):
                takes = inspect.signature(function).parameters.values()
                found += [(f"{name}.{call}", parameter) for parameter in takes]
    return found


def test_a_call_takes_a_timeout_and_any_other_duration_says_its_unit() -> None:
    """`timeout` is seconds until the call ends; `deadline`, of the layers' own, a loop's time."""
    durations = {"patience", "idle", "pause", "delay", "age", "ttl", "every", "seconds"}
    seen = 0
    for call, parameter in parameters():
        seen += parameter.name == "timeout"
        assert parameter.name not in durations, f"{call}: give {parameter.name} its unit: _s"
        assert parameter.name != "timeout_s", f"{call}: a call's is `timeout`"
    assert seen > 40


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_opened_is_closed_in_one_way(name: str) -> None:
    thing = OBJECTS[name]
    if name in ENDED_BY_OTHERS:
        return
    assert hasattr(thing, "close") == hasattr(thing, "__aenter__"), name
    if hasattr(thing, "close"):
        assert inspect.iscoroutinefunction(thing.close), name


@pytest.mark.parametrize("name", OBJECTS)
def test_whatever_a_user_holds_shows_what_it_is(name: str) -> None:
    assert OBJECTS[name].__repr__ is not object.__repr__, name


async def test_what_is_shown_tells_which_and_how_it_is_and_no_secret(tmp_path: Path) -> None:
    connecting = wormspace.connect("memory:")
    assert repr(connecting) == "<Connection to 'memory:'>"
    async with connecting as worm:
        assert repr(worm) == "<Worm 'memory:'>"
        space = worm.space("orders")
        segment = await space.alloc(size=8)
        stream = segment.listen()
        assert repr(space) == "<Space 'orders'>"
        assert repr(segment) == "<Segment orders/0 of 8 registers>"
        assert repr(stream) == "<Follower of space 'orders' from 0/0>"
        await stream.close()
        assert repr(stream) == "<Follower of space 'orders' from 0/0, closed>"

        trail = await worm.log("trail")
        assert repr(trail) == "<Log 'trail'>"
        assert repr(trail.listen()) == "<Subscription of log 'trail'>"
        assert repr(trail.cursor("billing")) == "<Cursor 'billing'>"
        await trail.close()
        assert repr(trail) == "<Log 'trail', closed>"

        hits = await worm.replicate(Counter, "hits", replica="here")
        assert await hits.add() == 1
        assert repr(hits).startswith("<Replica 'here' of Counter 'hits': leads, at 0/")
        assert repr(hits.at(smr.Eventual())) == "<View of Counter, Eventual()>"
        member = hits.status().member
        async with await attach(Counter, "hits", [(member.host, member.port)]) as remote:
            assert repr(remote) == "<Remote Counter 'hits'>"
            assert repr(hits.listen()) == "<Events of 'hits'>"
        await hits.close()
        assert repr(hits) == "<Replica 'here' of Counter 'hits': closed>"
        assert repr(Counter()) == "<Counter, version 1, with value>"
        assert repr(smr.holding(await worm.replicate(smr.Lock, "lock"), "ann")) == (
            "<Holding: the lock of 'ann'>"
        )

        async with await tx.KeyValueStore.open("bank", tx.LmdbStore(tmp_path)) as bank:
            assert repr(bank) == "<KeyValueStore 'bank', 0 prepared>"
            transaction = worm.transaction([bank])
            assert repr(transaction) == f"<Transaction {transaction.id} over bank: new>"
            async with transaction:
                assert repr(transaction).endswith(": begun>")
                assert repr(transaction[bank]).startswith("<KvBranch worm")
            assert repr(transaction).endswith(": committed>")
            site = worm.site()
            assert repr(site) == f"<Site of 'tx' as {site.initiator}, 0 under way>"
            await site.close()
            assert repr(site).endswith(", closed>")
    assert repr(worm) == "<Worm 'memory:', closed>"
    async with (
        Postgres("orders", f"postgresql://ann:{SECRET}@localhost/orders") as orders,
        MariaDb("billing", f"mysql://ann:{SECRET}@localhost/billing") as billing,
    ):
        assert (repr(orders), repr(billing)) == ("<Postgres 'orders'>", "<MariaDb 'billing'>")
