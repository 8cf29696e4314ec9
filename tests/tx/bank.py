"""Money in four places, two databases and two stores of their own processes, and who moves it.

    python -m tests.tx.bank work URL POSTGRES MARIADB STOCK LOYALTY
    python -m tests.tx.bank store NAME PORT DIRECTORY URL

A worker moves money between two or three of the places, each time in a variant of its own choice;
the databases are in its own process, as they always are, and the stores are not.  `Bank` starts all
of it, kills any of it, and checks what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pymysql
from benchmarks.databases import MariaDbServer, PostgresServer

import wormspace
from wormspace import tx
from wormspace.bench.processes import free_ports
from wormspace.cli.layout import create, plan
from wormspace.cli.processes import LocalCluster
from wormspace.tx.mariadb import MariaDb
from wormspace.tx.postgres import Postgres

ORDERS, BILLING, STOCK, LOYALTY = PLACES = ("orders", "billing", "stock", "loyalty")
STORES = (STOCK, LOYALTY)
ACCOUNTS, START = 10, 1000
WORKERS = 3
VICTIMS = ("worker", "worker", "store", "store", "wormserver", "PostgreSQL", "MariaDB")
PATIENCE_S = 1.0
IDLE_S = 2.0
BOUND_S = 20.0
"""Seconds after the last kill within which nothing may be prepared any more."""


def key_of(account: int) -> bytes:
    """Where a store has an account."""
    return b"account %d" % account


# ------------------------------------------------------------------ a worker


async def change(session, place: str, note: str, account: int, amount: int, *, last: bool) -> None:
    """Add to an account, and note which transaction did, and where else."""
    if place in STORES:
        await session.put(f"moved {note}".encode(), b"")
        key, final = key_of(account), {"last": True} if last else {}
        await session.put(key, b"%d" % (int(await session.get(key) or START) + amount), **final)
    else:
        await session.execute("INSERT INTO moved VALUES (%s)", (note,))
        await session.execute(
            "UPDATE account SET money = money + %s WHERE id = %s", (amount, account)
        )


async def work(url: str, postgres: str, mariadb: str, stock: str, loyalty: str) -> None:
    """Move money until killed; says `committed VARIANT ID@PLACES` of each that is."""
    rng = random.Random()
    managers = {
        ORDERS: Postgres(ORDERS, postgres),
        BILLING: MariaDb(BILLING, mariadb),
        STOCK: tx.RemoteStore(STOCK, stock),
        LOYALTY: tx.RemoteStore(LOYALTY, loyalty),
    }
    async with wormspace.connect(url, timeout=3) as worm:
        here = [managers[ORDERS], managers[BILLING]]
        site = tx.Site(worm, managers=here, patience_s=PATIENCE_S, idle_s=IDLE_S)
        await site.start("127.0.0.1")
        while True:
            variant, account = rng.choice(list(tx.VARIANTS)), rng.randrange(ACCOUNTS)
            places = rng.sample(PLACES, rng.choice((2, 2, 3)))
            amount = rng.randrange(1, 10)
            amounts = [-amount, amount, 0][: len(places)]
            transaction = tx.Transaction(
                site, [managers[p] for p in places], variant=variant, timeout=3, tm=stock
            )
            note = f"{transaction.id}@{'+'.join(places)}"
            try:
                async with transaction as t:
                    for place, more in zip(places, amounts, strict=True):
                        session = t[managers[place]]
                        last = variant == "F2"
                        await change(session, place, note, account, more, last=last)
            except (wormspace.WormError, psycopg.Error, pymysql.Error):
                await asyncio.sleep(0.02)  # it did not happen, or its outcome is unknown: go on
            else:
                print("committed", variant, note, flush=True)


# ------------------------------------------------------------------ a store


async def serve(name: str, port: str, directory: str, url: str) -> None:
    """A store behind a site of its own, until killed."""
    store = await tx.KeyValueStore.open(name, tx.LmdbStore(Path(directory)))
    while True:
        with contextlib.suppress(wormspace.Unavailable):
            worm = await wormspace.connect(url, timeout=3)
            break
    site = tx.Site(worm, managers=[store], patience_s=PATIENCE_S, idle_s=IDLE_S)
    await site.start("127.0.0.1", int(port))
    await asyncio.Event().wait()


# ------------------------------------------------------------------ all of it


class Child:
    """A process of this module."""

    def __init__(self, *arguments: str, on_line: Callable[[str], None] | None = None) -> None:
        self._arguments = arguments
        self._on_line = on_line
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it (again)."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.tx.bank", *self._arguments],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if self._on_line is not None and line.endswith("\n"):
                self._on_line(line)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Bank:
    """The databases, the stores, the wormservers and the workers.

    Attributes:
        reported: the notes of all transactions that a worker said are committed.
        variants: how many of them were committed in each variant.
    """

    def __init__(self, base: Path) -> None:
        self.reported: set[str] = set()
        self.variants = dict.fromkeys(tx.VARIANTS, 0)
        self.postgres = PostgresServer(ORDERS)
        self.mariadb = MariaDbServer()
        ports = free_ports(5)
        config = plan(3, ports=ports[:3])
        self.cluster = LocalCluster(create(config, base), config)
        self.addresses = dict(zip(STORES, [f"127.0.0.1:{p}" for p in ports[3:]], strict=True))
        self.directories = {name: base / name for name in STORES}
        self.stores = [
            Child("store", name, str(port), str(self.directories[name]), config.url)
            for name, port in zip(STORES, ports[3:], strict=True)
        ]
        databases = [self.postgres.url(ORDERS), self.mariadb.url]
        self.workers = [
            Child("work", config.url, *databases, *self.addresses.values(), on_line=self._on_line)
            for _ in range(WORKERS)
        ]

    def _on_line(self, line: str) -> None:
        word, variant, note = line.split()
        if word == "committed":
            self.reported.add(note)
            self.variants[variant] += 1

    def open(self) -> None:
        """Fill the accounts and start everybody."""
        for query in (lambda s: self.postgres.query(ORDERS, s), self.in_mariadb):
            query("CREATE TABLE moved (id varchar(100) PRIMARY KEY)")
            query("CREATE TABLE account (id int PRIMARY KEY, money int)")
            rows = ", ".join(f"({n}, {START})" for n in range(ACCOUNTS))
            query(f"INSERT INTO account VALUES {rows}")
        asyncio.run(self.cluster.start())
        for child in (*self.stores, *self.workers):
            child.start()

    def in_mariadb(self, statement: str) -> list[tuple[object, ...]]:
        """A query of the bank's database."""
        with (
            pymysql.connect(
                user="root", unix_socket=f"{self.mariadb.base}/s", database="bank", autocommit=True
            ) as c,
            c.cursor() as cursor,
        ):
            cursor.execute(statement)
            return list(cursor.fetchall())

    def strike(self, rng: random.Random) -> None:
        """Kill somebody, and start them again."""
        victim = rng.choice(VICTIMS)
        if victim in ("worker", "store"):
            child = rng.choice(self.workers if victim == "worker" else self.stores)
            child.kill()
            time.sleep(rng.choice((0, 0.3)))
            child.start()
        elif victim == "wormserver":
            server = rng.choice(self.cluster.processes)
            server.kill()
            time.sleep(rng.uniform(0, 0.5))
            server.start()
            asyncio.run(self.cluster.wait_until_reachable())
        else:
            database = self.postgres if victim == "PostgreSQL" else self.mariadb
            database.kill()
            time.sleep(rng.uniform(0, 0.3))
            database.start()

    async def resolve(self) -> None:
        """Resolve what is left, as anybody can, within the bound."""
        managers = [
            Postgres(ORDERS, self.postgres.url(ORDERS)),
            MariaDb(BILLING, self.mariadb.url),
            *(tx.RemoteStore(name, address) for name, address in self.addresses.items()),
        ]
        deadline = time.monotonic() + BOUND_S
        async with wormspace.connect(self.cluster.config.url) as worm:
            site = tx.Site(worm, managers=managers, patience_s=PATIENCE_S)
            await site.recover()  # from then on its managers know whose branches to list
            while left := await prepared(managers):
                assert time.monotonic() < deadline, f"still prepared: {left}"
                await asyncio.sleep(0.1)
                await site.recover()
            await site.close()
        for manager in managers:
            await manager.close()

    def check(self) -> None:
        """All or nothing, everywhere; what was reported is there; not a coin is missing."""
        moved, sums = {}, {}
        for place, query in (
            (ORDERS, lambda s: self.postgres.query(ORDERS, s)),
            (BILLING, self.in_mariadb),
        ):
            moved[place] = {str(row[0]) for row in query("SELECT id FROM moved")}
            sums[place] = int(str(query("SELECT sum(money) FROM account")[0][0]))
        for place in STORES:
            items = asyncio.run(read(place, self.directories[place]))
            moved[place] = {k.decode().split()[1] for k in items if k.startswith(b"moved ")}
            money = [int(items.get(key_of(n), START)) for n in range(ACCOUNTS)]
            sums[place] = sum(money)
        for note in self.reported.union(*moved.values()):
            found = {place for place in PLACES if note in moved[place]}
            assert found == set(note.partition("@")[2].split("+")), f"{note} is at {found}"
        assert sum(sums.values()) == len(PLACES) * ACCOUNTS * START, sums

    def close(self) -> None:
        """Kill everything that runs."""
        for child in (*self.workers, *self.stores, *self.cluster.processes):
            child.kill()
        self.postgres.close()
        self.mariadb.close()


async def prepared(managers: list[tx.ResourceManager]) -> list[tx.Gid]:
    """What is prepared anywhere; a store that has just been started may not serve yet."""
    while True:
        with contextlib.suppress(tx.ManagerDown):
            return [gid for manager in managers for gid in await manager.prepared()]
        await asyncio.sleep(0.1)


async def read(name: str, directory: Path) -> dict[bytes, bytes]:
    """What a store that does not run has committed; all of it is durable then."""
    store = await tx.KeyValueStore.open(name, tx.LmdbStore(directory))
    try:
        assert await store.prepared() == []
        return store.items()
    finally:
        await store.close()


def run(base: Path, kills: int, seed: int) -> Bank:
    """Kill so often while money moves; then all that must hold is checked."""
    rng = random.Random(seed)
    bank = Bank(base)
    with contextlib.closing(bank):
        bank.open()
        for _ in range(kills):
            time.sleep(rng.uniform(0.1, 1.0))
            bank.strike(rng)
        for worker in bank.workers:
            worker.kill()
        asyncio.run(bank.resolve())
        for store in bank.stores:
            store.kill()
        bank.check()
        return bank


if __name__ == "__main__":
    asyncio.run({"work": work, "store": serve}[sys.argv[1]](*sys.argv[2:]))
