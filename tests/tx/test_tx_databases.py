"""PostgreSQL and MariaDB as resource managers, on real servers."""

from __future__ import annotations

import asyncio
import contextlib

import psycopg
import pymysql
import pytest
from tests.cli.command import in_file
from tests.tx.casting import cast
from tests.tx.databases import managers, money, move

import wormspace
from wormspace import tx
from wormspace.tx.mariadb import MariaDb
from wormspace.tx.postgres import Postgres
from wormspace.tx.postgres_link import Link

pytestmark = [
    pytest.mark.processes,
    pytest.mark.databases,
    pytest.mark.xdist_group("databases"),
]


async def test_money_moves_between_postgresql_and_mariadb(accounts) -> None:
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:
        async with worm.transaction([a, b]) as t:
            await move(t, a, b)
        assert t.decision == tx.Decision(tx.COMMITTED)
        assert money(*accounts) == (70, 130)
        assert await a.prepared() == await b.prepared() == []


async def test_an_exception_in_the_block_rolls_both_back(accounts) -> None:
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:

        async def work() -> None:
            async with worm.transaction([a, b]) as t:
                await move(t, a, b)
                raise RuntimeError("changed my mind")

        with pytest.raises(RuntimeError, match="changed my mind"):
            await work()
        assert money(*accounts) == (100, 100)


async def test_a_prepare_that_silently_rolls_back_is_a_no(accounts) -> None:
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:

        async def work() -> None:
            async with worm.transaction([a, b]) as t:
                await t[b].execute("UPDATE account SET money = 0 WHERE id = 1")
                with contextlib.suppress(psycopg.errors.CheckViolation):
                    await t[a].execute("UPDATE account SET money = -1 WHERE id = 1")

        with pytest.raises(tx.Aborted, match="rolled it back") as caught:
            await work()
        assert caught.value.decision.culprit == caught.value.decision.by == "orders"
        assert money(*accounts) == (100, 100)
        assert await b.prepared() == []


async def test_a_statement_that_mariadb_refuses_loses_the_branch(accounts) -> None:
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:

        async def work() -> None:
            async with worm.transaction([a, b]) as t:
                await t[a].execute("UPDATE account SET money = 0 WHERE id = 1")
                with contextlib.suppress(pymysql.Error):
                    await t[b].execute("INSERT INTO account VALUES (1, 1)")

        with pytest.raises(tx.Aborted, match="billing"):
            await work()
        assert money(*accounts) == (100, 100)
        assert await a.prepared() == []


@pytest.mark.parametrize("votes", [(), ("orders",), ("orders", "billing")])
async def test_anybody_finishes_what_a_crash_left_prepared(accounts, votes) -> None:
    """Prepared in both databases, with no vote, one, or both: then another process resolves it."""
    async with wormspace.connect("memory:") as worm:
        async with managers(*accounts) as (a, b):
            dead = tx.Site(worm)
            txid = dead.new_id()
            home = await dead.open()
            gids = {m.name: home.gid(m.name, txid) for m in (a, b)}
            branches = {m.name: await m.begin(gids[m.name]) for m in (a, b)}
            for name, change in (("orders", "- 30"), ("billing", "+ 30")):
                await branches[name].session.execute(f"UPDATE account SET money = money {change}")
                await branches[name].prepare()
            for name in votes:
                vote = tx.Vote(True, ("orders", "billing"), str(gids[name]), 0.0, name)
                await cast(dead, name, txid, vote)
            await dead.close()
        async with managers(*accounts) as (a, b):
            assert await a.prepared() == [gids["orders"]]
            assert await b.prepared() == [gids["billing"]]
            others = [tx.Site(worm, managers=[a, b]) for _ in range(3)]
            results = await asyncio.gather(*(site.recover(patience_s=0) for site in others))
            for _ in range(5):  # those who met a branch that another one was finishing
                results += await asyncio.gather(*(site.recover(patience_s=0) for site in others))
            assert await a.prepared() == await b.prepared() == []
            for site in others:
                await site.close()
    whole = len(votes) == 2
    assert money(*accounts) == ((70, 130) if whole else (100, 100))
    outcomes = {r.decision.outcome for rs in results for r in rs if r.decision}
    assert outcomes == {tx.COMMITTED if whole else tx.ABORTED}


