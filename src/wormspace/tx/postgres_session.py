"""What users of a PostgreSQL participant work with: psycopg's connection, for one transaction.

The connection to the server is kept and used again, but this object is made anew for every
transaction, so nothing that is set on it (row factories, adapters, handlers) outlives it.  It
refuses what would begin or end the transaction: calls and statements alike, before they are sent.
After the transaction, every use of it is refused.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import psycopg
from psycopg import pq, sql, waiting
from psycopg.rows import tuple_row

from wormspace.errors import UsageError
from wormspace.tx.errors import ManagerDown
from wormspace.tx.statements import refuse_control

if TYPE_CHECKING:
    from psycopg.abc import PQGen

T = TypeVar("T")

_IDLE = pq.TransactionStatus.IDLE

INTERVAL_S = 0.1
"""How often the state of a connection is looked at while nothing comes from it, as in psycopg."""

OWN, USERS, OVER = "the manager's own", "its user's", "over"


class Session(psycopg.AsyncConnection[Any]):
    """See the module.

    Attributes:
        manager: the name of the participant.
        whose: who may use it now: OWN, USERS, or nobody, for it is OVER.
        lost: whether a statement was given up, so that nobody knows what the server does.
        ended: whether a statement of the user's ended the transaction.
    """

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        super().__init__(pgconn)
        self.manager = ""
        self.whose = OWN
        self.lost = False
        self.ended = False

    def __del__(self, *_: Any) -> None:
        """The connection to the server belongs to the pool, and outlives this object."""

    # ------------------------------------------------------------ the manager's own use

    async def run(
        self, statement: sql.SQL | sql.Composed, deadline: float
    ) -> psycopg.AsyncCursor[tuple[Any, ...]]:
        """A statement of the manager's own, on a cursor that no setting of the user's reaches.

        Raises:
            ManagerDown: the server did not answer in time, or the connection is gone.
            psycopg.Error: the server refuses.
        """
        cursor = psycopg.AsyncCursor(self, row_factory=tuple_row)
        try:
            async with asyncio.timeout_at(deadline):
                await cursor.execute(statement)
        except TimeoutError as e:
            raise ManagerDown(f"{self.manager}: PostgreSQL did not answer in time") from e
        except (psycopg.Error, OSError) as e:
            if is_lost(e):
                raise ManagerDown(f"{self.manager}: {line(e)}") from e
            raise
        return cursor

    @property
    def is_sound(self) -> bool:
        """Whether the connection may be used again, once it is in no transaction."""
        return not self.lost and not self.closed and not self.broken

    @property
    def is_idle(self) -> bool:
        """Whether the server is in no transaction on this connection."""
        return self.pgconn.transaction_status == _IDLE

    # ------------------------------------------------------------ the one door of all statements

    async def wait(
        self, gen: PQGen[T], interval: float = INTERVAL_S, *args: Any, **options: Any
    ) -> T:
        """Every statement of every cursor passes here; see psycopg.

        Raises:
            UsageError: the transaction is over, or this very statement ended it.
        """
        if self.whose == OVER or self.lost or self.ended:
            gen.close()
            raise UsageError(f"{self.manager}: {self._state()}; begin another transaction")
        try:
            result: T = await waiting.wait_async(
                gen, self.pgconn.socket, interval, *args, **options
            )
        except asyncio.CancelledError:
            self.lost = True
            raise
        if self.whose == USERS and self.is_idle:
            self.ended = True
            raise UsageError(f"{self.manager}: {self._state()}")
        return result

    def _state(self) -> str:
        if self.ended:
            return (
                "a statement of yours ended the transaction here: what it did at this participant "
                "took effect or not by that statement alone, and the other participants roll back"
            )
        if self.lost:
            return "a statement was cancelled, and with it the work at this participant is lost"
        return "this transaction is over, and its session with it"

    @property
    def cursor_factory(self) -> Any:
        """As psycopg's; whatever class it is, its statements are looked at."""
        return self._cursor_factory

    @cursor_factory.setter
    def cursor_factory(self, factory: Any) -> None:
        self._cursor_factory = _guarded(factory)

    @property
    def server_cursor_factory(self) -> Any:
        """As `cursor_factory`."""
        return self._server_cursor_factory

    @server_cursor_factory.setter
    def server_cursor_factory(self, factory: Any) -> None:
        self._server_cursor_factory = _guarded(factory)

    # ------------------------------------------------------------ refused

    def _refuse(self) -> NoReturn:
        raise UsageError(
            f"{self.manager}: the block is the transaction.  Leave it to commit, raise an "
            "exception in it to roll back; `async with session.transaction()` makes a savepoint"
        )

    async def commit(self) -> None:
        self._refuse()

    async def rollback(self) -> None:
        self._refuse()

    async def close(self) -> None:
        self._refuse()

    async def __aenter__(self) -> NoReturn:
        self._refuse()

    async def tpc_begin(self, xid: Any) -> None:
        self._refuse()

    async def tpc_prepare(self) -> None:
        self._refuse()

    async def tpc_commit(self, xid: Any = None) -> None:
        self._refuse()

    async def tpc_rollback(self, xid: Any = None) -> None:
        self._refuse()


class _Guard:
    """A cursor that does not begin or end transactions."""

    async def execute(self, query: Any, *args: Any, **options: Any) -> Any:
        self._look(query)
        return await super().execute(query, *args, **options)  # type: ignore[misc]

    async def executemany(self, query: Any, *args: Any, **options: Any) -> Any:
        self._look(query)
        return await super().executemany(query, *args, **options)  # type: ignore[misc]

    def stream(self, query: Any, *args: Any, **options: Any) -> Any:
        self._look(query)
        return super().stream(query, *args, **options)  # type: ignore[misc]

    def _look(self, query: Any) -> None:
        if isinstance(query, sql.Composable):
            query = query.as_string(self.connection)  # type: ignore[attr-defined]
        if isinstance(query, bytes):
            query = query.decode(errors="replace")
        if isinstance(query, str):
            refuse_control(query)


_guards: dict[type, type] = {}


def _guarded(factory: type) -> type:
    """The same class of cursor, with a guard; the same answer each time."""
    if issubclass(factory, _Guard):
        return factory
    if factory not in _guards:
        _guards[factory] = type(factory.__name__, (_Guard, factory), {})
    return _guards[factory]


def is_lost(e: BaseException) -> bool:
    """Whether an error means that the connection is gone, rather than that the server refuses."""
    if isinstance(e, psycopg.OperationalError):
        return e.sqlstate is None or e.sqlstate.startswith(("08", "57P"))
    return isinstance(e, psycopg.InterfaceError | OSError)


def line(e: BaseException) -> str:
    """An error as one line."""
    return " ".join(str(e).split()) or type(e).__name__
