"""Programs with address spaces of their own that share a database: each touches only its own."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.tx.casting import cast

import wormspace
from wormspace import tx
from wormspace.errors import NewerFormat, Trimmed, UsageError, WormError, WrongKind
from wormspace.space import stamp
from wormspace.store.memory_engine import MemoryEngine
from wormspace.tx.deciding import REASON_MAX, Vote, encode
from wormspace.tx.trimming import retire
from wormspace.tx.viewing import look, look_at


async def store(name: str = "a") -> tx.KeyValueStore:
    return await tx.KeyValueStore.open(name, MemoryEngine())


async def prepare(site: tx.Site, participant: tx.KeyValueStore, *, vote: bool) -> tx.Gid:
    """A branch that a process which died left prepared, and perhaps voted on."""
    txid = site.new_id()
    gid = (await site.open()).gid(participant.name, txid)
    branch = await participant.begin(gid)
    await branch.put(b"k", b"v")
    await branch.prepare()
    if vote:
        await cast(site, participant.name, txid, Vote(True, (participant.name,), str(gid), 0.0, ""))
    return gid


async def test_a_recover_leaves_alone_what_another_program_has_prepared(caplog) -> None:
    """It cannot read that program's votes; an empty register of its own says nothing of them."""
    shared = await store()
    async with wormspace.connect("memory:") as one, wormspace.connect("memory:") as two:
        ours, theirs = tx.Site(one, patience_s=0.1), tx.Site(two, managers=[shared], patience_s=0.1)
        gid = await prepare(ours, shared, vote=True)
        with caplog.at_level(logging.WARNING, "wormspace.tx"):
            for _ in range(3):
                assert await theirs.recover(patience_s=0) == []
                await asyncio.sleep(0.06)
        assert await shared.prepared() == [gid]
        assert theirs.left_alone() == [gid]
        assert theirs.gauges()["prepared_left_alone"] == 1
        assert theirs.gauges()["prepared"] == 0
        assert caplog.text.count(str(gid)) == 1, "said once"
        ours.attach(shared)
        [resolution] = await ours.recover(patience_s=0)
        assert resolution.decision == tx.Decision(tx.COMMITTED)
        assert shared.value(b"k") == b"v"
        for site in (ours, theirs):
            await site.close()


async def test_a_site_of_another_deployment_at_an_address_used_again_is_not_heard() -> None:
    """It would say that nothing is prepared, and votes that are needed would be trimmed."""
    async with wormspace.connect("memory:") as one, wormspace.connect("memory:") as two:
        real, foreign = tx.Site(one, managers=[await store("s")]), tx.Site(two)
        stock = await store("s")
        foreign.attach(stock)
        address = await foreign.start("127.0.0.1")
        ours = tx.Site(one)
        remote = tx.RemoteStore("s", address)
        with pytest.raises(WormError, match="another transaction space"):
            async with tx.Transaction(ours, [remote]) as t:
                await t[remote].put(b"k", b"v")
        with pytest.raises(tx.ManagerDown, match="another transaction space"):
            await remote.prepared()
        gid = ours.host.gid("s", ours.new_id())
        for finish in (remote.commit, remote.abort):
            with pytest.raises(tx.ManagerDown, match="another transaction space"):
                await finish(gid)
        with pytest.raises(UsageError, match="another transaction space"):
            await tx.Transaction(tx.Site(two, space="other"), [remote]).__aenter__()
        assert foreign.host.kept.used() == []
        for site in (real, foreign, ours):
            await site.close()


async def test_two_transaction_spaces_of_one_address_space_are_two() -> None:
    shared = await store()
    async with wormspace.connect("memory:") as worm:
        sites = [tx.Site(worm, space=name) for name in ("orders", "wages")]
        spaces = [await site.open() for site in sites]
        assert spaces[0].identity != spaces[1].identity
        gid = await prepare(sites[0], shared, vote=True)
        sites[1].attach(shared)
        assert await sites[1].recover(patience_s=0) == []
        assert await shared.prepared() == [gid]
        for site in sites:
            await site.close()


async def test_who_opens_a_space_at_the_same_moment_agrees_what_it_is() -> None:
    async with wormspace.connect("memory:") as worm:
        sites = [tx.Site(worm) for _ in range(8)]
        spaces = await asyncio.gather(*(site.open() for site in sites))
        assert len(set(spaces)) == 1
        for site in sites:
            await site.close()


