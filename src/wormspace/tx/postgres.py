"""PostgreSQL as a resource manager: `PREPARE TRANSACTION` (psycopg 3; extra `postgres`).

The server needs `max_prepared_transactions` above 0 (0 is its default).  The session is a psycopg
`AsyncConnection` inside a transaction; what it does not do is end that transaction.

A transaction that failed before is rolled back by `PREPARE TRANSACTION`, *without an error*: only
the command tag says so (`ROLLBACK`).  That is a no.
"""

from __future__ import annotations

import asyncio

import psycopg
from psycopg import sql

from wormspace.tx.errors import CannotPrepare, ManagerDown
from wormspace.tx.names import Gid, check_name

_Connection = psycopg.AsyncConnection[tuple[object, ...]]
_LOST = (psycopg.OperationalError, psycopg.InterfaceError, OSError)

POOL = 32


class Postgres:
    """One PostgreSQL database.

    Args:
        name: the same wherever this database takes part.
        conninfo: as psycopg takes it, for instance `postgresql://user@host/db`.
        pool: connections at most.
    """

    def __init__(self, name: str, conninfo: str, *, pool: int = POOL) -> None:
        self.name = check_name(name)
        self._conninfo = conninfo
        self._idle: list[_Connection] = []
        self._places = asyncio.Semaphore(pool)

    async def begin(self, gid: Gid) -> PostgresBranch:
        connection = await self._execute(sql.SQL("BEGIN"), keep=True)
        return PostgresBranch(self, connection, gid)

    async def commit(self, gid: Gid) -> None:
        await self._end("COMMIT PREPARED {}", gid)

    async def abort(self, gid: Gid) -> None:
        await self._end("ROLLBACK PREPARED {}", gid)

    async def prepared(self) -> list[Gid]:
        connection = await self._connect()
        try:
            cursor = await connection.execute(
                "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
            )
            rows = await cursor.fetchall()
        except _LOST as e:
            await self.discard(connection)
            raise ManagerDown(f"{self.name}: {_line(e)}") from e
        self.release(connection)
        gids = [Gid.parse(str(row[0])) for row in rows]
        return [gid for gid in gids if gid is not None and gid.manager == self.name]

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    # ------------------------------------------------------------ connections

    def release(self, connection: _Connection) -> None:
        """Give a connection back that is not in a transaction."""
        self._places.release()
        self._idle.append(connection)

    async def discard(self, connection: _Connection) -> None:
        """Drop a connection of which nobody knows what it is in."""
        self._places.release()
        await connection.close()

    async def _connect(self) -> _Connection:
        """An idle connection, or a new one.

        Raises:
            ManagerDown.
        """
        await self._places.acquire()
        if self._idle:
            return self._idle.pop()
        try:
            return await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        except BaseException as e:
            self._places.release()
            if isinstance(e, _LOST):
                raise ManagerDown(f"{self.name}: {_line(e)}") from e
            raise

    async def _execute(
        self, statement: sql.SQL | sql.Composed, *, keep: bool = False
    ) -> _Connection:
        """Run a statement that may be repeated; an idle connection may have died meanwhile.

        Raises:
            ManagerDown: also on a fresh connection it does not work.
        """
        while True:
            fresh = not self._idle
            connection = await self._connect()
            try:
                await connection.execute(statement)
            except _LOST as e:
                await self.discard(connection)
                if fresh:
                    raise ManagerDown(f"{self.name}: {_line(e)}") from e
            except BaseException:
                await self.discard(connection)
                raise
            else:
                if not keep:
                    self.release(connection)
                return connection

    async def _end(self, command: str, gid: Gid) -> None:
        try:
            await self._execute(sql.SQL(command).format(sql.Literal(str(gid))))
        except psycopg.errors.UndefinedObject:
            pass  # it is over already, or was never prepared
        except psycopg.Error as e:  # for instance: another session is finishing it right now
            raise ManagerDown(f"{self.name}: {_line(e)}") from e


class PostgresBranch:
    """One transaction's work in one PostgreSQL database."""

    def __init__(self, manager: Postgres, connection: _Connection, gid: Gid) -> None:
        self._manager = manager
        self._connection: _Connection | None = connection
        self._gid = gid

    @property
    def session(self) -> _Connection:
        if self._connection is None:
            raise CannotPrepare("this branch is over")
        return self._connection

    async def prepare(self) -> None:
        connection, self._connection = self.session, None
        statement = sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(str(self._gid)))
        try:
            cursor = await connection.execute(statement)
        except _LOST as e:
            await self._manager.discard(connection)
            raise ManagerDown(f"{self._manager.name}: {_line(e)}") from e
        except psycopg.Error as e:
            await self._manager.discard(connection)
            raise CannotPrepare(f"{self._manager.name}: {_line(e)}") from e
        except BaseException:
            await self._manager.discard(connection)
            raise
        self._manager.release(connection)
        if cursor.statusmessage != "PREPARE TRANSACTION":
            raise CannotPrepare(
                f"{self._manager.name}: the transaction had failed before, so that "
                "PREPARE TRANSACTION rolled it back"
            )

    async def rollback(self) -> None:
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        try:
            await connection.execute("ROLLBACK")
        except BaseException as e:
            await self._manager.discard(connection)
            if not isinstance(e, psycopg.Error):
                raise
        else:
            self._manager.release(connection)


def _line(e: BaseException) -> str:
    """An error as one line."""
    return " ".join(str(e).split()) or type(e).__name__
