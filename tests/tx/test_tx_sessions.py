"""What a user does with a session: nothing of it outlives the transaction, or ends it early."""

from __future__ import annotations

import asyncio
import contextlib

import psycopg
import pytest
from psycopg.rows import dict_row
from tests.tx.databases import managers, money, move

import wormspace
from wormspace import tx
from wormspace.errors import UsageError
from wormspace.tx.mariadb import MariaDb

pytestmark = [
    pytest.mark.processes,
    pytest.mark.databases,
    pytest.mark.xdist_group("databases"),
]


async def ends(worm, pair, block) -> BaseException | None:
    """What a block raises that does this."""
    try:
        async with worm.transaction(pair) as t:
            await move(t, *pair)
            await block(t)
    except Exception as e:  # noqa: BLE001 - the tests look what it is
        return e
    return None


@pytest.mark.parametrize(
    "block",
    [
        lambda t, a: t[a].commit(),
        lambda t, a: t[a].rollback(),
        lambda t, a: t[a].close(),
        lambda t, a: t[a].__aenter__(),
        lambda t, a: t[a].tpc_commit(),
        lambda t, a: t[a].execute("COMMIT"),
        lambda t, a: t[a].execute(b"SELECT 1; /* */ commit"),
        lambda t, a: t[a].execute(psycopg.sql.SQL("ROLLBACK")),
        lambda t, a: t[a].execute("BEGIN"),
        lambda t, a: t[a].cursor(row_factory=dict_row).execute("END"),
        lambda t, a: t[a].cursor(name="c").execute("COMMIT"),
        lambda t, a: t[a].cursor().executemany("COMMIT", [()]),
        lambda t, a: t[a].cursor().copy("COMMIT").__aenter__(),
    ],
    ids=lambda block: "",
)
async def test_a_commit_of_the_users_own_is_refused_and_nothing_took_effect(
    accounts, block
) -> None:
    async with managers(*accounts, pool=1) as (a, b), wormspace.connect("memory:") as worm:
        error = await ends(worm, [a, b], lambda t: block(t, a))
        assert isinstance(error, UsageError)
        assert "the block is the transaction" in str(error)
        assert money(*accounts) == (100, 100)
        assert await ends(worm, [a, b], lambda t: asyncio.sleep(0)) is None
        assert money(*accounts) == (70, 130)
        await worm.site().close()


async def test_a_commit_past_the_guard_is_found_and_the_other_participant_rolls_back(
    accounts,
) -> None:
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:

        async def block(t) -> None:
            await psycopg.AsyncClientCursor(t[a]).execute("COMMIT")

        error = await ends(worm, [a, b], block)
        assert isinstance(error, UsageError)
        assert "ended the transaction" in str(error)

        async def and_swallow(t) -> None:
            with contextlib.suppress(UsageError):
                await block(t)

        error = await ends(worm, [a, b], and_swallow)
        assert isinstance(error, tx.Aborted)
        assert accounts[1].query("SELECT money FROM bank.account")[0][0] == 100
        await worm.site().close()


@pytest.mark.parametrize("statement", ["COMMIT", "XA END 'x'", "start transaction", "ROLLBACK"])
async def test_mariadbs_words_are_refused_too(accounts, statement) -> None:
    async with managers(*accounts, pool=1) as (a, b), wormspace.connect("memory:") as worm:
        error = await ends(worm, [a, b], lambda t: t[b].execute(statement))
        assert isinstance(error, UsageError)
        assert money(*accounts) == (100, 100)
        await worm.site().close()


async def test_savepoints_are_the_users_own(accounts) -> None:
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:
        async with worm.transaction([a, b]) as t:
            await move(t, a, b)
            with contextlib.suppress(psycopg.errors.CheckViolation):
                async with t[a].transaction():
                    await t[a].execute("UPDATE account SET money = -1 WHERE id = 1")
            await t[b].execute("SAVEPOINT s")
            await t[b].execute("UPDATE account SET money = 0 WHERE id = 1")
            await t[b].execute("ROLLBACK TO SAVEPOINT s")
        assert money(*accounts) == (70, 130)
        await worm.site().close()


