"""Many transactions on one row, at any pool size; deadlocks and failed serializations."""

from __future__ import annotations

import asyncio

import psycopg
import pymysql
import pytest
from tests.tx.databases import managers, money, move

import wormspace
from wormspace import tx
from wormspace.tx.mariadb import MariaDb
from wormspace.tx.postgres import Postgres
from wormspace.tx.transaction import run_transaction

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("databases")]


@pytest.mark.parametrize("pool", [1, 2, 32])
@pytest.mark.parametrize("database", ["PostgreSQL", "MariaDB"])
async def test_transactions_on_one_row_make_progress_at_any_pool_size(
    accounts, database, pool
) -> None:
    """Those that wait for the row leave a place for what ends the one that has it."""
    many = pool + 2
    async with managers(*accounts, pool=pool) as (a, b), wormspace.connect("memory:") as worm:
        manager = a if database == "PostgreSQL" else b
        for_ever = "LOCAL lock_timeout = 0" if manager is a else "innodb_lock_wait_timeout = 1000"

        async def one() -> None:
            async with worm.transaction([manager], timeout=60) as t:
                await t[manager].execute(f"SET {for_ever}")  # nothing but progress ends a wait
                await t[manager].execute("UPDATE account SET money = money + 1 WHERE id = 1")

        await asyncio.gather(*(one() for _ in range(many)))
        assert money(*accounts)[manager is b] == 100 + many
        await worm.site().close()


@pytest.mark.parametrize("pool", [1, 2])
async def test_a_recover_finishes_what_blocks_all_of_a_pool(accounts, pool) -> None:
    """Every place waits for a row that a dead process's prepared branch holds."""
    async with wormspace.connect("memory:") as worm:
        async with managers(*accounts) as (a, b):
            dead = tx.Site(worm)
            home, txid = await dead.open(), dead.new_id()
            for m in (a, b):
                branch = await m.begin(home.gid(m.name, txid))
                await branch.session.execute("UPDATE account SET money = 0 WHERE id = 1")
                await branch.prepare()
            await dead.close()
        async with managers(*accounts, pool=pool) as (a, b):
            site = tx.Site(worm, managers=[a, b], patience_s=0.3)

            async def one(_) -> None:
                async def work(t) -> None:
                    await move(t, a, b, 1)

                await run_transaction(
                    lambda: tx.Transaction(site, [a, b], timeout=20), work, timeout=40
                )

            await asyncio.gather(*map(one, range(3)))
            await site.close()
    assert money(*accounts) == (97, 103)


async def crossing(worm, first, second, barrier: asyncio.Barrier, manager) -> list[int]:
    """Two transactions that lock two rows in opposite order; how often each was tried."""
    tries = [0, 0]

    async def run(which: int, rows: tuple[int, int]) -> None:
        async def work(t) -> None:
            tries[which] += 1
            await t[manager].execute(
                "UPDATE account SET money = money + 1 WHERE id = %s", (rows[0],)
            )
            if tries[which] == 1:
                await barrier.wait()
            await t[manager].execute(
                "UPDATE account SET money = money + 1 WHERE id = %s", (rows[1],)
            )

        await worm.run_transaction([manager], work)

    await asyncio.gather(run(0, first), run(1, second))
    return tries


@pytest.mark.parametrize("database", ["PostgreSQL", "MariaDB"])
async def test_a_deadlock_is_tried_again(accounts, database) -> None:
    postgres, mariadb = accounts
    postgres.query("orders", "INSERT INTO account VALUES (2, 100)")
    mariadb.query("INSERT INTO bank.account VALUES (2, 100)")
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:
        manager = a if database == "PostgreSQL" else b
        tries = await crossing(worm, (1, 2), (2, 1), asyncio.Barrier(2), manager)
        assert sum(tries) > 2, "there was a deadlock"
        await worm.site().close()
    query = (lambda s: postgres.query("orders", s)) if manager is a else mariadb.query
    table = "account" if manager is a else "bank.account"
    assert [row[0] for row in query(f"SELECT money FROM {table} ORDER BY id")] == [102, 102]


