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

from wormspace.errors import UsageError
from wormspace.tx.statements import refuse_control

if TYPE_CHECKING:
    from psycopg.abc import PQGen

T = TypeVar("T")

_IDLE = pq.TransactionStatus.IDLE

INTERVAL_S = 0.1
"""How often the state of a connection is looked at while nothing comes from it, as in psycopg."""


class Session(psycopg.AsyncConnection[Any]):
    """The user's connection in one transaction.

    Attributes:
        manager: the name of the participant.
        over: whether the transaction is over, or its end has begun.
        lost: whether a statement was given up, so that nobody knows what the server does.
        ended: whether a statement of the user's ended the transaction.
    """

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        super().__init__(pgconn)
        self.manager = ""
        self.over = False
        self.lost = False
        self.ended = False
        self._waiting: asyncio.Future[None] | None = None

    def __del__(self, *_: Any) -> None:
        """The connection to the server belongs to the pool, and outlives this object."""

    # ------------------------------------------------------------ the one door of all statements

    async def wait(
        self, gen: PQGen[T], interval: float = INTERVAL_S, *args: Any, **options: Any
    ) -> T:
        """Every statement of every cursor passes here; see psycopg.

        Raises:
            UsageError: the transaction is over, or this very statement ended it.
        """
        if self.over or self.lost or self.ended:
            gen.close()
            raise UsageError(f"{self.manager}: {self._state()}; begin another transaction")
        self._waiting = waiting_here = asyncio.get_running_loop().create_future()
        try:
            result: T = await waiting.wait_async(
                gen, self.pgconn.socket, interval, *args, **options
            )
        except asyncio.CancelledError:
            self.lost = True
            raise
        except psycopg.Error as e:
            if self.over:
                raise UsageError(f"{self.manager}: {self._state()}; await each statement") from e
            raise
        finally:
            waiting_here.set_result(None)
        if self.is_idle and not self.over:
            self.ended = True
            raise UsageError(f"{self.manager}: {self._state()}")
        return result

    @property
    def is_idle(self) -> bool:
        """Whether the server is in no transaction here."""
        return self.pgconn.transaction_status == _IDLE

    async def let_go(self, timeout: float) -> None:
        """Wait until no statement waits for the server here any more."""
        if self._waiting is not None:
            await asyncio.wait([self._waiting], timeout=timeout)

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

    def copy(self, statement: Any, *args: Any, **options: Any) -> Any:
        self._look(statement)
        return super().copy(statement, *args, **options)  # type: ignore[misc]

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