async def test_settings_of_a_session_end_with_its_transaction(accounts) -> None:
    """Also where it is rolled back; the next one has a session as new, on the same connection."""
    async with managers(*accounts, pool=1) as (a, b), wormspace.connect("memory:") as worm:

        async def pid(t) -> int:
            return (await (await t[a].execute("SELECT pg_backend_pid()")).fetchone())[0]

        async def state(t) -> list:
            asked = (
                "SHOW search_path",
                "SHOW statement_timeout",
                "SELECT count(*) FROM pg_prepared_statements",
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
            )
            rows = [tuple(await (await t[a].execute(q)).fetchone()) for q in asked]
            theirs = (
                "SELECT @a",
                "SELECT @@sql_mode",
                "SELECT @@character_set_client",
                "SELECT @@autocommit",
                "SELECT IS_USED_LOCK('l')",
                "SELECT DATABASE()",
            )
            return rows + [(await t[b].execute(q)).rows for q in theirs]

        async with worm.transaction([a, b]) as t:
            clean, connection = await state(t), await pid(t)
        for fail in (False, True):
            with contextlib.suppress(ZeroDivisionError):
                async with worm.transaction([a, b]) as t:
                    session = t[a]
                    session.row_factory = dict_row
                    session.cursor_factory = psycopg.AsyncClientCursor
                    session.prepare_threshold = 0
                    session.adapters.register_dumper(str, psycopg.types.string.StrBinaryDumper)
                    await session.execute("SET search_path TO nowhere, public")
                    await session.execute("SET statement_timeout TO 12345")
                    await session.execute("PREPARE mine AS SELECT 1")
                    await session.execute("SELECT pg_advisory_lock(1)")
                    await t[b].execute("SET @a = 1, sql_mode = 'ANSI_QUOTES'")
                    await t[b].execute("SET NAMES latin1")
                    await t[b].execute("DO GET_LOCK('l', 0)")
                    await t[b].execute("USE mysql")
                    if fail:
                        await session.execute("CREATE TEMPORARY TABLE mine (n int)")
                        raise ZeroDivisionError
            async with worm.transaction([a, b]) as t:
                assert await state(t) == clean
                assert await pid(t) == connection, "it is the same connection"
            with pytest.raises(UsageError, match="over"):
                await session.execute("SELECT 1")
        assert await a.prepared() == await b.prepared() == []
        await worm.site().close()


async def test_a_database_that_was_chosen_ends_with_its_transaction_where_there_was_none_too(
    mariadb,
) -> None:
    manager = MariaDb("billing", mariadb.url.replace("/bank?", "/?"), pool=1)
    async with wormspace.connect("memory:") as worm:
        for _ in range(2):
            async with worm.transaction([manager]) as t:
                assert (await t[manager].execute("SELECT DATABASE()")).rows == ((None,),)
                await t[manager].execute("USE bank")
        await worm.site().close()
    await manager.close()


async def test_a_row_factory_does_not_reach_the_recover(accounts) -> None:
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:
        site = tx.Site(worm, managers=[a, b])
        dead = tx.Site(worm)
        for _ in range(3):
            async with tx.Transaction(site, [a, b]) as t:
                t[a].row_factory = dict_row
                await t[a].execute("SELECT 1")
        gid = (await dead.open()).gid("orders", dead.new_id())
        branch = await a.begin(gid)
        await branch.session.execute("UPDATE account SET money = 0")
        await branch.prepare()
        [resolution] = await site.recover(patience_s=0)
        assert resolution.problem == ""
        assert money(*accounts) == (100, 100)
        for each in (site, dead):
            await each.close()


@pytest.mark.parametrize("database", ["PostgreSQL", "MariaDB"])
async def test_a_statement_that_is_cancelled_loses_the_work_and_frees_the_row(
    accounts, database
) -> None:
    async with managers(*accounts, pool=1) as (a, b), wormspace.connect("memory:") as worm:
        manager = a if database == "PostgreSQL" else b
        slow = "SELECT pg_sleep(60)" if manager is a else "SELECT SLEEP(60)"

        async def block(t) -> None:
            try:
                async with asyncio.timeout(0.2):
                    await t[manager].execute(slow)
            except TimeoutError:
                pass  # and the user goes on as if nothing had happened

        error = await ends(worm, [a, b], block)
        assert isinstance(error, tx.Aborted)
        assert error.decision.culprit == manager.name
        assert money(*accounts) == (100, 100)
        async with worm.transaction([a, b]) as t:  # the only connection is there again
            await move(t, a, b)
        assert money(*accounts) == (70, 130)
        await worm.site().close()


async def test_a_cancelled_block_over_databases_says_what_is_true(accounts) -> None:
    """At moments spread over the whole block: rolled back in both, or committed in both."""
    async with managers(*accounts, pool=2) as (a, b), wormspace.connect("memory:") as worm:
        ended = set()
        for n in range(40):
            before = money(*accounts)
            said = "rolled back"

            async def block() -> None:
                nonlocal said
                async with worm.transaction([a, b], timeout=20) as t:
                    await move(t, a, b, 1)
                said = "committed"

            task = asyncio.ensure_future(block())
            await asyncio.sleep(0.0008 * (n % 20))
            task.cancel()
            await asyncio.wait([task])
            expected = (before[0] - 1, before[1] + 1) if said == "committed" else before
            while await a.prepared() or await b.prepared():  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
            assert money(*accounts) == expected, said
            ended.add(said)
        async with worm.transaction([a, b]) as t:
            await move(t, a, b, 1)
        await worm.site().close()
        assert "rolled back" in ended


