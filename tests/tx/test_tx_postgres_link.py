"""Statements on a connection to PostgreSQL, whose socket is real and whose server is made up."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace

import psycopg
import pytest
from psycopg import pq

from wormspace.tx import postgres_link
from wormspace.tx.errors import ManagerDown
from wormspace.tx.postgres_link import CANCEL_S, Link, is_lost, line

OK, IDLE, OFF = pq.ConnStatus.OK, pq.TransactionStatus.IDLE, pq.PipelineStatus.OFF


def result(sqlstate: str = "") -> SimpleNamespace:
    """What the server answers; an error, if it has a code."""
    return SimpleNamespace(
        status=pq.ExecStatus.FATAL_ERROR if sqlstate else pq.ExecStatus.COMMAND_OK,
        error_field=lambda _: sqlstate.encode(),
        get_error_message=lambda *_: "it\n says why",
    )


class PgConn:
    """libpq's connection.

    Attributes:
        answers: for each statement, its results.
        unsent: how often it must be flushed.
        late: how often there is something to read before the answer is there.
        reads: how often it was read.
    """

    def __init__(self, *answers: list[SimpleNamespace]) -> None:
        self.here, self.there = socket.socketpair()
        self.there.setblocking(False)
        self.socket = self.here.fileno()
        self.status, self.transaction_status, self.pipeline_status = OK, IDLE, OFF
        self.answers, self.sent = [*answers], []
        self.unsent = self.late = self.flushes = self.reads = self.finished = 0

    def send_query(self, statement: bytes) -> None:
        self.sent.append(statement.decode())

    def flush(self) -> int:
        self.flushes += 1
        self.unsent -= self.unsent > 0
        return self.unsent

    def is_busy(self) -> bool:
        return self.late > 0

    def consume_input(self) -> None:
        self.reads += 1
        self.late -= 1

    def get_result(self) -> SimpleNamespace | None:
        if not self.answers[0]:
            self.answers.pop(0)
            return None
        return self.answers[0].pop(0)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def pgconn():
    made = PgConn()
    yield made
    made.here.close()
    made.there.close()


def link(pgconn: PgConn, *answers: list[SimpleNamespace]) -> Link:
    pgconn.answers = [*answers]
    return Link("a", pgconn)  # type: ignore[arg-type]


def after(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_the_last_result_is_the_answer_when_all_is_sent_and_read(pgconn) -> None:
    last = result()
    made = link(pgconn, [result(), last])
    pgconn.unsent, pgconn.late = 3, 2
    pgconn.there.send(b"x")
    assert await made.run(b"SELECT 1", after(30)) is last
    assert pgconn.sent == ["SELECT 1"]
    assert (pgconn.flushes, pgconn.reads) == (3, 2)
    assert made.is_sound
    assert not asyncio.get_running_loop().remove_reader(pgconn.socket)
    assert not asyncio.get_running_loop().remove_writer(pgconn.socket)


async def test_what_the_server_refuses_is_its_error(pgconn) -> None:
    made = link(pgconn, [result("42P01")], [result()])
    with pytest.raises(psycopg.errors.UndefinedTable, match="says why"):
        await made.run(b"SELECT 1", after(30))
    assert made.is_sound
    await made.run(b"SELECT 1", after(30))


@pytest.mark.parametrize("code", ["57P01", "08006"])
async def test_a_server_that_ends_the_connection_is_down(pgconn, code: str) -> None:
    with pytest.raises(ManagerDown, match=r"^a: it says why$"):
        await link(pgconn, [result(code)]).run(b"SELECT 1", after(30))


@pytest.mark.parametrize("answer", [[], [result()]], ids=["nothing", "broken"])
async def test_a_connection_that_is_gone_is_told(pgconn, answer) -> None:
    made = link(pgconn, answer)
    if answer:
        pgconn.status = pq.ConnStatus.BAD
    with pytest.raises(ManagerDown, match=r"^a: the connection is gone$"):
        await made.run(b"SELECT 1", after(30))
    assert not made.given_up


async def test_a_server_that_does_not_answer_is_given_up(pgconn) -> None:
    made = link(pgconn, [result()])
    pgconn.late = 1
    with pytest.raises(ManagerDown, match=r"^a: PostgreSQL did not answer in time$"):
        await made.run(b"SELECT 1", after(0.01))
    assert made.given_up
    assert not made.is_sound


async def test_so_is_one_that_nobody_waits_for(pgconn) -> None:
    made = link(pgconn, [result()])
    pgconn.late = 1
    call = asyncio.ensure_future(made.run(b"SELECT 1", after(30)))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert made.given_up


async def test_the_answer_to_a_reset_is_looked_at_once_before_the_next_statement(pgconn) -> None:
    last = result()
    made = link(pgconn, [result()], [last], [result()])
    made.begin_reset()
    assert (pgconn.sent, pgconn.flushes) == (["DISCARD ALL"], 1)
    assert await made.run(b"BEGIN", after(30)) is last
    await made.run(b"SELECT 1", after(30))
    assert pgconn.sent == ["DISCARD ALL", "BEGIN", "SELECT 1"]
    assert pgconn.answers == []


async def test_where_there_is_no_session_as_new_nothing_is_sent(pgconn) -> None:
    made = link(pgconn, [result("42P01")])
    made.begin_reset()
    with pytest.raises(ManagerDown, match=r"^a: no session as new: it says why$"):
        await made.run(b"BEGIN", after(30))
    assert pgconn.sent == ["DISCARD ALL"]


@pytest.mark.parametrize(
    ("given_up", "status", "sound"),
    [(False, OK, True), (True, OK, False), (False, pq.ConnStatus.BAD, False)],
)
def test_a_connection_is_sound_unless_it_was_given_up_or_is_gone(
    pgconn, given_up, status, sound
) -> None:
    made = link(pgconn)
    assert (made.given_up, made.session) == (False, None)
    made.given_up, pgconn.status = given_up, status
    assert made.is_sound is sound


@pytest.mark.parametrize("status", list(pq.TransactionStatus))
def test_it_is_idle_in_no_transaction_and_quiet_unless_a_statement_runs(pgconn, status) -> None:
    made = link(pgconn)
    pgconn.transaction_status = status
    assert made.is_idle is (status == IDLE)
    assert made.is_quiet is (status != pq.TransactionStatus.ACTIVE)


async def test_it_is_quiet_when_the_users_session_is(pgconn) -> None:
    made = link(pgconn)
    made.session = SimpleNamespace(lock=asyncio.Lock())  # type: ignore[assignment]
    assert made.is_quiet
    await made.session.lock.acquire()
    assert not made.is_quiet
    made.session = None
    pgconn.pipeline_status = pq.PipelineStatus.ON
    assert not made.is_quiet


async def test_what_comes_when_nobody_waits_any_more_changes_nothing() -> None:
    loop = asyncio.get_running_loop()
    given_up, waiting = loop.create_future(), loop.create_future()
    given_up.cancel()
    for future in (given_up, waiting, waiting):
        postgres_link._set(future)
    assert given_up.cancelled()
    assert waiting.result() is None


def test_each_transaction_has_a_session_of_its_own() -> None:
    own = pq.PGconn.connect(b"host=/nowhere")
    made = Link("a", own)
    first, second = made.open_session(), made.open_session()
    assert first is not second is made.session
    assert (second.manager, second.pgconn) == ("a", own)


@pytest.mark.parametrize("problem", [None, psycopg.OperationalError("x"), OSError("x")])
async def test_who_waits_for_what_is_given_up_finds_the_connection_closed(
    pgconn, monkeypatch, problem
) -> None:
    done: list[object] = []

    class User:
        def __init__(self, own: object) -> None:
            assert own is pgconn

        async def cancel_safe(self, *, timeout: float) -> None:
            done.append(timeout)
            if problem is not None:
                raise problem

        async def let_go(self, timeout: float) -> None:
            assert pgconn.there.recv(1) == b"", "it is cut by now"
            done.append(timeout)

    monkeypatch.setattr(postgres_link, "Session", User)
    made = link(pgconn)
    made.session = User(pgconn)  # type: ignore[assignment]
    if problem is None:
        await made.cancel()
    else:
        with pytest.raises(type(problem)):
            await made.cancel()
    assert done == [CANCEL_S, CANCEL_S]
    made.close()
    assert pgconn.finished == 1
    made.session = None
    pgconn.socket = -1
    made._cut()  # it is gone already


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (psycopg.OperationalError("x"), True),
        *((psycopg.errors.lookup(code)("x"), True) for code in ("08006", "57P01", "57P03")),
        *((psycopg.errors.lookup(code)("x"), False) for code in ("57014", "53100", "42P01")),
        (psycopg.InterfaceError("x"), True),
        (OSError("x"), True),
        (psycopg.ProgrammingError("x"), False),
        (ValueError("x"), False),
    ],
)
def test_a_connection_that_is_gone_is_told_from_a_refusal(error: Exception, lost: bool) -> None:
    assert is_lost(error) is lost


@pytest.mark.parametrize(("error", "says"), [(OSError("a\n  b"), "a b"), (OSError(), "OSError")])
def test_an_error_is_one_line(error: Exception, says: str) -> None:
    assert line(error) == says