async def test_a_failed_serialization_is_tried_again_also_where_prepare_says_it(accounts) -> None:
    """Write skew: each reads what the other writes; at SERIALIZABLE one of them fails."""
    postgres, _ = accounts
    postgres.query("orders", "INSERT INTO account VALUES (2, 0)")
    tries = [0, 0]
    barrier = asyncio.Barrier(2)
    conflicts: list[str] = []
    async with wormspace.connect("memory:") as worm:
        a = Postgres("orders", postgres.url("orders"))

        async def run(which: int) -> None:
            async def work(t) -> None:
                tries[which] += 1
                await t[a].execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
                cursor = await t[a].execute("SELECT sum(money) FROM account")
                (total,) = await cursor.fetchone()
                if tries[which] == 1:
                    await barrier.wait()
                await t[a].execute(
                    "UPDATE account SET money = %s WHERE id = %s", (int(total), which + 1)
                )
                if tries[which] == 1:
                    await barrier.wait()

            def begin() -> tx.Transaction:
                t = worm.transaction([a])
                told = t.is_conflict

                def note(error) -> bool:
                    conflicts.append(type(error).__name__)
                    return told(error)

                t.is_conflict = note
                return t

            await run_transaction(begin, work)

        await asyncio.gather(run(0), run(1))
        # The other fails again as long as the winner is prepared and not committed.
        assert min(tries) == 1
        assert max(tries) == 1 + len(conflicts) > 1
        rows = postgres.query("orders", "SELECT money FROM account ORDER BY id")
        assert rows in ([(100,), (100,)], [(100,), (200,)], [(200,), (100,)])
        await worm.site().close()
        await a.close()


async def test_a_lock_that_is_not_to_be_had_in_time_is_tried_again(accounts) -> None:
    held = asyncio.Event()
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:

        async def hold() -> None:
            async with worm.transaction([a, b]) as t:
                await move(t, a, b, 10)
                held.set()
                await asyncio.sleep(2.5)  # the servers of these tests wait 2 s for a lock

        holding = asyncio.ensure_future(hold())
        await held.wait()
        tried = {"orders": 0, "billing": 0}

        async def one(manager) -> None:
            async def work(t) -> None:
                tried[manager.name] += 1
                await t[manager].execute("UPDATE account SET money = money + 1 WHERE id = 1")

            await worm.run_transaction([manager], work)

        await asyncio.gather(one(a), one(b), holding)
        assert min(tried.values()) > 1
        assert money(*accounts) == (91, 111)
        await worm.site().close()


@pytest.mark.parametrize("database", ["PostgreSQL", "MariaDB"])
async def test_an_error_of_another_kind_is_not_tried_again(accounts, database) -> None:
    tries = []
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:
        manager, kind = {
            "PostgreSQL": (a, psycopg.errors.UniqueViolation),
            "MariaDB": (b, pymysql.IntegrityError),
        }[database]

        async def work(t) -> None:
            tries.append(1)
            await t[manager].execute("INSERT INTO account VALUES (1, 1)")

        with pytest.raises(kind):
            await worm.run_transaction([manager], work)
        assert len(tries) == 1
        await worm.site().close()


async def test_running_it_has_one_deadline(accounts) -> None:
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:

        async def work(t) -> None:
            await t[a].execute("UPDATE account SET money = 0 WHERE id = 1")
            await asyncio.sleep(60)

        with pytest.raises(tx.TimedOut, match="rolled back"):
            await worm.run_transaction([a, b], work, timeout=0.5)
        assert money(*accounts) == (100, 100)
        await worm.site().close()


@pytest.mark.parametrize("places", [0, 1])
async def test_too_few_prepared_transactions_is_an_abort_that_says_what_to_set(places) -> None:
    from benchmarks import databases
    from benchmarks.databases import PostgresServer

    if databases.INITDB is None:
        pytest.skip(databases.NO_POSTGRES)
    server = PostgresServer("orders", "billing", prepared=places)
    try:
        async with wormspace.connect("memory:") as worm:
            pair = [Postgres(name, server.url(name)) for name in ("orders", "billing")]
            for manager in pair:
                server.query(manager.name, "CREATE TABLE t (n int)")

            async def insert() -> None:
                async with worm.transaction(pair) as t:
                    for manager in pair:
                        await t[manager].execute("INSERT INTO t VALUES (1)")

            with pytest.raises(tx.Aborted, match="max_prepared_transactions to at least"):
                await insert()
            for manager in pair:
                assert server.query(manager.name, "SELECT * FROM t") == []
                assert await manager.prepared() == []
                await manager.close()
            await worm.site().close()
    finally:
        server.close()


def test_a_pool_is_checked_at_the_door() -> None:
    for kind, url in ((Postgres, "postgresql://x@h/d"), (MariaDb, "mysql://x@h/d")):
        for pool in (0, -1, True, 1.5, "2"):
            with pytest.raises(wormspace.errors.UsageError, match="pool"):
                kind("a", url, pool=pool)
