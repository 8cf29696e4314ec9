"""Connections to a MariaDB server, whose calls block and so run in threads (PyMySQL).

A call that takes too long, or that nobody waits for any more, is cut: its connection is shut down,
which ends the thread at once, and the server is told to stop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec
import pymysql

from wormspace.errors import UsageError
from wormspace.runtime.deadlines import left, within
from wormspace.runtime.tasks import Tasks
from wormspace.tx.errors import ManagerDown
from wormspace.tx.places import Places

T = TypeVar("T")

CUT_S = 2.0

_RESET_CONNECTION = 0x1F
"""The protocol's COM_RESET_CONNECTION, which PyMySQL does not name."""

_LOST = (0, 2003, 2006, 2013, 2014, 1053, 1927)
"""Codes of PyMySQL and of the server that mean that the connection is gone."""

_KEEPALIVE = (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
_USER_TIMEOUT_MS = 10_000


class Rows(msgspec.Struct, frozen=True):
    """What a statement gave: its rows, and how many it found or changed."""

    rows: tuple[tuple[Any, ...], ...]
    count: int


def query(connection: Any, statement: str, arguments: Sequence[object] = ()) -> Rows:
    """Run a statement, in a thread."""
    with connection.cursor() as cursor:
        count = cursor.execute(statement, tuple(arguments) or None)
        return Rows(tuple(cursor.fetchall()), count)


class Lane:
    """Connections for one purpose, made when they are needed.

    Args:
        name: the participant's, for messages.
        options: as PyMySQL's `connect` takes them.
        size: how many there are at most.
        on_connect: looks at a new connection, in its thread; whether it may be used again; what it
            raises refuses it.
    """

    def __init__(
        self, name: str, options: dict[str, Any], size: int, on_connect: Callable[[Any], bool]
    ) -> None:
        self._name = name
        self._on_connect = on_connect
        self._options = options
        self._threads = ThreadPoolExecutor(size, thread_name_prefix=f"wormspace-{name}")
        self._places = Places(name, size)
        self._idle: list[Any] = []
        self._all: set[Any] = set()
        self._for_once: set[Any] = set()
        self._connecting: set[Any] = set()
        self._under_way: dict[Any, asyncio.Future[Any]] = {}
        self._tasks = Tasks(f"{name}: a connection")
        self._closed = False

    # ------------------------------------------------------------ calls

    async def call(self, connection: Any, work: Callable[[], T], deadline: float | None) -> T:
        """Work with a connection in a thread; it is dropped if that fails or is not waited for.

        Args:
            deadline: when it is given up; None: never.

        Raises:
            ManagerDown: the connection is gone, or the server did not answer in time.
            pymysql.Error: the server refuses.
        """
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        self._under_way[connection] = future
        future.add_done_callback(lambda _: self._under_way.pop(connection, None))
        try:
            await asyncio.wait([future], timeout=None if deadline is None else left(deadline))
        except asyncio.CancelledError:
            self._give_up(connection, future)
            raise
        if not future.done():
            self._give_up(connection, future)
            raise ManagerDown(f"{self._name}: MariaDB did not answer in time")
        try:
            return future.result()
        except (pymysql.Error, OSError) as e:
            self.drop(connection)
            if isinstance(e, pymysql.Error) and not is_lost(e):
                raise
            raise ManagerDown(f"{self._name}: {line(e)}") from e
        except BaseException:
            self.drop(connection)  # for instance: arguments that it cannot encode
            raise

    def give_up(self, connection: Any) -> bool:
        """End the call that is under way on a connection; whether there is one."""
        future = self._under_way.get(connection)
        if future is not None:
            self._give_up(connection, future)
        return future is not None

    def _give_up(self, connection: Any, future: asyncio.Future[Any]) -> None:
        """Nobody waits for this call any more: end its thread, and what the server does."""
        # The server ends by itself what asks only who it is.  And who is sent to end that would ask
        # the same first, and be given up as well: so nobody is.
        number = None if connection in self._connecting else _thread_id(connection)
        _cut(connection)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._tasks.spawn(self._stop(connection, number, future))

    async def _stop(self, connection: Any, number: int | None, future: asyncio.Future[Any]) -> None:
        await asyncio.wait([future], timeout=CUT_S)
        self.drop(connection)
        if number is None:
            return  # it was not used yet
        try:
            killer, _ = await self.run(f"KILL CONNECTION {number}", within(CUT_S))
        except (ManagerDown, pymysql.Error):
            return  # the server notices by itself that the connection is gone
        self.give_back(killer)

    async def run(self, statement: str, deadline: float) -> tuple[Any, Rows]:
        """Run a statement that may be repeated, for a connection that was idle may be dead.

        Returns:
            The connection it ran on, to be given back, and what it gave.

        Raises:
            ManagerDown: also on a fresh connection it does not work, or not in time.
            pymysql.Error: the server refuses.
        """
        while True:
            await self._places.take(deadline)
            fresh = not self._idle
            connection = await self._connect(deadline) if fresh else self._idle.pop()
            until = deadline if fresh else within(0.25 * left(deadline))
            try:
                rows = await self.call(connection, partial(query, connection, statement), until)
            except ManagerDown:
                if fresh:
                    raise
                self._drop_idle()
            else:
                return connection, rows

    async def _connect(self, deadline: float) -> Any:
        """A new connection, in the place that was taken."""
        try:
            if self._closed:
                raise ManagerDown(f"{self._name} was closed")
            connection = pymysql.Connection(**self._options, defer_connect=True)
        except (TypeError, ValueError) as e:
            self._places.release()
            raise UsageError(f"{self._name}: options that PyMySQL does not take: {e}") from e
        except BaseException:
            self._places.release()
            raise
        self._all.add(connection)
        self._connecting.add(connection)

        def connect() -> None:
            connection.connect()
            _notice_death(connection)
            if not self._on_connect(connection):
                self._for_once.add(connection)

        try:
            await self.call(connection, connect, deadline)
        except pymysql.Error as e:
            raise ManagerDown(f"{self._name}: {line(e)}") from e
        finally:
            self._connecting.discard(connection)
        return connection

    # ------------------------------------------------------------ after a transaction

    def give_back(self, connection: Any) -> None:
        """A connection that no user had, and that is in no transaction."""
        if self._closed or connection in self._for_once:
            self.drop(connection)
            return
        self._places.release()
        self._idle.append(connection)

    def renew(self, connection: Any, deadline: float) -> None:
        """A connection that a user had, and that is in no transaction: nothing of that stays."""
        self._tasks.spawn(self._renew(connection, deadline))

    async def _renew(self, connection: Any, deadline: float) -> None:
        try:
            await self.call(connection, lambda: _reset(connection), deadline)
        except (ManagerDown, pymysql.Error):
            return  # it was dropped
        self.give_back(connection)

    def drop(self, connection: Any) -> None:
        """Drop a connection; the server rolls back what it has not prepared."""
        if connection in self._all:
            self._all.discard(connection)
            self._for_once.discard(connection)
            self._places.release()
            _cut(connection)
            connection._force_close()

    def _drop_idle(self) -> None:
        """One that was idle is dead: so are the others, as a rule."""
        idle, self._idle = self._idle, []
        for connection in idle:
            self._all.discard(connection)
            connection._force_close()

    async def close(self) -> None:
        """Hang up; what is under way fails, and what is prepared stays so."""
        self._closed = True
        await self._tasks.wait()
        self._drop_idle()
        for connection in list(self._all):
            self.drop(connection)
        self._threads.shutdown(wait=False)


def is_lost(e: BaseException) -> bool:
    """Whether an error means that the connection is gone, rather than that the server refuses."""
    if not isinstance(e, pymysql.Error):
        return isinstance(e, OSError)
    return not e.args or e.args[0] in _LOST


def line(e: BaseException) -> str:
    """An error as one line."""
    return " ".join(str(a) for a in e.args) or type(e).__name__


def _thread_id(connection: Any) -> int | None:
    try:
        number = connection.thread_id()
    except (AttributeError, IndexError):
        return None  # the server has not said it yet
    return int(number)


def _cut(connection: Any) -> None:
    """End whatever blocks on the connection, in another thread."""
    sock = connection._sock
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is gone already


def _notice_death(connection: Any) -> None:
    """A server whose host is gone is noticed in seconds."""
    sock = connection._sock
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = [*_KEEPALIVE, ("TCP_USER_TIMEOUT", _USER_TIMEOUT_MS)]
    for name, value in options:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _reset(connection: Any) -> None:
    """A session as new: variables, temporary tables, prepared statements, user's locks.

    Raises:
        pymysql.Error: the connection is gone; or a database was chosen, and there was none before.
    """
    connection._execute_command(_RESET_CONNECTION, b"")
    connection._read_ok_packet()
    if connection.db is not None:  # the protocol's reset leaves the database that was chosen
        connection.select_db(connection.db)
    elif query(connection, "SELECT DATABASE()").rows != ((None,),):
        raise pymysql.ProgrammingError("a chosen database cannot be taken back")
    connection.set_character_set(connection.charset, connection.collation)
    if connection.sql_mode is not None:
        query(connection, "SET sql_mode=%s", (connection.sql_mode,))
    if connection.init_command is not None:
        query(connection, connection.init_command)
    query(connection, "SET autocommit=1")
