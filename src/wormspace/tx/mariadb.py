"""MariaDB (10.5 or later) as a resource manager: XA transactions (PyMySQL; extra `mysql`).

A prepared XA transaction belongs to the connection that prepared it, and no other can finish it,
until that connection ends; from then on any can.  So the branch keeps its connection until it is
over, and whoever else is told that there is no such transaction looks whether it is still listed.

PyMySQL blocks, so each call runs in a thread.  The user's session is small: `execute`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import pymysql

from wormspace.errors import UsageError
from wormspace.tx.errors import CannotPrepare, ManagerDown
from wormspace.tx.names import Gid, TxId, check_name

T = TypeVar("T")

POOL = 32
CONNECT_TIMEOUT_S = 5

_UNKNOWN_XID = 1397
_LOST = (0, 2003, 2006, 2013, 2014, 1053, 1927)
"""Codes of PyMySQL and of the server that mean that the connection is gone."""

_FIRST_HALF = re.compile(r"([A-Za-z0-9_.]{1,20}):([A-Za-z0-9_.]{1,20})-(\d{1,18})")
_MARK = "worm:"


class Rows(msgspec.Struct, frozen=True):
    """What a statement gave: its rows, and how many it found or changed."""

    rows: tuple[tuple[Any, ...], ...]
    count: int


def xid(gid: Gid) -> str:
    """A gid as XA writes it: the transaction, and which of its branches."""
    return f"'{gid.space}:{gid.id}','{_MARK}{gid.manager}'"


def parse_xid(transaction: str, branch: str) -> Gid | None:
    """The gid of the two halves; None if it is none of ours."""
    match = _FIRST_HALF.fullmatch(transaction)
    if match is None or not branch.startswith(_MARK):
        return None
    return Gid(match[1], branch.removeprefix(_MARK), TxId(match[2], int(match[3])))


class MariaDb:
    """One MariaDB server.

    XA transactions are the server's, not the database's: give it one name, not one per database.

    Args:
        name: the same wherever this server takes part.
        url: `mysql://USER:PASSWORD@HOST:PORT/DATABASE`; `?unix_socket=PATH` for a local one.
        pool: connections at most.
    """

    def __init__(self, name: str, url: str, *, pool: int = POOL) -> None:
        self.name = check_name(name)
        self._options = _options(url)
        self._threads = ThreadPoolExecutor(pool, thread_name_prefix=f"wormspace-{name}")
        self._places = asyncio.Semaphore(pool)
        self._idle: list[Any] = []
        self._holding: dict[Gid, Any] = {}

    async def begin(self, gid: Gid) -> MariaDbBranch:
        connection = await self._execute(f"XA START {xid(gid)}")
        return MariaDbBranch(self, connection, gid)

    async def commit(self, gid: Gid) -> None:
        await self._end("XA COMMIT", gid)

    async def abort(self, gid: Gid) -> None:
        await self._end("XA ROLLBACK", gid)

    async def prepared(self) -> list[Gid]:
        connection = await self._connect()
        rows = (await self.run(connection, lambda: _query(connection, "XA RECOVER"))).rows
        self.release(connection)
        found = []
        for _, first, second, data in rows:
            text = data.decode(errors="replace") if isinstance(data, bytes) else str(data)
            gid = parse_xid(text[:first], text[first : first + second])
            if gid is not None and gid.manager == self.name:
                found.append(gid)
        return found

    async def close(self) -> None:
        for connection in [*self._idle, *self._holding.values()]:
            connection.close()
        self._idle.clear()
        self._holding.clear()
        self._threads.shutdown(wait=False)

    # ------------------------------------------------------------ connections

    def hold(self, gid: Gid, connection: Any) -> None:
        """This connection has the prepared branch."""
        self._holding[gid] = connection

    def release(self, connection: Any) -> None:
        """Give a connection back that is in no transaction."""
        self._places.release()
        self._idle.append(connection)

    def discard(self, connection: Any) -> None:
        """Drop a connection; the server rolls back what it has not prepared."""
        self._places.release()
        try:
            connection.close()
        except pymysql.Error:
            pass  # it was closed before

    async def run(self, connection: Any, work: Callable[[], T]) -> T:
        """Work with a connection in a thread; it is dropped if that fails or is not waited for.

        Raises:
            ManagerDown: the connection is gone.
            pymysql.Error.
        """
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:

            def drop(done: asyncio.Future[T]) -> None:
                done.exception()
                self.discard(connection)

            future.add_done_callback(drop)
            raise
        except (pymysql.Error, OSError) as e:
            self.discard(connection)
            if isinstance(e, pymysql.Error) and e.args and e.args[0] not in _LOST:
                raise
            raise ManagerDown(f"{self.name}: {_line(e)}") from e

    async def _connect(self) -> Any:
        await self._places.acquire()
        if self._idle:
            return self._idle.pop()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._threads, lambda: pymysql.connect(**self._options)
            )
        except BaseException as e:
            self._places.release()
            if isinstance(e, (pymysql.Error, OSError)):
                raise ManagerDown(f"{self.name}: {_line(e)}") from e
            raise

    async def _execute(self, statement: str) -> Any:
        """Run a statement that may be repeated; returns the connection it ran on.

        Raises:
            ManagerDown: also on a fresh connection it does not work.
            pymysql.Error: the server refuses.
        """
        while True:
            fresh = not self._idle
            connection = await self._connect()
            try:
                await self.run(connection, lambda c=connection: _query(c, statement))  # type: ignore[misc]
            except ManagerDown:
                if fresh:
                    raise
            else:
                return connection

    async def _end(self, command: str, gid: Gid) -> None:
        statement = f"{command} {xid(gid)}"
        connection = self._holding.pop(gid, None)
        if connection is not None:
            try:
                await self.run(connection, lambda: _query(connection, statement))
            except (ManagerDown, pymysql.Error):
                pass  # that connection is gone now, so any other can do it
            else:
                self.release(connection)
                return
        try:
            self.release(await self._execute(statement))
        except pymysql.Error as e:
            if e.args[0] != _UNKNOWN_XID:
                raise ManagerDown(f"{self.name}: {_line(e)}") from e
            if gid in await self.prepared():
                raise ManagerDown(
                    f"{self.name}: the connection that prepared {gid} still has it"
                ) from e


class MariaDbBranch:
    """One transaction's work in one MariaDB server; it is its own session."""

    def __init__(self, manager: MariaDb, connection: Any, gid: Gid) -> None:
        self._manager = manager
        self._connection: Any = connection
        self._gid = gid

    @property
    def session(self) -> MariaDbBranch:
        return self

    async def execute(self, statement: str, arguments: Sequence[object] = ()) -> Rows:
        """Run a statement, with `%s` for each argument.

        Raises:
            ManagerDown: the connection is gone, and the work with it.
            pymysql.Error: the server refuses.
        """
        connection = self._open()
        try:
            return await self._manager.run(
                connection, lambda: _query(connection, statement, arguments)
            )
        except BaseException:
            self._connection = None
            raise

    async def prepare(self) -> None:
        connection, self._connection = self._open(), None
        name = xid(self._gid)

        def work() -> None:
            _query(connection, f"XA END {name}")
            _query(connection, f"XA PREPARE {name}")

        try:
            await self._manager.run(connection, work)
        except pymysql.Error as e:
            raise CannotPrepare(f"{self._manager.name}: {_line(e)}") from e
        self._manager.hold(self._gid, connection)

    async def rollback(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        name = xid(self._gid)

        def work() -> None:
            _query(connection, f"XA END {name}")
            _query(connection, f"XA ROLLBACK {name}")

        try:
            await self._manager.run(connection, work)
        except (ManagerDown, pymysql.Error):
            return  # the connection is gone, and the server rolls back
        self._manager.release(connection)

    def _open(self) -> Any:
        if self._connection is None:
            raise CannotPrepare(f"{self._manager.name}: the work is lost")
        return self._connection


def _query(connection: Any, statement: str, arguments: Sequence[object] = ()) -> Rows:
    with connection.cursor() as cursor:
        count = cursor.execute(statement, tuple(arguments) or None)
        return Rows(tuple(cursor.fetchall()), count)


def _options(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme not in ("mysql", "mariadb"):
        raise UsageError(f"{url!r} is not mysql://USER:PASSWORD@HOST:PORT/DATABASE")
    options: dict[str, Any] = {
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": parts.path.lstrip("/") or None,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "autocommit": True,
        **dict(parse_qsl(parts.query)),
    }
    if "unix_socket" not in options:
        options["host"] = parts.hostname or "127.0.0.1"
        options["port"] = parts.port or 3306
    return options


def _line(e: BaseException) -> str:
    """An error as one line."""
    return " ".join(str(a) for a in e.args) or type(e).__name__
