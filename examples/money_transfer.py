"""Money moves between a PostgreSQL and a MariaDB database while processes are being killed.

    python -m examples.money_transfer [--kills 20] [--seed 1]

Two workers move money from one database to the other, each in transactions of its own.  Meanwhile
somebody kills, with SIGKILL and without end: workers, wormservers (one at a time), and the database
servers themselves.  At the end every transaction is in both databases or in neither, what a worker
reported as committed is, not a coin is missing, and nothing stays prepared.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pymysql
from benchmarks.databases import Database, MariaDbServer, NotInstalled, PostgresServer

import wormspace
from wormspace import tx
from wormspace.bench.processes import free_ports
from wormspace.cli.layout import create, plan
from wormspace.cli.processes import LocalCluster
from wormspace.tx.mariadb import MariaDb
from wormspace.tx.postgres import Postgres

ACCOUNTS, START = 10, 1000
WORKERS = 2
PATIENCE_S = 1.0
BOUND_S = 20.0
"""Seconds after the last kill within which nothing may be prepared any more."""

Say = Callable[[str], None]


class NotAsTold(Exception):
    """Money was lost, or something stayed prepared."""


# ------------------------------------------------------------------ a worker


async def work(url: str, postgres: str, mariadb: str) -> None:
    """Move money until killed; says `committed ID` for each transaction that is."""
    rng = random.Random()
    here, there = Postgres("orders", postgres), MariaDb("billing", mariadb)
    async with wormspace.connect(url, timeout=3) as worm:
        site = tx.Site(worm, managers=[here, there], patience_s=PATIENCE_S)
        while True:
            account, amount = rng.randrange(ACCOUNTS), rng.randrange(1, 10)
            transaction = tx.Transaction(site, [here, there], timeout=3)
            try:
                async with transaction as t:
                    name = str(transaction.id)
                    await t[here].execute("INSERT INTO moved VALUES (%s)", (name,))
                    await t[here].execute(
                        "UPDATE account SET money = money - %s WHERE id = %s", (amount, account)
                    )
                    await t[there].execute("INSERT INTO moved VALUES (%s)", (name,))
                    await t[there].execute(
                        "UPDATE account SET money = money + %s WHERE id = %s", (amount, account)
                    )
            except (wormspace.WormError, psycopg.Error, pymysql.Error):
                await asyncio.sleep(0.02)  # it did not happen, or its outcome is unknown: go on
            else:
                print(f"committed {name}", flush=True)


class Worker:
    """A worker process, and what it has reported."""

    def __init__(self, arguments: list[str], reported: set[str]) -> None:
        self._arguments = arguments
        self._reported = reported
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it (again)."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "examples.money_transfer", "--work", *self._arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("committed ") and line.endswith("\n"):
                self._reported.add(line.split()[1])

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


# ------------------------------------------------------------------ the story


class Bank:
    """Both databases, the cluster and the workers."""

    def __init__(self, base: Path) -> None:
        self.reported: set[str] = set()
        self.postgres = PostgresServer("orders")
        self.mariadb = MariaDbServer()
        config = plan(3, ports=free_ports(3))
        self.cluster = LocalCluster(create(config, base), config)
        arguments = [config.url, self.postgres.url("orders"), self.mariadb.url]
        self.workers = [Worker(arguments, self.reported) for _ in range(WORKERS)]

    def open(self) -> None:
        """Fill the accounts and start everybody."""
        for query in (lambda s: self.postgres.query("orders", s), self.in_mariadb):
            query("CREATE TABLE moved (id varchar(60) PRIMARY KEY)")
            query("CREATE TABLE account (id int PRIMARY KEY, money int)")
            rows = ", ".join(f"({n}, {START})" for n in range(ACCOUNTS))
            query(f"INSERT INTO account VALUES {rows}")
        asyncio.run(self.cluster.start())
        for worker in self.workers:
            worker.start()

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

    def strike(self, rng: random.Random) -> str:
        """Kill somebody, and start them again; returns who it was."""
        victims = [
            "worker",
            "worker",
            "worker",
            "wormserver",
            "wormserver",
            "PostgreSQL",
            "MariaDB",
        ]
        victim = rng.choice(victims)
        if victim == "worker":
            worker = rng.choice(self.workers)
            worker.kill()
            worker.start()
        elif victim == "wormserver":
            server = rng.choice(self.cluster.processes)
            server.kill()
            time.sleep(rng.uniform(0, 0.5))
            server.start()
            asyncio.run(self.cluster.wait_until_reachable())
        else:
            database: Database = self.postgres if victim == "PostgreSQL" else self.mariadb
            database.kill()
            time.sleep(rng.uniform(0, 0.3))
            self.postgres.start() if victim == "PostgreSQL" else self.mariadb.start()
        return victim

    async def resolve(self) -> float:
        """Resolve what is left, as anybody can; the seconds until nothing is prepared.

        Raises:
            NotAsTold: it takes too long.
        """
        began = time.monotonic()
        here = Postgres("orders", self.postgres.url("orders"))
        there = MariaDb("billing", self.mariadb.url)
        async with wormspace.connect(self.cluster.config.url) as worm:
            site = tx.Site(worm, managers=[here, there], patience_s=PATIENCE_S)
            try:
                while await here.prepared() or await there.prepared():
                    if time.monotonic() - began > BOUND_S:
                        raise NotAsTold(f"still prepared: {await here.prepared()}")
                    await asyncio.sleep(0.1)
                    await site.recover()
            finally:
                await site.close()
                await here.close()
                await there.close()
        return time.monotonic() - began

    def check(self) -> int:
        """Every transaction is in both databases or in neither; how many are.

        Raises:
            NotAsTold.
        """
        ledgers = [
            {row[0] for row in self.postgres.query("orders", "SELECT id FROM moved")},
            {row[0] for row in self.in_mariadb("SELECT id FROM moved")},
        ]
        if ledgers[0] != ledgers[1]:
            raise NotAsTold(f"in one database only: {ledgers[0] ^ ledgers[1]}")
        lost = self.reported - ledgers[0]
        if lost:
            raise NotAsTold(f"reported as committed, and not there: {lost}")
        sums = [
            self.postgres.query("orders", "SELECT sum(money) FROM account")[0][0],
            self.in_mariadb("SELECT sum(money) FROM account")[0][0],
        ]
        if sum(map(int, sums)) != 2 * ACCOUNTS * START:
            raise NotAsTold(f"the sum of money is {sums}, not {2 * ACCOUNTS * START}")
        return len(ledgers[0])

    def close(self) -> None:
        """Kill everything that runs."""
        for worker in self.workers:
            worker.kill()
        for process in self.cluster.processes:
            process.kill()
        self.postgres.close()
        self.mariadb.close()


def tell(kills: int, seed: int, say: Say) -> int:
    """The story; how many transfers were committed.

    Raises:
        NotAsTold: atomicity was broken, or the resolver took too long.
        NotInstalled: a database is not on this machine.
    """
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="money-") as directory:
        bank = Bank(Path(directory))
        with contextlib.closing(bank):
            bank.open()
            say(f"two databases, three wormservers, {WORKERS} workers; {kills} kills to come")
            for n in range(kills):
                time.sleep(rng.uniform(0.1, 1.0))
                victim = bank.strike(rng)
                say(f"{n + 1:>4}  kill -9 {victim:<11} {len(bank.reported)} transfers so far")
            for worker in bank.workers:
                worker.kill()
            took = asyncio.run(bank.resolve())
            count = bank.check()
            say(f"after {took:.1f} s nothing is prepared; {count} transfers, not a coin missing")
            return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        asyncio.run(work(*arguments.work))
        return 0
    try:
        tell(arguments.kills, arguments.seed, print)
    except (NotAsTold, NotInstalled) as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
