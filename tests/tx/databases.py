"""Real databases for tests: their servers, their accounts, and how to make them silent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import threading
from pathlib import Path

import pymysql
import pytest
from benchmarks import databases
from benchmarks.databases import MariaDbServer, PostgresServer

from wormspace.tx.mariadb import MariaDb
from wormspace.tx.postgres import Postgres

LENT = "WORMSPACE_DATABASES"
"""In the environment: a file that says which servers run already (`tools/mutants/lent.py`)."""


@pytest.fixture(scope="session")
def postgres_server():
    if databases.INITDB is None:
        pytest.skip(databases.NO_POSTGRES)
    with _running(PostgresServer, "orders", "billing") as server:
        _end_all_of_postgres(server)
        server.query("postgres", "DROP DATABASE IF EXISTS copy WITH (FORCE)")
        for database in ("orders", "billing"):
            server.query(database, "DROP SCHEMA IF EXISTS wormspace CASCADE")
            asyncio.run(_name(Postgres("any", server.url(database))))
        yield server


@pytest.fixture(scope="session")
def mariadb_server():
    if databases.MARIADBD is None:
        pytest.skip(databases.NO_MARIADB)
    with _running(MariaDbServer) as server:
        _end_all_of_mariadb(server)
        server.query("DROP DATABASE IF EXISTS wormspace")
        asyncio.run(_name(MariaDb("any", server.url)))
        yield server


@contextlib.contextmanager
def _running(kind, *arguments):
    """A server for this session: one that runs already, where such are lent."""
    if LENT in os.environ:
        lent = pickle.loads(Path(os.environ[LENT]).read_bytes())
        yield next(server for server in lent if isinstance(server, kind))
        return
    server = kind(*arguments)
    with contextlib.closing(server):
        yield server


async def _name(manager: Postgres | MariaDb) -> None:
    """Let a database have its identity: making it takes longer than some tests wait."""
    await manager.identity()
    await manager.close()


@pytest.fixture(scope="module")
def postgres(postgres_server):
    """A server with the databases `orders` and `billing`, which have a table of accounts."""
    _end_all_of_postgres(postgres_server)
    for database in ("orders", "billing"):
        postgres_server.query(
            database,
            "DROP SCHEMA IF EXISTS public CASCADE; CREATE SCHEMA public;"
            "CREATE TABLE account (id int PRIMARY KEY, money int CHECK (money >= 0))",
        )
    return postgres_server


@pytest.fixture(scope="module")
def mariadb(mariadb_server):
    """A server with the database `bank`, which has a table of accounts."""
    _end_all_of_mariadb(mariadb_server)
    for statement in (
        "DROP DATABASE IF EXISTS bank",
        "CREATE DATABASE bank",
        "CREATE TABLE bank.account (id int PRIMARY KEY, money int) ENGINE=InnoDB",
    ):
        mariadb_server.query(statement)
    return mariadb_server


def _end_all_of_postgres(server: PostgresServer) -> None:
    """End the connections and the prepared transactions that a test before has left."""
    server.query(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE usename = 'worm' AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )
    for gid, database in server.query("postgres", "SELECT gid, database FROM pg_prepared_xacts"):
        server.query(database, f"ROLLBACK PREPARED '{gid}'")


def _end_all_of_mariadb(server: MariaDbServer) -> None:
    """The same."""
    others = "SELECT id FROM information_schema.processlist WHERE command <> 'Daemon'"
    for (number,) in server.query(f"{others} AND id <> connection_id()"):
        with contextlib.suppress(pymysql.Error):  # it has ended meanwhile
            server.query(f"KILL {number}")
    for _, first, _, data in server.query("XA RECOVER"):
        text = data.decode() if isinstance(data, bytes) else data
        end = f"XA ROLLBACK '{text[:first]}','{text[first:]}'"
        server.wait(lambda end=end: server.query(end))  # until its connection has ended


@pytest.fixture
def accounts(postgres, mariadb):
    """Both databases with one account each, and nobody connected who holds its row."""
    _end_all_of_postgres(postgres)
    _end_all_of_mariadb(mariadb)
    for database in ("orders", "billing"):
        postgres.query(database, "DELETE FROM account")
        postgres.query(database, "INSERT INTO account VALUES (1, 100)")
    mariadb.query("DELETE FROM bank.account")
    mariadb.query("INSERT INTO bank.account VALUES (1, 100)")
    return postgres, mariadb


@contextlib.asynccontextmanager
async def managers(postgres, mariadb, **options):
    a = Postgres("orders", postgres.url("orders"), **options)
    b = MariaDb("billing", mariadb.url, **options)
    try:
        yield a, b
    finally:
        await a.close()
        await b.close()


def money(postgres, mariadb) -> tuple[int, int]:
    return (
        postgres.query("orders", "SELECT money FROM account WHERE id = 1")[0][0],
        mariadb.query("SELECT money FROM bank.account WHERE id = 1")[0][0],
    )


async def move(transaction, a, b, amount=30):
    await transaction[a].execute("UPDATE account SET money = money - %s WHERE id = 1", (amount,))
    await transaction[b].execute("UPDATE account SET money = money + %s WHERE id = 1", (amount,))


class Relay:
    """A TCP relay that can fall silent: connections stay, and nothing passes any more."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self._target = target
        self._passing = threading.Event()
        self._passing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        self._passing.clear()

    def speak(self) -> None:
        self._passing.set()

    def close(self) -> None:
        self._passing.set()
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # whoever waits for it in a thread holds it open
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = self._dial()
                self._sockets += [here, there]
                for source, sink in ((here, there), (there, here)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _dial(self) -> socket.socket:
        if isinstance(self._target, str):
            there = socket.socket(socket.AF_UNIX)
            there.connect(self._target)
            return there
        return socket.create_connection(self._target)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._passing.wait()
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
