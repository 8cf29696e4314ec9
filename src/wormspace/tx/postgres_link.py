"""A connection to a PostgreSQL server, as its manager uses it: for statements of its own.

They go straight to libpq, for a cursor would cost more than the statement.  In a transaction, the
user's session (see `postgres_session`) works on the same connection; it is made anew for each
transaction, and neither of the two uses the connection before the other has done.
"""

from __future__ import annotations

import asyncio
import socket

import psycopg
from psycopg import pq

from wormspace.tx.errors import ManagerDown
from wormspace.tx.postgres_session import Session

CANCEL_S = 2.0

_IDLE, _ACTIVE = pq.TransactionStatus.IDLE, pq.TransactionStatus.ACTIVE
_RESET = b"DISCARD ALL"
"""What a user may leave in a session, in one statement; it must be alone in its transaction."""


class Link:
    """A connection to a server, for the manager's own statements.

    Attributes:
        given_up: whether a statement was given up, so that nobody knows what the server does.
        is_known: whether it leads to a database that says who it is.
        session: the user's, of the transaction that runs here or ran here last.
    """

    def __init__(self, manager: str, pgconn: pq.abc.PGconn) -> None:
        self.given_up = False
        self.is_known = False
        self.session: Session | None = None
        self._manager = manager
        self._pgconn = pgconn
        self._resetting = False

    @classmethod
    async def connect(cls, manager: str, conninfo: str) -> Link:
        """A new connection.

        Raises:
            psycopg.OperationalError, OSError: there is none.
        """
        return cls(manager, (await Session.connect(conninfo)).pgconn)

    def open_session(self) -> Session:
        """A session for the user, as new."""
        self.session = Session(self._pgconn)
        self.session.manager = self._manager
        return self.session

    @property
    def is_sound(self) -> bool:
        """Whether the connection may be used again, once it is in no transaction."""
        return not self.given_up and self._pgconn.status != pq.ConnStatus.BAD

    @property
    def is_idle(self) -> bool:
        """Whether the server is in no transaction here."""
        return self._pgconn.transaction_status == _IDLE

    @property
    def is_quiet(self) -> bool:
        """Whether no statement of the user's is under way."""
        is_held = self.session is not None and self.session.lock.locked()
        is_active = self._pgconn.transaction_status == _ACTIVE
        return not (is_held or is_active or self._pgconn.pipeline_status != pq.PipelineStatus.OFF)

    def literal(self, text: str) -> bytes:
        """The text as a literal in SQL."""
        return pq.Escaping(self._pgconn).escape_literal(text.encode())

    async def run(self, statement: bytes, deadline: float) -> pq.abc.PGresult:
        """Run one statement.

        Raises:
            ManagerDown: the server did not answer in time, or the connection is gone.
            psycopg.Error: the server refuses.
        """
        try:
            async with asyncio.timeout_at(deadline):
                if self._resetting:
                    await self._end_reset()
                self._pgconn.send_query(statement)
                return await self._result()
        except TimeoutError as e:
            self.given_up = True
            raise ManagerDown(f"{self._manager}: PostgreSQL did not answer in time") from e
        except asyncio.CancelledError:
            self.given_up = True
            raise
        except (psycopg.Error, OSError) as e:
            if is_lost(e):
                raise ManagerDown(f"{self._manager}: {line(e)}") from e
            raise

    def begin_reset(self) -> None:
        """Send what makes the session as new; its answer is looked at before the next statement.

        Raises:
            psycopg.Error: the connection is gone.
        """
        self._pgconn.send_query(_RESET)
        self._pgconn.flush()
        self._resetting = True

    async def _end_reset(self) -> None:
        try:
            await self._result()
        except psycopg.Error as e:
            raise ManagerDown(f"{self._manager}: no session as new: {line(e)}") from e
        self._resetting = False

    async def _result(self) -> pq.abc.PGresult:
        """What the server answers to the statement that was sent."""
        pgconn = self._pgconn
        while pgconn.flush():
            await _ready(pgconn.socket, writing=True)
        last = None
        while True:
            while pgconn.is_busy():
                await _ready(pgconn.socket)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                break
            last = result
        if last is None or pgconn.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError("the connection is gone")
        if last.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(last)
        return last

    # ------------------------------------------------------------ the end

    async def cancel(self) -> None:
        """Tell the server to stop what it does here, and end what waits for it here.

        Raises:
            psycopg.Error, OSError: the server does not answer; it notices by itself.
        """
        try:
            async with asyncio.timeout(CANCEL_S):
                await Session(self._pgconn).cancel_safe(timeout=CANCEL_S)
        finally:
            self._cut()
            if self.session is not None:
                await self.session.let_go(CANCEL_S)

    def _cut(self) -> None:
        """Let whoever waits for the server find the connection closed."""
        try:
            with socket.fromfd(self._pgconn.socket, socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.shutdown(socket.SHUT_RDWR)
        except (psycopg.Error, OSError):
            pass  # it is gone already

    def close(self) -> None:
        """Hang up; the server rolls back what it has not prepared."""
        self._pgconn.finish()


async def _ready(fd: int, *, writing: bool = False) -> None:
    """Wait until a socket can be read, or written."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    add, remove = (
        (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    )
    add(fd, _set, future)
    try:
        await future
    finally:
        remove(fd)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def is_lost(e: BaseException) -> bool:
    """Whether an error means that the connection is gone, rather than that the server refuses."""
    if isinstance(e, psycopg.OperationalError):
        return e.sqlstate is None or e.sqlstate.startswith(("08", "57P"))
    return isinstance(e, psycopg.InterfaceError | OSError)


def line(e: BaseException) -> str:
    """An error as one line."""
    return " ".join(str(e).split()) or type(e).__name__
