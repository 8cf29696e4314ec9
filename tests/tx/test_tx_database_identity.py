"""A PostgreSQL database and a MariaDB server say who they are, to whoever may take part there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pymysql
import pytest

import wormspace
from wormspace import tx
from wormspace.store.memory_engine import MemoryEngine
from wormspace.tx.mariadb import MariaDb
from wormspace.tx.postgres import Postgres
from wormspace.tx.trimming import retire

pytestmark = [
    pytest.mark.processes,
    pytest.mark.databases,
    pytest.mark.xdist_group("databases"),
]

BOTH = pytest.mark.parametrize("which", ["PostgreSQL", "MariaDB"])


class Place:
    """One of the two servers, as its administrator sees it.

    Attributes:
        open: makes a manager called `bank` for it.
        run: runs a statement there.
    """

    def __init__(self, which: str, accounts) -> None:
        postgres, mariadb = accounts
        self.made: list[Postgres | MariaDb] = []
        self.is_postgres = which == "PostgreSQL"
        self.url = postgres.url("orders") if self.is_postgres else mariadb.url
        self.run: Callable[[str], list] = (
            (lambda text: postgres.query("orders", text)) if self.is_postgres else mariadb.query
        )

    def open(self, url: str = "") -> Postgres | MariaDb:
        kind = Postgres if self.is_postgres else MariaDb
        self.made.append(kind("bank", url or self.url))
        return self.made[-1]

    def forget(self) -> None:
        """Take its identity away."""
        self.run(
            f"DROP {'SCHEMA' if self.is_postgres else 'DATABASE'} IF EXISTS wormspace"
            + (" CASCADE" if self.is_postgres else "")
        )


@pytest.fixture
def place(accounts, which, runner):
    place = Place(which, accounts)
    yield place
    for manager in place.made:
        runner.run(manager.close())


@BOTH
async def test_a_committed_payment_is_not_lost_to_another_database_of_that_name(
    accounts, place
) -> None:
    other = Postgres("bank", accounts[0].url("billing"))
    shop = await tx.KeyValueStore.open("shop", MemoryEngine())
    async with wormspace.connect("memory:") as worm:
        bank, dying = place.open(), tx.Site(worm)

        async def down(gid: tx.Gid) -> None:
            raise tx.ManagerDown("its process died")

        bank.commit = down
        async with tx.Transaction(dying, [shop, bank]) as t:
            await t[shop].put(b"k", b"sold")
            await t[bank].execute("UPDATE account SET money = money - 30 WHERE id = 1")
        await dying.close()
        await bank.close()
        janitor = tx.Site(worm)
        with pytest.raises(tx.WrongManager):
            async with tx.Transaction(janitor, [other]):
                raise AssertionError("never entered")
        with pytest.raises(tx.WrongManager, match="Moving a database"):
            await retire(
                worm,
                "tx",
                janitor.host.resolver,
                {"shop": shop, "bank": other},
                before=float("inf"),
            )
        late = tx.Site(worm, managers=[place.open()])
        assert [r.decision for r in await late.recover(0)] == [tx.Decision(tx.COMMITTED)]
        table = "account" if place.is_postgres else "bank.account"
        assert [tuple(row) for row in place.run(f"SELECT money FROM {table}")] == [(70,)]
        for each in (late, janitor, other, shop):
            await each.close()


@BOTH
async def test_many_connections_at_once_make_one_identity(place) -> None:
    place.forget()
    managers = [place.open() for _ in range(8)]
    identities = await asyncio.gather(*(manager.identity() for manager in managers))
    assert len(set(identities)) == 1
    assert await place.open().identity() == identities[0]


@BOTH
async def test_who_only_looks_or_is_led_to_the_wrong_database_changes_nothing_there(place) -> None:
    place.forget()
    schemas = "SELECT 1 FROM information_schema.schemata WHERE schema_name = 'wormspace'"
    bank = await tx.KeyValueStore.open("bank", MemoryEngine())
    async with wormspace.connect("memory:") as worm:
        site = tx.Site(worm, managers=[place.open()])
        await site.open()
        assert await site.recover(0) == []
        assert (
            await retire(worm, "tx", site.host.resolver, site.host.managers, before=float("inf"))
            == []
        )
        assert place.run(schemas) == []
        async with tx.Transaction(tx.Site(worm), [bank]) as t:
            await t[bank].put(b"k", b"v")
        meant = await bank.identity()
        with pytest.raises(tx.NoIdentity, match=f"identity is {meant}, .* Correct the addr") as e:
            async with tx.Transaction(site, [place.open()]):
                raise AssertionError("never entered")
        with pytest.raises(tx.NoIdentity, match=meant):
            await site.recover(0)
        assert place.run(schemas) == []
        for statement in str(e.value).partition("once: ")[2].split("; "):
            place.run(statement)
        assert await place.open().identity() == meant, "it took the other's place"
        for each in (site, worm.site(), bank):
            await each.close()


@BOTH
async def test_a_connection_from_before_there_was_an_identity_is_not_kept(place) -> None:
    place.forget()
    manager = place.open()
    assert await manager.prepared() == []
    identity = await place.open().identity()
    place.run("UPDATE wormspace.identity SET identity = 'another'")
    assert await manager.prepared() == []
    assert await manager.identity() == "another", "who it is was asked again"
    place.run(f"UPDATE wormspace.identity SET identity = '{identity}'")


@BOTH
async def test_an_address_that_leads_elsewhere_is_noticed_by_the_next_connection(place) -> None:
    manager = place.open()
    first = await manager.identity()
    gid = tx.Gid("0" * 16, "tx", "bank", tx.TxId("j", 1))
    place.run("UPDATE wormspace.identity SET identity = 'another'")
    with pytest.raises(tx.WrongManager) as caught:
        await manager.begin(gid)
    assert (caught.value.meant, caught.value.found) == (first, "another")
    place.run(f"UPDATE wormspace.identity SET identity = '{first}'")
    branch = await manager.begin(gid)
    await branch.rollback()
    place.run("DELETE FROM wormspace.identity")
    assert await place.open().identity() != first, "it was forgotten, so it is another one"


@pytest.mark.parametrize("which", ["MariaDB"])
async def test_who_cannot_be_asked_who_it_is_is_given_up_once(accounts, place) -> None:
    await place.open().identity()
    count = "SELECT variable_value FROM information_schema.global_status WHERE variable_name = "
    with pymysql.connect(user="root", unix_socket=f"{accounts[1].base}/s") as locker:
        locker.cursor().execute("LOCK TABLES wormspace.identity WRITE")
        manager = place.open()
        before = int(place.run(f"{count}'Connections'")[0][0])
        with pytest.raises(tx.ManagerDown, match="in time"):
            await manager.identity(timeout=0.5)
        while manager._ends._tasks:
            await asyncio.gather(*manager._ends._tasks)
        assert int(place.run(f"{count}'Connections'")[0][0]) == before + 2, "it, and the last look"
    assert await manager.identity() != ""


@BOTH
async def test_a_newer_identity_is_refused(place) -> None:
    await place.open().identity()
    place.run("UPDATE wormspace.identity SET format = 2")
    with contextlib.ExitStack() as stack:
        stack.callback(place.run, "UPDATE wormspace.identity SET format = 1")
        with pytest.raises(wormspace.NewerFormat, match="update"):
            await place.open().identity()


@BOTH
async def test_who_may_not_make_an_identity_is_told_what_an_administrator_runs(
    accounts, place
) -> None:
    place.forget()
    if place.is_postgres:
        place.run("DROP ROLE IF EXISTS clerk")
        place.run("CREATE ROLE clerk LOGIN")
        url = place.url.replace("worm@", "clerk@")
    else:
        place.run("CREATE OR REPLACE USER clerk@localhost")
        place.run("GRANT ALL ON bank.* TO clerk@localhost")
        url = place.url.replace("root@", "clerk@")
    clerk = place.open(url)
    for _ in range(2):
        with pytest.raises(
            tx.NoIdentity, match=r"Let an administrator run there .*, once: "
        ) as caught:
            await clerk.identity()
    statements = str(caught.value).partition("once: ")[2].split("; ")
    if not place.is_postgres:
        for statement in statements[:-1]:
            place.run(statement)
        with pytest.raises(tx.NoIdentity, match="GRANT SELECT"):
            await clerk.identity()
        statements = statements[-1:]
    for statement in statements:
        place.run(statement)
    assert await clerk.identity() == await place.open().identity()
    await clerk.close()


@pytest.mark.parametrize("which", ["PostgreSQL"])
async def test_many_make_one_identity_however_their_sessions_are_isolated(place) -> None:
    place.forget()
    strict = f"{place.url}?options=-c%20default_transaction_isolation%3Dserializable"
    managers = [place.open(strict) for _ in range(8)]
    assert len(set(await asyncio.gather(*(each.identity() for each in managers)))) == 1


@pytest.mark.parametrize("which", ["PostgreSQL"])
async def test_no_setting_of_a_session_hides_it_and_a_copy_brings_it_along(accounts, place) -> None:
    identity = await place.open().identity()
    settings = "-c%20search_path%3Dnowhere%20-c%20default_transaction_read_only%3Don"
    strange = f"{place.url}?options={settings}"
    assert await place.open(strange).identity() == identity
    for manager in place.made:
        await manager.close()
    accounts[0].query("postgres", "CREATE DATABASE copy TEMPLATE orders")
    try:
        copy = place.url.replace("/orders", "/copy")
        assert await place.open(copy).identity() == identity
        place.forget()
        with pytest.raises(tx.NoIdentity, match="read-only"):
            await place.open(strange).identity()
    finally:
        for manager in place.made:
            await manager.close()
        accounts[0].query("postgres", "DROP DATABASE copy WITH (FORCE)")
