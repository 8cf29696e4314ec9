"""Real databases for tests: their servers, their accounts, and how to make them silent."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from wormspace.bench import databases
from wormspace.bench.databases import MariaDbServer, PostgresServer
from wormspace.tx.mariadb import MariaDb
from wormspace.tx.postgres import Postgres


@pytest.fixture(scope="module")
def postgres():
    if databases.INITDB is None:
        pytest.skip(databases.NO_POSTGRES)
    server = PostgresServer("orders", "billing")
    for database in ("orders", "billing"):
        server.query(
            database, "CREATE TABLE account (id int PRIMARY KEY, money int CHECK (money >= 0))"
        )
    yield server
    server.close()


@pytest.fixture(scope="module")
def mariadb():
    if databases.MARIADBD is None:
        pytest.skip(databases.NO_MARIADB)
    server = MariaDbServer()
    server.query("CREATE TABLE bank.account (id int PRIMARY KEY, money int) ENGINE=InnoDB")
    yield server
    server.close()


@pytest.fixture
def accounts(postgres, mariadb):
    """Both databases with one account each, and nobody connected who holds its row."""
    postgres.query(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE usename = 'worm' AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )
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
