"""One name, one database: another one of that name is noticed before anything is done with it."""

from __future__ import annotations

import asyncio

import pytest
from tests.tx.pieces import Manager
from tests.virtual import Watch, virtually

import wormspace
from wormspace import tx
from wormspace.errors import (
    NewerFormat,
    ProtocolViolation,
    Trimmed,
    Unavailable,
    UsageError,
    WormError,
    WrongKind,
)
from wormspace.runtime.deadlines import within
from wormspace.space import stamp
from wormspace.store.memory_engine import MemoryEngine
from wormspace.tx import trimming
from wormspace.tx.identity import Identities
from wormspace.tx.trimming import retire

EVER = float("inf")


async def stores(*names: str) -> list[tx.KeyValueStore]:
    """Each is another one, whatever its name is."""
    return [await tx.KeyValueStore.open(name, MemoryEngine()) for name in names]


async def put(transaction: tx.Transaction, *participants: tx.KeyValueStore) -> None:
    async with transaction as t:
        for each in participants:
            await t[each].put(b"k", b"v")


async def left_prepared(worm, shop, bank) -> tx.Transaction:
    """A transaction that is committed, and on which the bank has not acted: its process died."""
    site = tx.Site(worm)

    async def down(gid):
        raise tx.ManagerDown("dead")

    obey, bank.commit = bank.commit, down
    transaction = tx.Transaction(site, [shop, bank])
    await put(transaction, shop, bank)
    bank.commit = obey
    await site.close()
    assert shop.value(b"k") == b"v"
    assert len(await bank.prepared()) == 1
    return transaction


def test_votes_that_another_database_of_that_name_waits_for_are_not_retired() -> None:
    async def work(worm):
        shop, bank, other = await stores("shop", "bank", "bank")
        await left_prepared(worm, shop, bank)
        site = tx.Site(worm)
        with pytest.raises(tx.WrongManager) as caught:
            await retire(worm, "tx", site.host.resolver, {"shop": shop, "bank": other}, before=EVER)
        assert caught.value.meant == await bank.identity()
        assert caught.value.found == await other.identity()
        for words in (caught.value.meant, caught.value.found, "'bank'", "tx/bank", "Moving a"):
            assert words in str(caught.value)
        [resolution] = await tx.Site(worm, managers=[bank]).recover(0)
        assert resolution.decision.committed
        assert bank.value(b"k") == b"v"
        await site.close()

    virtually(work)


def test_nothing_begins_at_another_database_and_the_right_one_is_used_after_it() -> None:
    async def work(worm):
        bank, other = await stores("bank", "bank")
        await put(worm.transaction([bank]), bank)
        site = tx.Site(worm)
        with pytest.raises(tx.WrongManager):
            await put(tx.Transaction(site, [other]), other)
        assert site.host.managers == {}
        assert other.value(b"k") is None
        await put(tx.Transaction(site, [bank]), bank)
        await site.close()

    virtually(work)


def test_a_recover_finishes_all_others_and_then_says_which_database_is_the_wrong_one() -> None:
    async def work(worm):
        shop, bank, other = await stores("shop", "bank", "bank")
        await left_prepared(worm, bank, shop)
        site = tx.Site(worm, managers=[other, shop])
        with pytest.raises(tx.WrongManager):
            await site.recover(0)
        assert shop.value(b"k") == b"v"
        await site.close()

    virtually(work)


def test_an_initiator_does_not_trim_when_its_manager_has_become_another_one() -> None:
    async def work(worm):
        bank, other = await stores("bank", "bank")
        site = tx.Site(worm)
        await site.open()
        for _ in range(site.host.vote_store.home.segment_size):
            site.finished.add(site.new_id(), None)
        plan = tx.transaction.Plan(tx.TxId(site.initiator, 0), ("bank",), ("",), "E3", "", 1.0)
        await put(tx.Transaction(site, [bank]), bank)
        site.finished._segments[0].voters.add((plan.participants, plan.addresses))
        site.detach(bank)
        site.attach(other)
        await site.finished.trim()
        assert list(site.finished._segments) == [0, 1]
        site.detach(other)
        site.attach(bank)
        await site.finished.trim()
        assert list(site.finished._segments) == [1]
        await site.close()

    virtually(work)


