"""A database that falls silent: connections stand, and no answer comes."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

import pytest
from tests.tx.databases import Relay, money, move

import wormspace
from wormspace import tx
from wormspace.tx.mariadb import MariaDb
from wormspace.tx.postgres import Postgres

pytestmark = [
    pytest.mark.processes,
    pytest.mark.databases,
    pytest.mark.xdist_group("databases"),
]

TIMEOUT_S = 1.0


@contextlib.asynccontextmanager
async def behind_relays(postgres, mariadb):
    """Both databases, each behind a relay of its own."""
    there = urlsplit(postgres.url("orders"))
    relays = Relay((there.hostname, there.port)), Relay(f"{mariadb.base}/s")
    a = Postgres(
        "orders", f"postgresql://worm@127.0.0.1:{relays[0].port}/orders", timeout=TIMEOUT_S
    )
    b = MariaDb("billing", f"mysql://root@127.0.0.1:{relays[1].port}/bank", timeout=TIMEOUT_S)
    try:
        yield (a, relays[0]), (b, relays[1])
    finally:
        for relay in relays:
            relay.close()
        for manager in (a, b):
            await manager.close()


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("which", [0, 1], ids=["PostgreSQL", "MariaDB"])
@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "idle"])
async def test_beginning_at_a_silent_database_fails_in_its_time(accounts, which, warm) -> None:
    """Whether connections are idle or have to be made."""
    async with behind_relays(*accounts) as places, wormspace.connect("memory:") as worm:
        pair = [manager for manager, _ in places]
        if warm:
            async with worm.transaction(pair) as t:
                await move(t, *pair)
        places[which][1].silence()
        began = now()
        with pytest.raises(tx.ManagerDown, match=pair[which].name):
            async with worm.transaction(pair, timeout=3 * TIMEOUT_S):
                raise AssertionError("never entered")
        assert now() - began < 2.9 * TIMEOUT_S
        places[which][1].speak()
        async with worm.transaction(pair, timeout=20) as t:
            await move(t, *pair)
        await worm.site().close()


@pytest.mark.parametrize("which", [0, 1], ids=["PostgreSQL", "MariaDB"])
async def test_a_silent_database_does_not_hold_up_the_recover_of_another(accounts, which) -> None:
    async with behind_relays(*accounts) as places, wormspace.connect("memory:") as worm:
        pair = [manager for manager, _ in places]
        other = pair[1 - which]
        site = tx.Site(worm, managers=pair, patience_s=0.1)
        await asyncio.sleep(0.2)
        places[which][1].silence()
        dead = tx.Site(worm)
        branch = await other.begin((await dead.open()).gid(other.name, dead.new_id()))
        await branch.session.execute("UPDATE account SET money = 0 WHERE id = 1")
        await branch.prepare()
        async with asyncio.timeout(TIMEOUT_S * 0.9):
            while await other.prepared():  # noqa: ASYNC110 - a database has no event
                await asyncio.sleep(0.02)
        assert money(*accounts) == (100, 100)
        for each in (site, dead):
            await each.close()


@pytest.mark.parametrize("which", [0, 1], ids=["PostgreSQL", "MariaDB"])
async def test_one_that_falls_silent_at_prepare_aborts_and_is_resolved_later(
    accounts, which
) -> None:
    async with behind_relays(*accounts) as places, wormspace.connect("memory:") as worm:
        pair = [manager for manager, _ in places]
        site = tx.Site(worm, managers=pair, patience_s=0.3)

        async def work() -> None:
            async with tx.Transaction(site, pair, timeout=4 * TIMEOUT_S) as t:
                await move(t, *pair)
                places[which][1].silence()

        with pytest.raises(tx.Aborted) as caught:
            await work()
        assert caught.value.decision.culprit == pair[which].name
        places[which][1].speak()
        async with asyncio.timeout(30):
            while await pair[which].prepared():  # noqa: ASYNC110 - a database has no event
                await asyncio.sleep(0.05)
        assert money(*accounts) == (100, 100)
        await site.close()


@pytest.mark.parametrize("which", [0, 1], ids=["PostgreSQL", "MariaDB"])
async def test_a_block_can_leave_a_database_that_fell_silent(accounts, which) -> None:
    async with behind_relays(*accounts) as places, wormspace.connect("memory:") as worm:
        pair = [manager for manager, _ in places]

        async def work() -> None:
            async with asyncio.timeout(0.5), worm.transaction(pair) as t:
                await move(t, *pair)
                places[which][1].silence()
                await t[pair[which]].execute("SELECT 1")

        began = now()
        with pytest.raises(TimeoutError):
            await work()
        assert now() - began < 0.5 + 2 * TIMEOUT_S
        places[which][1].speak()
        await worm.site().close()