async def test_a_slow_participant_that_votes_after_the_abort_rolls_back(accounts) -> None:
    class Slow(Postgres):
        async def begin(self, gid, timeout=None):
            branch = await super().begin(gid, timeout)
            prepare = branch.prepare

            async def late():
                await asyncio.sleep(1.0)
                await prepare()

            branch.prepare = late
            return branch

    postgres, mariadb = accounts
    async with managers(*accounts) as (_, b), wormspace.connect("memory:") as worm:
        a = Slow("orders", postgres.url("orders"))
        resolver = tx.Site(worm, managers=[MariaDb("billing", mariadb.url)])
        transaction = tx.Transaction(worm.site(), [a, b], timeout=5.0)

        async def resolve() -> None:
            await asyncio.sleep(0.4)
            # The connection that prepared at MariaDB lives, so only the votes can be decided here.
            await resolver.settle(transaction.id, ("orders", "billing"))

        resolving = asyncio.ensure_future(resolve())
        with pytest.raises(tx.Aborted, match="resolver"):
            async with transaction as t:
                await move(t, a, b)
        await resolving
        assert money(*accounts) == (100, 100)
        assert await a.prepared() == await b.prepared() == []
        await resolver.close()
        await a.close()


async def test_a_transaction_sends_no_statement_that_bare_two_phase_commit_does_not(
    accounts, monkeypatch
) -> None:
    postgres, _ = accounts
    sent: list[str] = []
    execute = psycopg.AsyncCursor.execute

    async def record(self, query, *arguments, **options):
        sent.append(query if isinstance(query, str) else query.as_string())
        return await execute(self, query, *arguments, **options)

    run, reset = Link.run, Link.begin_reset

    async def record_own(self, statement, deadline):
        sent.append(statement.decode())
        return await run(self, statement, deadline)

    def record_reset(self):
        sent.append("DISCARD ALL")
        reset(self)

    pair = [Postgres(name, postgres.url(name)) for name in ("orders", "billing")]
    async with wormspace.connect("memory:") as worm:
        async with worm.transaction(pair):
            pass  # connections are made, and each is asked once which database it leads to
        monkeypatch.setattr(psycopg.AsyncCursor, "execute", record)
        monkeypatch.setattr(Link, "run", record_own)
        monkeypatch.setattr(Link, "begin_reset", record_reset)
        async with worm.transaction(pair) as t:
            for manager in pair:
                await t[manager].execute("UPDATE account SET money = money WHERE id = 1")
        gids = [str(worm.site().host.gid(manager.name, t.id)) for manager in pair]
        for manager in pair:
            await manager.close()
        assert sorted(sent) == sorted(
            2 * ["BEGIN", "UPDATE account SET money = money WHERE id = 1"]
            + [f"PREPARE TRANSACTION '{gid}'" for gid in gids]
            + [f"COMMIT PREPARED '{gid}'" for gid in gids]
            + 2 * ["DISCARD ALL"]  # whose answer nobody waits for
        )


async def test_a_database_that_cannot_be_reached_says_so(accounts) -> None:
    async with managers(*accounts) as (_, b), wormspace.connect("memory:") as worm:
        gone = Postgres("orders", "postgresql://worm@127.0.0.1:1/orders")
        with pytest.raises(tx.ManagerDown):
            async with worm.transaction([gone, b]):
                raise AssertionError("never entered")
        assert money(*accounts) == (100, 100)


async def test_the_command_resolves_what_a_crash_left_in_both(accounts, tmp_path) -> None:
    postgres, mariadb = accounts
    command = in_file(tmp_path)
    async with managers(*accounts) as (a, b):
        async with wormspace.connect(command.url) as worm:
            dead = tx.Site(worm)
            txid = dead.new_id()
            for m, change in ((a, "- 30"), (b, "+ 30")):
                gid = (await dead.open()).gid(m.name, txid)
                branch = await m.begin(gid)
                await branch.session.execute(f"UPDATE account SET money = money {change}")
                await branch.prepare()
                vote = tx.Vote(True, ("orders", "billing"), str(gid), 1.0, m.name)
                await cast(dead, m.name, txid, vote)
            await dead.close()
        await b.close()  # MariaDB sees the connection end
        words = [
            *("tx", "resolve", "--patience", "0", "--trim-after", "0"),
            *("--manager", f"orders={postgres.url('orders')}"),
            *("--manager", f"billing={mariadb.url}"),
        ]
        output = await asyncio.to_thread(command.ok, *words)
    assert output.count("committed") == 2
    assert output.count("trimmed") == 2
    assert money(*accounts) == (70, 130)