async def test_wrong_arguments_are_errors_of_the_caller(accounts) -> None:
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:
        for statement, arguments in ((5, ()), ("SELECT 1", "abc"), ("SELECT 1", 5), (None, None)):
            error = await ends(worm, [a, b], lambda t, s=statement, g=arguments: t[b].execute(s, g))
            assert isinstance(error, UsageError), error
        assert money(*accounts) == (100, 100)
        await worm.site().close()


async def test_a_statement_waits_for_the_server_and_does_not_poll(accounts, monkeypatch) -> None:
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:
        async with worm.transaction([a, b]) as t:
            statement = asyncio.ensure_future(t[a].execute("SELECT pg_sleep(0.3)"))
            wakes = 0
            loop = asyncio.get_running_loop()
            once = loop._run_once

            def counted() -> None:
                nonlocal wakes
                wakes += 1
                once()

            monkeypatch.setattr(loop, "_run_once", counted)
            await statement
            assert wakes < 100, "0.3 s of polling are thousands"
        await worm.site().close()


async def test_tasks_that_share_a_session_get_their_own_answers(accounts) -> None:
    async with managers(*accounts) as (a, b), wormspace.connect("memory:") as worm:
        async with worm.transaction([a, b]) as t:
            found = await asyncio.gather(*(t[b].execute("SELECT %s", (n,)) for n in range(20)))
        assert [rows.rows for rows in found] == [((n,),) for n in range(20)]


SLEEPS = {"PostgreSQL": "SELECT pg_sleep({})", "MariaDB": "SELECT SLEEP({})"}


@pytest.mark.parametrize("fails", [False, True], ids=["left", "raised"])
@pytest.mark.parametrize("database", ["PostgreSQL", "MariaDB"])
async def test_a_block_that_ends_while_a_statement_runs_is_aborted(
    accounts, database, fails
) -> None:
    """Its answer and that of PREPARE would be taken for each other's, or it is in, or it is not."""
    async with managers(*accounts, pool=1) as (a, b), wormspace.connect("memory:") as worm:
        manager = a if database == "PostgreSQL" else b
        running = None

        async def block(t) -> None:
            nonlocal running
            running = asyncio.ensure_future(t[manager].execute(SLEEPS[database].format(20)))
            await asyncio.sleep(0.1)
            if fails:
                raise ZeroDivisionError

        began = asyncio.get_running_loop().time()
        error = await ends(worm, [a, b], block)
        if fails:
            assert isinstance(error, ZeroDivisionError), error
        else:
            assert isinstance(error, tx.Aborted), error
            assert error.decision.culprit == manager.name
            assert "await" in error.decision.reason
        with pytest.raises((UsageError, tx.ManagerDown, psycopg.Error)):
            await running
        assert money(*accounts) == (100, 100)
        async with worm.transaction([a, b]) as t:  # the only connection is there again
            await move(t, a, b)
        assert asyncio.get_running_loop().time() - began < 15, "nobody waits for the statement"
        assert money(*accounts) == (70, 130)
        await worm.site().close()


@pytest.mark.parametrize("database", ["PostgreSQL", "MariaDB"])
async def test_a_statement_that_begins_after_its_block_is_not_sent(accounts, database) -> None:
    """It would take effect by itself, outside of any transaction."""
    table = "account" if database == "PostgreSQL" else "bank.account"
    async with managers(*accounts, pool=1) as (a, b), wormspace.connect("memory:") as worm:
        manager = a if database == "PostgreSQL" else b
        for turns in (0, 1, 3, 9):
            late = None

            async def begin_late(session, turns=turns) -> None:
                for _ in range(turns):
                    await asyncio.sleep(0)
                await session.execute(f"UPDATE {table} SET money = 5555 WHERE id = 1")

            async def block(t) -> None:
                nonlocal late
                late = asyncio.ensure_future(begin_late(t[manager]))

            before = money(*accounts)
            error = await ends(worm, [a, b], block)
            assert isinstance(error, tx.Aborted | None), error
            [came] = await asyncio.gather(late, return_exceptions=True)
            if error is None:
                assert isinstance(came, UsageError), (turns, came)
                assert "over" in str(came)
            expected = before if error else (before[0] - 30, before[1] + 30)
            while await a.prepared() or await b.prepared():  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
            assert money(*accounts) == expected, (turns, error)
            if not error:
                accounts[0].query("orders", "UPDATE account SET money = 100")
                accounts[1].query("UPDATE bank.account SET money = 100")
        await worm.site().close()