async def test_many_transactions_may_be_the_first_at_once() -> None:
    stores = [await store("a"), await store("b")]
    async with wormspace.connect("memory:") as worm:

        async def one(n: int) -> None:
            async with worm.transaction(stores) as t:
                for each in stores:
                    await t[each].put(b"%d" % n, b"v")

        await asyncio.gather(*map(one, range(100)))
        assert await worm.space("tx").tail() == 1, "one of them made the space"


async def test_a_gid_of_the_first_format_is_reported_and_not_guessed() -> None:
    shared = await store()
    async with wormspace.connect("memory:") as worm:
        old = tx.Gid("", "tx", "a", tx.TxId("gone", 3))
        assert str(old) == "worm:tx:a:gone-3"
        branch = await shared.begin(old)
        await branch.put(b"k", b"v")
        await branch.prepare()
        site = tx.Site(worm, managers=[shared], patience_s=0.05)
        await site.open()
        assert await site.recover(patience_s=0) == []
        await asyncio.sleep(0.06)
        assert site.left_alone() == [old]
        await site.close()


async def test_a_gid_of_a_newer_format_is_left_alone(caplog) -> None:
    assert tx.Gid.parse("worm3:whatever:a:b") is None
    with caplog.at_level(logging.WARNING, "wormspace.tx"):
        assert tx.names.branches_of("a", ["worm3:whatever", "somebody else's"]) == []
    assert "worm3:whatever" in caplog.text
    assert "somebody" not in caplog.text


async def test_a_space_that_is_something_else_is_refused_before_harm() -> None:
    a = await store()
    async with wormspace.connect("memory:") as worm:
        await worm.space("mine").alloc()
        await worm.space("a.log").alloc(stamp("log", 1))
        for name in ("mine", "a.log"):
            with pytest.raises(WrongKind):
                async with worm.transaction([a], space=name):
                    raise AssertionError("never entered")
            with pytest.raises(WrongKind):
                await look(worm, name)
            assert await worm.space(name).tail() == 1


async def test_a_vote_space_that_is_something_else_is_refused() -> None:
    async with wormspace.connect("memory:") as worm:
        site = tx.Site(worm)
        txid = site.new_id()
        await worm.space(f"tx/a/{site.initiator}").alloc()
        await site.open()
        with pytest.raises(WrongKind):
            await site.settle(txid, ["a"])
        await site.close()


async def test_a_space_of_a_newer_format_is_refused() -> None:
    async with wormspace.connect("memory:") as worm:
        await worm.space("tx").alloc(stamp("tx", 9, b"?"))
        with pytest.raises(NewerFormat, match="update"):
            await worm.site().open()


async def test_a_space_that_was_trimmed_is_refused_and_says_what_to_do() -> None:
    a = await store()
    async with wormspace.connect("memory:") as worm:
        site = tx.Site(worm, managers=[a])
        gid = await prepare(site, a, vote=True)
        await worm.space("tx").trim(0)
        other = tx.Site(worm, managers=[a])
        with pytest.raises(Trimmed, match="choose another name"):
            await other.recover(patience_s=0)
        assert await a.prepared() == [gid]
        for each in (site, other):
            await each.close()


async def test_looking_makes_no_space() -> None:
    async with wormspace.connect("memory:") as worm:
        assert await look(worm, "tx") == []
        assert await look_at(worm, "tx", tx.TxId("j", 0)) is None
        site = tx.Site(worm)
        assert await retire(worm, "tx", site.host.resolver, {}, before=1.0) == []
        assert await worm.spaces() == []
        await site.close()


async def test_a_vote_that_would_not_fit_is_refused_before_the_work_begins(monkeypatch) -> None:
    async with wormspace.connect("memory:") as worm:
        monkeypatch.setattr(type(worm.registers), "max_value", property(lambda _: 200))
        many = [await store(f"a{n}") for n in range(4)]
        with pytest.raises(UsageError, match="max_value"):
            async with worm.transaction(many):
                raise AssertionError("never entered")


def test_a_long_reason_fits_into_a_vote() -> None:
    reason = tx.deciding.shortened("\ud800" + 10_000 * "x")
    assert len(reason) == REASON_MAX
    encode(Vote(False, (), "", 0.0, "", reason))
