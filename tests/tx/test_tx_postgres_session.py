"""A user's session in PostgreSQL: what passes its one door, without a server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import psycopg
import pytest
from psycopg import pq

from wormspace.errors import UsageError
from wormspace.tx import postgres_session
from wormspace.tx.postgres_session import INTERVAL_S, Session, _guarded

IDLE, BUSY = pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS


class Generator:
    """What psycopg would run.

    Attributes:
        outcome: what it gives, or raises.
        closed: how often it was closed without being run.
    """

    def __init__(self, outcome: object = "rows") -> None:
        self.outcome, self.closed = outcome, 0
        self.ran: tuple[object, ...] = ()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def session(monkeypatch) -> Session:
    async def run(gen: Generator, *arguments: object, **options: object) -> object:
        gen.ran = (*arguments, options)
        await asyncio.sleep(0)
        if isinstance(gen.outcome, BaseException):
            raise gen.outcome
        return gen.outcome

    monkeypatch.setattr(postgres_session, "waiting", SimpleNamespace(wait_async=run))
    made = Session(pq.PGconn.connect(b"host=/nowhere"))
    made.manager = "a"
    made.pgconn = SimpleNamespace(socket=5, transaction_status=BUSY, status=pq.ConnStatus.OK)
    return made


async def test_a_statement_passes_and_its_connection_is_looked_at_as_psycopg_does(session) -> None:
    assert (session.over, session.lost, session.ended) == (False, False, False)
    gen = Generator()
    assert await session.wait(gen) == "rows"
    assert gen.ran == (5, INTERVAL_S, {})
    assert await session.wait(gen, 7.0, "more", too=1) == "rows"
    assert gen.ran == (5, 7.0, "more", {"too": 1})
    assert gen.closed == 0
    await session.let_go(30)  # nothing waits


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("over", "this transaction is over"),
        ("lost", "a statement was cancelled"),
        ("ended", "a statement of yours ended the transaction"),
    ],
)
async def test_after_its_end_nothing_passes(session, state: str, says: str) -> None:
    setattr(session, state, True)
    gen = Generator()
    with pytest.raises(UsageError, match=f"^a: {says}.*; begin another transaction$"):
        await session.wait(gen)
    assert (gen.ran, gen.closed) == ((), 1)


async def test_a_statement_that_is_cancelled_loses_the_work(session) -> None:
    with pytest.raises(asyncio.CancelledError):
        await session.wait(Generator(asyncio.CancelledError()))
    assert session.lost
    await session.let_go(30)


async def test_a_statement_that_fails_does_not(session) -> None:
    with pytest.raises(psycopg.OperationalError, match="x"):
        await session.wait(Generator(psycopg.OperationalError("x")))
    assert (session.lost, session.ended) == (False, False)


@pytest.mark.parametrize("outcome", ["rows", psycopg.OperationalError("x")])
async def test_one_under_way_when_the_block_ends_is_waited_for(session, outcome) -> None:
    statement = asyncio.ensure_future(session.wait(Generator(outcome)))
    await asyncio.sleep(0)
    session.over = True
    session.pgconn.transaction_status = IDLE
    await session.let_go(30)
    assert session._waiting.done()
    if outcome == "rows":
        assert await statement == "rows"
    else:
        with pytest.raises(UsageError, match=r"^a: this .* over.*; await each statement$"):
            await statement
    assert not session.ended


async def test_who_does_not_end_is_not_waited_for_longer_than_given(session) -> None:
    session._waiting = asyncio.get_running_loop().create_future()
    await session.let_go(0.001)
    assert not session._waiting.done()


async def test_a_statement_that_ended_the_transaction_is_an_error(session) -> None:
    session.pgconn.transaction_status = IDLE
    with pytest.raises(UsageError, match=r"^a: a statement of yours ended the transaction"):
        await session.wait(Generator())
    assert session.ended


REFUSED = "a: the block is the transaction"


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        *(("commit", ()), ("rollback", ()), ("close", ()), ("__aenter__", ())),
        *(("tpc_begin", ("x",)), ("tpc_prepare", ()), ("tpc_commit", ()), ("tpc_rollback", ())),
    ],
)
async def test_calls_that_end_the_transaction_are_refused(session, call: str, arguments) -> None:
    with pytest.raises(UsageError, match=REFUSED):
        await getattr(session, call)(*arguments)


class Cursor:
    """It notes what reaches it."""

    def __init__(self, connection: object) -> None:
        self.connection, self.reached = connection, []

    async def execute(self, *given: object, **named: object) -> str:
        self.reached.append((given, named))
        return "done"

    executemany = execute

    def stream(self, *given: object, **named: object) -> str:
        self.reached.append((given, named))
        return "done"

    copy = stream


async def call(cursor: Cursor, method: str, *given: object, **named: object) -> object:
    called = getattr(cursor, method)(*given, **named)
    return called if isinstance(called, str) else await called


@pytest.mark.parametrize("method", ["execute", "executemany", "stream", "copy"])
async def test_statements_of_any_cursor_are_looked_at_first(session, method: str) -> None:
    cursor = _guarded(Cursor)(session)
    for statement in ("COMMIT", b"SELECT 1; COMMIT", psycopg.sql.SQL("COMMIT")):
        with pytest.raises(UsageError, match="COMMIT was not sent"):
            await call(cursor, method, statement)
    assert cursor.reached == []
    for statement in ("SELECT 1", b"SELECT \xff", psycopg.sql.SQL("SELECT 1"), 5):
        assert await call(cursor, method, statement, "x", too=1) == "done"
        assert cursor.reached.pop() == ((statement, "x"), {"too": 1})


def test_a_class_of_cursors_is_guarded_once(session) -> None:
    guarded = _guarded(Cursor)
    assert issubclass(guarded, Cursor)
    assert guarded.__name__ == "Cursor"
    assert _guarded(Cursor) is _guarded(guarded) is guarded
    session.cursor_factory = session.server_cursor_factory = Cursor
    assert session.cursor_factory is session.server_cursor_factory is guarded
    other = psycopg.AsyncClientCursor
    session.cursor_factory = other
    assert session.cursor_factory is not guarded
    assert issubclass(session.cursor_factory, other)


def test_a_new_session_has_cursors_that_are_guarded(session) -> None:
    for factory in (session.cursor_factory, session.server_cursor_factory):
        assert _guarded(factory) is factory