async def test_a_site_with_another_store_of_that_name_does_nothing_for_others() -> None:
    [bank, other] = await stores("bank", "bank")
    async with wormspace.connect("memory:") as worm:
        home, foreign = tx.Site(worm, managers=[bank]), tx.Site(worm, managers=[other])
        remotes = [tx.RemoteStore("bank", await s.start("127.0.0.1")) for s in (home, foreign)]
        right, wrong = remotes
        user = tx.Site(worm)
        await put(tx.Transaction(user, [right]), right)
        assert await right.identity() == await bank.identity()
        with pytest.raises(WormError, match="another database"):
            await put(tx.Transaction(user, [wrong]), wrong)
        assert await wrong.identity(timeout=3) == await other.identity()
        gid = user.host.gid("bank", user.new_id())
        for call in (wrong.prepared, lambda: wrong.commit(gid), lambda: wrong.abort(gid)):
            with pytest.raises(tx.ManagerDown, match="another database"):
                await call()
        with pytest.raises(tx.WrongManager):
            await retire(worm, "tx", user.host.resolver, {"bank": wrong}, before=EVER)
        assert foreign.host.kept.used() == []
        for each in (user, home, foreign):
            await each.close()


def test_of_many_who_are_the_first_one_decides() -> None:
    async def work(worm):
        databases = await stores(*["bank"] * 6)
        sites = [tx.Site(worm) for _ in databases]
        begun = await asyncio.gather(
            *(put(tx.Transaction(s, [d]), d) for s, d in zip(sites, databases, strict=True)),
            return_exceptions=True,
        )
        wrong = [e for e in begun if isinstance(e, tx.WrongManager)]
        assert len(wrong) == 5
        assert begun.count(None) == 1
        assert {e.meant for e in wrong} == {await databases[begun.index(None)].identity()}
        for site in sites:
            await site.close()

    virtually(work)


def test_after_the_first_time_nobody_is_asked() -> None:
    async def work(worm):
        [bank] = await stores("bank")
        asked, identity = [], bank.identity

        async def ask(timeout=None, *, meant=""):
            asked.append(timeout)
            return await identity(timeout, meant=meant)

        bank.identity = ask
        site = tx.Site(worm)
        counts = []
        watch = Watch(worm)
        for _ in range(3):
            await put(tx.Transaction(site, [bank]), bank)
            counts.append(watch.clear())
        assert len(asked) == 1
        assert 0 < asked[0] <= tx.transaction.TIMEOUT_S
        assert counts[1] == counts[2] == {"write": 1}
        await site.close()

    virtually(work)


def test_a_name_that_means_nothing_yet_is_decided_by_work_and_by_nothing_else() -> None:
    async def work(worm):
        other, bank = await stores("bank", "bank")
        site = tx.Site(worm, managers=[other])
        await site.open()
        assert await site.recover(0) == []
        assert await retire(worm, "tx", site.host.resolver, site.host.managers, before=EVER) == []
        assert "tx/bank" not in await worm.spaces()
        await put(worm.transaction([bank]), bank)
        assert "tx/bank" in await worm.spaces()
        with pytest.raises(tx.WrongManager):
            await site.recover(0)
        await site.close()

    virtually(work)


def test_a_name_that_is_decided_while_votes_are_retired_is_looked_at_again(monkeypatch) -> None:
    """A branch that began before the votes were sealed may be committed, and elsewhere."""

    async def work(worm):
        other, bank = await stores("bank", "bank")
        gone, janitor = tx.Site(worm), tx.Site(worm)
        await gone.settle(gone.new_id(), ["bank"])  # votes, under a name that means nothing yet
        seal = trimming._seal

        async def begin_and_seal(*given):
            await Identities(worm, "tx").check(bank, within(5), decide=True)
            await seal(*given)

        monkeypatch.setattr(trimming, "_seal", begin_and_seal)
        with pytest.raises(tx.WrongManager):
            await retire(worm, "tx", janitor.host.resolver, {"bank": other}, before=EVER)
        assert await worm.space(f"tx/bank/{gone.initiator}").head() == 0
        assert await retire(worm, "tx", janitor.host.resolver, {"bank": bank}, before=EVER)
        for each in (gone, janitor):
            await each.close()

    virtually(work)


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        (b"mine", WrongKind),
        (stamp("log", 1), WrongKind),
        (stamp("tx manager", 2, b"x"), NewerFormat),
        (stamp("tx manager", 1, b""), ProtocolViolation),
        (stamp("tx manager", 1, b"a b"), ProtocolViolation),
        (stamp("tx manager", 1, b"x" * 65), ProtocolViolation),
    ],
)
def test_what_does_not_tell_the_database_is_refused(metadata: bytes, error: type) -> None:
    async def work(worm):
        [bank] = await stores("bank")
        await worm.space("tx/bank").alloc(metadata)
        for decide in (False, True):
            with pytest.raises(error):
                await Identities(worm, "tx").check(bank, within(5), decide=decide)

    virtually(work)


