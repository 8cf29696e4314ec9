"""MariaDB (10.5 or later) as a resource manager: XA transactions (PyMySQL; extra `mysql`).

A prepared XA transaction belongs to the connection that prepared it, and no other can finish it,
until that connection ends; from then on any can.  So the branch keeps its connection until it is
over, and whoever else is told that there is no such transaction looks whether it is still listed.

Transactions work on connections of one lane, which they may fill while they wait for each other's
rows.  What lists and ends prepared ones has a lane, and threads, of its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql

from wormspace.errors import UsageError
from wormspace.knobs import KNOBS
from wormspace.runtime.closing import Closing
from wormspace.runtime.deadlines import within
from wormspace.tx.checking import check_count, check_seconds
from wormspace.tx.database_identity import DatabaseIdentity, nameless
from wormspace.tx.errors import CannotPrepare, Conflict, ManagerDown
from wormspace.tx.mariadb_identity import find, make, statements
from wormspace.tx.mariadb_lane import Lane, Rows, line, query
from wormspace.tx.names import MARK, Gid, branches_of, check_name
from wormspace.tx.statements import refuse_control

TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5

CONFLICTS = (1205, 1213)
"""A lock that was not to be had in time, and a deadlock: running it again may succeed."""

_UNKNOWN_XID = 1397

_FIRST_HALF = re.compile(r"([A-Za-z0-9_.]{1,20}):([A-Za-z0-9_.]{1,20}-\d{1,18})")


def xid(gid: Gid) -> str:
    """A gid as XA writes it: the transaction, and which of its branches."""
    mark = f"{MARK}:{gid.identity}" if gid.identity else "worm"
    return f"'{gid.space}:{gid.id}','{mark}:{gid.manager}'"


def parse_xid(transaction: str, branch: str) -> str:
    """The gid of the two halves, as a text; "" if they are none of ours."""
    match = _FIRST_HALF.fullmatch(transaction)
    mark, colon, manager = branch.rpartition(":")
    if match is None or not colon or not mark.startswith("worm"):
        return ""
    return f"{mark}:{match[1]}:{manager}:{match[2]}"


class MariaDb(Closing):
    """One MariaDB server.

    XA transactions are the server's, not the database's: give it one name, not one per database.

    Args:
        name: the same wherever this server takes part, and no other's.
        url: `mysql://USER:PASSWORD@HOST:PORT/DATABASE`; `?unix_socket=PATH` for a local one.
        pool: transactions that work here at a time (default 32); each has a connection.  A quarter
            as many connections more, at least one, list and end what is prepared.
        timeout: seconds that connecting, or any one statement of the manager's own, may take.

    Raises:
        UsageError: one of these makes no sense.
    """

    def __init__(
        self, name: str, url: str, *, pool: int | None = None, timeout: float = TIMEOUT_S
    ) -> None:
        self.name = check_name(name)
        self.timeout = check_seconds("a timeout", timeout)
        size = KNOBS.tx_pool if pool is None else check_count("a pool", pool)
        options = _options(url)
        self._server = DatabaseIdentity(name)
        self._work = Lane(name, options, size, self._recognise)
        self._ends = Lane(name, options, (size + 3) // 4, self._recognise)
        self._holding: dict[Gid, Any] = {}

    def _recognise(self, connection: Any) -> bool:
        """A new connection, in its thread."""
        return self._server.recognise(find(connection, self.name))

    def __repr__(self) -> str:
        return f"<MariaDb {self.name!r}>"

    async def identity(self, timeout: float | None = None, *, meant: str = "") -> str:
        server, deadline = self._server, self._within(timeout)
        if not server.known:
            connection, _ = await self._ends.run("DO 0", deadline)
            if not server.known and meant:
                self._ends.drop(connection)
                raise nameless(self.name, meant, "; ".join(statements(meant)))
            if not server.known:
                await self._make(connection, deadline)
            self._ends.give_back(connection)
        return server.known

    async def _make(self, connection: Any, deadline: float) -> None:
        def work() -> None:
            self._server.recognise(make(connection, self.name))

        try:
            await self._ends.call(connection, work, deadline)
        except pymysql.Error as e:
            raise ManagerDown(f"{self.name}: {line(e)}") from e

    def _within(self, timeout: float | None) -> float:
        return within(min(self.timeout, timeout or self.timeout))

    async def begin(self, gid: Gid, timeout: float | None = None) -> MariaDbBranch:
        deadline = self._within(timeout)
        connection, _ = await self._work.run(f"XA START {xid(gid)}", deadline)
        return MariaDbBranch(self, self._work, connection, gid)

    async def commit(self, gid: Gid) -> None:
        await self._end("XA COMMIT", gid)

    async def abort(self, gid: Gid) -> None:
        await self._end("XA ROLLBACK", gid)

    async def prepared(self) -> list[Gid]:
        held = list(self._holding)
        try:
            connection, listed = await self._ends.run("XA RECOVER", within(self.timeout))
        except pymysql.Error as e:  # for instance: it lacks the right to
            raise ManagerDown(f"{self.name}: {line(e)}") from e
        self._ends.give_back(connection)
        texts = []
        for _, first, second, data in listed.rows:
            text = data.decode(errors="replace") if isinstance(data, bytes) else str(data)
            texts.append(parse_xid(text[:first], text[first : first + second]))
        found = branches_of(self.name, texts)
        for gid in held:
            if gid not in found and (over := self._holding.pop(gid, None)) is not None:
                self._work.drop(over)  # somebody else has ended it, by hand
        return found

    async def close(self) -> None:
        self._holding.clear()
        await self._work.close()
        await self._ends.close()

    def is_conflict(self, error: BaseException) -> bool:
        return isinstance(error, pymysql.Error) and error.args[:1] in [(c,) for c in CONFLICTS]

    def hold(self, gid: Gid, connection: Any) -> None:
        """This connection has the prepared branch."""
        self._holding[gid] = connection

    async def _end(self, command: str, gid: Gid) -> None:
        statement = f"{command} {xid(gid)}"
        deadline = within(self.timeout)
        connection = self._holding.pop(gid, None)
        if connection is not None:
            try:
                await self._work.call(connection, lambda: query(connection, statement), deadline)
            except (ManagerDown, pymysql.Error):
                pass  # that connection is gone now, so any other can do it
            else:
                self._work.renew(connection, within(self.timeout))
                return
        try:
            other, _ = await self._ends.run(statement, deadline)
        except pymysql.Error as e:
            if e.args[0] != _UNKNOWN_XID:
                raise ManagerDown(f"{self.name}: {line(e)}") from e
            if gid in await self.prepared():
                raise ManagerDown(
                    f"{self.name}: the connection that prepared {gid} still has it"
                ) from e
        else:
            self._ends.give_back(other)


class MariaDbSession:
    """What users of a MariaDB participant work with, in one transaction."""

    def __init__(self, lane: Lane, connection: Any, name: str) -> None:
        self._lane = lane
        self._name = name
        self._is_over = False
        self._turn = asyncio.Lock()
        self.connection: Any = connection

    async def execute(self, statement: str, arguments: Sequence[object] = ()) -> Rows:
        """Run a statement, with `%s` for each argument; one after the other, if several tasks do.

        Raises:
            UsageError: it is no text, or would begin or end the transaction, or the transaction is
                over: nothing was sent; or its block ended while the statement ran.
            CannotPrepare: an earlier statement failed, and the work was lost with it.
            ManagerDown: the connection is gone, and the work with it.
            pymysql.Error: the server refuses; the work is lost.
        """
        if not isinstance(statement, str):
            raise UsageError(f"a statement is text, not {type(statement).__name__}")
        if isinstance(arguments, str | bytes) or not isinstance(arguments, Sequence):
            raise UsageError(f"arguments are a list or tuple, not {type(arguments).__name__}")
        refuse_control(statement, mariadb=True)
        async with self._turn:
            connection = self._require()
            try:
                return await self._lane.call(
                    connection, lambda: query(connection, statement, arguments), None
                )
            except BaseException as e:
                self.connection = None
                if self._is_over and isinstance(e, ManagerDown | pymysql.Error):
                    raise UsageError(f"{self._over}; await each statement") from e
                raise

    def _require(self) -> Any:
        if self._is_over:
            raise UsageError(f"{self._over}; begin another transaction")
        if self.connection is None:
            raise CannotPrepare(f"{self._name}: the work is lost: a statement before failed")
        return self.connection

    @property
    def _over(self) -> str:
        return f"{self._name}: this transaction is over, and its session with it"

    def end(self) -> Any:
        """Take the connection from the user; None if the work is lost, or over already.

        It is lost if a statement is still under way, which nobody has awaited: it may be in or
        not, and two answers on one connection would be taken for each other's.
        """
        connection, self.connection = self.connection, None
        self._is_over = True
        if connection is not None and self._lane.give_up(connection):
            return None
        return connection


class MariaDbBranch:
    """One transaction's work in one MariaDB server."""

    def __init__(self, manager: MariaDb, lane: Lane, connection: Any, gid: Gid) -> None:
        self._manager = manager
        self._lane = lane
        self._gid = gid
        self.session = MariaDbSession(lane, connection, manager.name)

    async def prepare(self) -> None:
        connection, name = self.session.end(), self._manager.name
        if connection is None:
            raise CannotPrepare(
                f"{name}: the work is lost: a statement failed, was cancelled, or was still under "
                "way when the block ended: await each"
            )
        try:
            await self._both("XA END", "XA PREPARE", connection)
        except pymysql.Error as e:
            kind = Conflict if self._manager.is_conflict(e) else CannotPrepare
            raise kind(f"{name}: {line(e)}") from e
        self._manager.hold(self._gid, connection)

    async def rollback(self) -> None:
        connection = self.session.end()
        if connection is None:
            return
        try:
            await self._both("XA END", "XA ROLLBACK", connection)
        except (ManagerDown, pymysql.Error):
            return  # the connection is gone, and the server rolls back
        self._lane.renew(connection, within(self._manager.timeout))

    async def _both(self, first: str, second: str, connection: Any) -> None:
        name = xid(self._gid)

        def work() -> None:
            query(connection, f"{first} {name}")
            query(connection, f"{second} {name}")

        await self._lane.call(connection, work, within(self._manager.timeout))


def _options(url: str) -> dict[str, Any]:
    """What PyMySQL is told.

    Raises:
        UsageError.
    """
    form = "mysql://USER:PASSWORD@HOST:PORT/DATABASE"
    if not isinstance(url, str):
        raise UsageError(f"a URL is text, {form}, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        port = parts.port or 3306
    except ValueError as e:
        raise UsageError(f"the URL is not {form}: {e}") from e
    if parts.scheme not in ("mysql", "mariadb"):
        raise UsageError(f"the URL is not {form}")
    given = {k: int(v) if v.isdecimal() else v for k, v in parse_qsl(parts.query)}
    options: dict[str, Any] = {
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": parts.path.lstrip("/") or None,
        "connect_timeout": CONNECT_TIMEOUT_S,
        **given,
        "autocommit": True,
    }
    if "unix_socket" not in options:
        options["host"] = parts.hostname or "127.0.0.1"
        options["port"] = port
    return options