def test_a_name_whose_register_was_trimmed_is_used_no_more() -> None:
    async def work(worm):
        [bank] = await stores("bank")
        await put(worm.transaction([bank]), bank)
        await worm.space("tx/bank").trim(0)
        with pytest.raises(Trimmed, match="another name"):
            await Identities(worm, "tx").check(bank, within(5))

    virtually(work)


@pytest.mark.parametrize("said", [None, "", 5, b"x", "a b", "x" * 65, "ü"])
def test_a_database_that_does_not_say_who_it_is_is_refused(said: object) -> None:
    async def work(worm):
        class Odd(Manager):
            async def identity(self, timeout=None, *, meant=""):
                return said

        with pytest.raises(UsageError, match="resource manager 'a'"):
            await Identities(worm, "tx").check(Odd(), within(5), decide=True)
        assert await worm.spaces() == []

    virtually(work)


@pytest.mark.parametrize("said", ["x", "a_b.c:d-9", "x" * 64])
def test_a_database_may_be_anything_else(said: str) -> None:
    async def work(worm):
        class Named(Manager):
            async def identity(self, timeout=None, *, meant=""):
                return said

        for _ in range(2):
            identities, manager = Identities(worm, "tx"), Named()
            assert not identities.has(manager)
            await identities.check(manager, within(5), decide=True)
            assert identities.has(manager)
            assert not identities.has(Named())

    virtually(work)


def test_who_was_recognised_is_asked_no_more_nor_by_those_who_waited_for_it() -> None:
    async def work(worm):
        asked = []

        class Asked(Manager):
            async def identity(self, timeout=None, *, meant=""):
                asked.append(timeout)
                await asyncio.sleep(1)
                return "x"

        identities, manager, watch = Identities(worm, "tx"), Asked(), Watch(worm)
        await asyncio.gather(*(identities.check(manager, within(5), decide=True) for _ in range(3)))
        watch.clear()
        await identities.check(manager, within(5))
        assert len(asked) == 1
        assert watch.calls == []

    virtually(work)


def test_who_waits_for_one_that_asks_a_silent_database_waits_no_longer_than_it_may() -> None:
    async def work(worm):
        class Silent(Manager):
            async def identity(self, timeout=None, *, meant=""):
                await asyncio.sleep(timeout)
                raise tx.ManagerDown("silent")

        identities, now = Identities(worm, "tx"), asyncio.get_running_loop().time
        first = asyncio.ensure_future(identities.check(Silent(), within(60), decide=True))
        await asyncio.sleep(0)
        began = now()
        with pytest.raises(Unavailable, match="which database a is"):
            await identities.check(Silent(), within(2), decide=True)
        assert now() - began == pytest.approx(2, abs=0.1)
        with pytest.raises(tx.ManagerDown):
            await first
        assert now() - began == pytest.approx(60, abs=0.1)

    virtually(work)


def test_a_name_that_cannot_be_decided_now_is_tried_until_the_time_is_over() -> None:
    async def work(worm):
        failing = [True, True, False]

        def before(name, given):
            if name == "capture" and failing.pop(0):
                raise Unavailable("no majority")

        watch = Watch(worm)
        watch.before = before
        await Identities(worm, "tx").check(Manager(), within(5), decide=True)
        assert failing == []
        failing[:] = [True] * 100
        with pytest.raises(Unavailable, match="no majority"):
            await Identities(worm, "ty").check(Manager(), within(0), decide=True)
        assert len(failing) == 99, "its time was over before the first"

    virtually(work)
