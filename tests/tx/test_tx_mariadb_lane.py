"""Connections to MariaDB, made up: when each is made, used again, cut and dropped."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from types import SimpleNamespace

import pymysql
import pytest

from wormspace.errors import UsageError
from wormspace.tx import mariadb_lane
from wormspace.tx.errors import ManagerDown
from wormspace.tx.mariadb_lane import Lane, Rows, is_lost, line, query

SOON_S, LATE_S = 0.02, 30.0
LOST = pymysql.OperationalError(2013, "lost")
DENIED = pymysql.OperationalError(1142, "denied")


class Socket:
    """What a connection writes to; whoever waits for the server ends when it is shut down."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.shut = threading.Event()
        self.options: list[tuple[int, int, int]] = []

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_RDWR
        self.shut.set()

    def setsockopt(self, *option: int) -> None:
        self.options.append(option)  # type: ignore[arg-type]


class Connection:
    """A connection that notes what is asked of it.

    Attributes:
        answer: what the next statement gives, if it is not None, or raises; HANGS: neither.
    """

    db, charset, collation, sql_mode, init_command = "bank", "utf8", "c", None, None

    def __init__(self, number: int = 7) -> None:
        self.ran: list[object] = []
        self.answer: object = None
        self.number, self.closed = number, 0
        self._sock: Socket | None = None

    def connect(self) -> None:
        self._sock = Socket()
        self.ran.append("connect")

    def thread_id(self) -> int:
        return self.number

    def cursor(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute(self, statement: str, arguments: object) -> int:
        self.ran.append(statement if arguments is None else (statement, arguments))
        answer, self.answer = self.answer, None
        if answer is HANGS:
            self._sock.shut.wait(LATE_S)
            raise LOST
        if isinstance(answer, Exception):
            raise answer
        self.rows = answer or []
        return len(self.rows)

    def fetchall(self):
        return self.rows

    def _force_close(self) -> None:
        self.closed += 1

    def _execute_command(self, command: int, data: bytes) -> None:
        self.ran.append((command, data))

    def _read_ok_packet(self) -> None:
        self.ran.append("ok")

    def select_db(self, name: str) -> None:
        self.ran.append(f"USE {name}")

    def set_character_set(self, *names: str) -> None:
        self.ran.append(names)


HANGS = object()


class Server:
    """Where connections lead.

    Attributes:
        made: the connections.
        answers: what the first statements of the next ones give or raise.
        refuses: what a new connection raises when it is looked at.
        is_known: whether a new connection may be used again.
    """

    def __init__(self) -> None:
        self.made: list[Connection] = []
        self.answers: list[object] = []
        self.refuses: Exception | None = None
        self.is_known = True
        self.looked_at: list[Connection] = []

    def connection(self, **options: object) -> Connection:
        assert options == {"user": "u", "defer_connect": True}
        self.made.append(made := Connection(len(self.made)))
        made.answer = self.answers.pop(0) if self.answers else None
        return made

    def look_at(self, connection: Connection) -> bool:
        assert connection._sock.options, "a server that dies would not be noticed"
        self.looked_at.append(connection)
        if self.refuses is not None:
            raise self.refuses
        return self.is_known

    def lane(self, size: int) -> Lane:
        return Lane("a", {"user": "u"}, size, self.look_at)


@pytest.fixture
def server(monkeypatch) -> Server:
    made = Server()
    monkeypatch.setattr(pymysql, "Connection", made.connection)
    return made


def after(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def free(lane: Lane) -> int:
    """How many more connections there may be."""
    return lane._places._free._value


async def settled(lane: Lane) -> None:
    """When nothing goes on in the background."""
    while lane._tasks:
        await asyncio.wait(lane._tasks)
        await asyncio.sleep(0)


def test_a_query_gives_its_rows_and_their_number() -> None:
    connection = Connection()
    connection.answer = [(1,), (2,)]
    assert query(connection, "SELECT") == Rows(((1,), (2,)), 2)
    assert query(connection, "SELECT %s", [5]) == Rows((), 0)
    assert connection.ran == ["SELECT", ("SELECT %s", (5,))]


# ---------------------------------------------------------------- running a statement


async def test_a_connection_is_looked_at_once_and_used_again(server) -> None:
    lane = server.lane(2)
    for _ in range(3):
        connection, rows = await lane.run("X", after(LATE_S))
        assert (rows, free(lane)) == (Rows((), 0), 1)
        lane.give_back(connection)
        assert free(lane) == 2
    [only] = server.made
    assert server.looked_at == [only]
    assert only.ran == ["connect", "X", "X", "X"]
    await lane.close()
    assert only.closed == 1
    with pytest.raises(ManagerDown, match=r"^a was closed$"):
        await lane.run("X", after(LATE_S))
    assert free(lane) == 2
    with pytest.raises(RuntimeError, match="shutdown"):
        lane._threads.submit(print)


async def test_a_connection_that_was_idle_has_a_quarter_of_the_time(server) -> None:
    lane, given = server.lane(1), []
    call = lane.call

    async def noted(connection: Connection, work: object, deadline: float) -> Rows:
        given.append(round(deadline - asyncio.get_running_loop().time(), -3))
        return await call(connection, work, deadline)

    lane.call = noted
    for _ in range(2):
        connection, _ = await lane.run("X", after(8000))
        lane.give_back(connection)
    assert given == [8000, 8000, 2000]
    await lane.close()


async def test_of_connections_that_died_while_idle_all_are_dropped_and_a_fresh_one_is_asked(
    server,
) -> None:
    lane = server.lane(3)
    held = [(await lane.run("X", after(LATE_S)))[0] for _ in range(3)]
    for connection in held:
        lane.give_back(connection)
        connection.answer = LOST
    fresh, _ = await lane.run("Y", after(LATE_S))
    assert fresh is server.made[3]
    assert [one.closed for one in server.made] == [1, 1, 1, 0]
    assert (free(lane), lane._all) == (2, {fresh})
    await lane.close()
    assert fresh.closed == 1


async def test_what_the_server_refuses_on_an_idle_connection_is_not_asked_again(server) -> None:
    lane = server.lane(2)
    held = [(await lane.run("X", after(LATE_S)))[0] for _ in range(2)]
    for connection in held:
        lane.give_back(connection)
    held[1].answer = DENIED
    with pytest.raises(pymysql.OperationalError, match="denied"):
        await lane.run("Y", after(LATE_S))
    assert [one.closed for one in held] == [0, 1]
    assert (await lane.run("Z", after(LATE_S)))[0] is held[0]
    await lane.close()


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (LOST, ManagerDown, "^a: 2013 lost$"),
        (OSError("no route"), ManagerDown, "^a: no route$"),
        (DENIED, pymysql.OperationalError, "denied"),
        (UnicodeError("what"), UnicodeError, "what"),
    ],
)
async def test_what_fails_on_a_fresh_connection_drops_it(server, raised, kind, says) -> None:
    lane = server.lane(1)
    for _ in range(2):
        server.answers = [raised]
        with pytest.raises(kind, match=says):
            await lane.run("X", after(LATE_S))
        assert (free(lane), server.made[-1].closed, lane._all) == (1, 1, set())
    await lane.close()


@pytest.mark.parametrize("refused", [DENIED, LOST, ManagerDown("a: 1142 denied")])
async def test_one_that_is_refused_when_it_is_looked_at_is_dropped(server, refused) -> None:
    lane = server.lane(1)
    server.refuses = refused
    with pytest.raises(ManagerDown, match=r"^a: \d{4} (denied|lost)$"):
        await lane.run("X", after(LATE_S))
    assert (free(lane), server.made[0].closed) == (1, 1)
    assert server.made[0].ran == ["connect"]
    await lane.close()


async def test_one_that_leads_to_nobody_knows_whom_is_used_once(server) -> None:
    lane = server.lane(1)
    server.is_known = False
    for number in (1, 2):
        connection, _ = await lane.run("X", after(LATE_S))
        lane.give_back(connection)
        assert (free(lane), len(server.made), server.made[-1].closed) == (1, number, 1)
    assert not lane._for_once
    await lane.close()


async def test_options_that_pymysql_does_not_take_are_told_and_leave_the_place_free() -> None:
    for wrong in ({"nonsense": 1}, {"unix_socket": "/s", "port": "x"}):
        lane = Lane("a", wrong, 1, print)
        for _ in range(2):
            with pytest.raises(UsageError, match=r"^a: options that PyMySQL does not take"):
                await lane.run("X", after(LATE_S))
        assert free(lane) == 1
        await lane.close()


# ---------------------------------------------------------------- giving up


async def hanging(server: Server, lane: Lane, deadline: float | None):
    """A connection and the call of a statement that the server does not answer."""
    connection, _ = await lane.run("X", after(LATE_S))
    connection.answer = HANGS
    call = asyncio.ensure_future(
        lane.call(connection, lambda: query(connection, "SLEEP"), deadline and after(deadline))
    )
    while "SLEEP" not in connection.ran:  # noqa: ASYNC110 - a thread has no event
        await asyncio.sleep(0.001)
    return connection, call


@pytest.mark.parametrize("how", ["late", "cancelled", "given up"])
async def test_a_call_that_nobody_waits_for_is_cut_and_the_server_told(server, how: str) -> None:
    lane, complaints = server.lane(2), []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(said))
    connection, call = await hanging(server, lane, SOON_S if how == "late" else None)
    if how == "late":
        with pytest.raises(ManagerDown, match=r"^a: MariaDB did not answer in time$"):
            await call
    elif how == "cancelled":
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    else:
        assert lane.give_up(connection)
        with pytest.raises(ManagerDown, match="2013 lost"):
            await call
    await settled(lane)
    assert connection._sock.shut.is_set()
    assert not lane.give_up(connection), "nothing is under way any more"
    killer = server.made[1]
    assert (connection.closed, killer.closed) == (1, 0)
    assert killer.ran == ["connect", "KILL CONNECTION 0"]
    assert (free(lane), lane._idle, lane._all) == (2, [killer], {killer})
    await lane.close()
    del call
    gc.collect()
    assert complaints == [], "nobody is told of what nobody waits for"


@pytest.mark.parametrize("answer", [DENIED, LOST])
async def test_a_server_that_cannot_be_told_notices_by_itself(server, answer) -> None:
    lane = server.lane(2)
    _, call = await hanging(server, lane, SOON_S)
    server.answers = [answer]
    with pytest.raises(ManagerDown):
        await call
    await settled(lane)
    assert (free(lane), lane._all) == (2, set())
    await lane.close()


async def test_one_that_was_never_connected_is_not_told_of(server, monkeypatch) -> None:
    monkeypatch.setattr(Connection, "thread_id", lambda self: self.greeting[0])
    lane = server.lane(2)
    _, call = await hanging(server, lane, SOON_S)
    with pytest.raises(ManagerDown):
        await call
    await settled(lane)
    assert (len(server.made), free(lane)) == (1, 2)
    await lane.close()


@pytest.mark.parametrize(("raised", "expected"), [(AttributeError, None), (IndexError, None)])
def test_a_number_that_was_not_said_is_none(raised, expected) -> None:
    def number() -> str:
        if raised is not None:
            raise raised
        return "7"

    assert mariadb_lane._thread_id(SimpleNamespace(thread_id=number)) is expected
    raised = None
    assert mariadb_lane._thread_id(SimpleNamespace(thread_id=number)) == 7


def test_what_is_gone_already_need_not_be_cut() -> None:
    def gone(_: int) -> None:
        raise OSError

    for sock in (None, SimpleNamespace(shutdown=gone)):
        mariadb_lane._cut(SimpleNamespace(_sock=sock))


# ---------------------------------------------------------------- after a transaction


async def test_a_connection_is_dropped_once(server) -> None:
    lane = server.lane(2)
    connection, _ = await lane.run("X", after(LATE_S))
    for _ in range(2):
        lane.drop(connection)
        assert (free(lane), connection.closed) == (2, 1)
    assert connection._sock.shut.is_set()
    await lane.close()


async def test_what_is_renewed_is_used_again_and_what_cannot_be_is_dropped(server) -> None:
    lane = server.lane(1)
    first, _ = await lane.run("X", after(LATE_S))
    lane.renew(first, after(LATE_S))
    assert free(lane) == 0
    await settled(lane)
    assert (free(lane), lane._idle) == (1, [first])
    assert first.ran[-1] == "SET autocommit=1"
    again, _ = await lane.run("Y", after(LATE_S))
    for answer in (LOST, DENIED):
        again.answer = answer
        lane.renew(again, after(LATE_S))
        await settled(lane)
        assert (free(lane), lane._idle, again.closed) == (1, [], 1)
        again, _ = await lane.run("Z", after(LATE_S))
    await lane.close()


async def test_when_a_lane_is_closed_what_is_in_use_is_dropped_and_what_goes_on_ends(
    server,
) -> None:
    lane = server.lane(3)
    held = [(await lane.run("X", after(LATE_S)))[0] for _ in range(3)]
    lane.give_back(held[0])
    lane.renew(held[1], after(LATE_S))
    await lane.close()
    assert not lane._tasks, "it waits for them"
    assert [one.closed for one in held] == [1, 1, 1]
    assert lane._all == set()
    late = server.lane(1)
    connection, _ = await late.run("X", after(LATE_S))
    late._closed = True
    late.give_back(connection)
    assert (connection.closed, late._idle, free(late)) == (1, [], 1)
    await late.close()


# ---------------------------------------------------------------- a session as new


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["USE bank", ("utf8", "c")]),
        ({"db": None, "answer": [(None,)]}, ["SELECT DATABASE()", ("utf8", "c")]),
        ({"db": ""}, ["USE ", ("utf8", "c")]),
        ({"sql_mode": "M"}, ["USE bank", ("utf8", "c"), ("SET sql_mode=%s", ("M",))]),
        ({"init_command": "DO 1"}, ["USE bank", ("utf8", "c"), "DO 1"]),
    ],
)
def test_a_session_is_as_new(given: dict[str, object], expected: list[object]) -> None:
    connection = Connection()
    for name, value in given.items():
        setattr(connection, name, value)
    mariadb_lane._reset(connection)
    assert connection.ran == [(0x1F, b""), "ok", *expected, "SET autocommit=1"]


def test_where_a_database_cannot_be_taken_back_the_session_is_not() -> None:
    connection = Connection()
    connection.db, connection.answer = None, [("chosen",)]
    with pytest.raises(pymysql.ProgrammingError, match="cannot be taken back"):
        mariadb_lane._reset(connection)


def test_a_server_whose_host_is_gone_is_noticed() -> None:
    sock = Socket()
    mariadb_lane._notice_death(SimpleNamespace(_sock=sock))
    assert sock.options == [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000),
    ]
    local = Socket()
    local.family = socket.AF_UNIX
    mariadb_lane._notice_death(SimpleNamespace(_sock=local))
    assert local.options == []


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        *((pymysql.OperationalError(code, "x"), True) for code in mariadb_lane._LOST),
        (pymysql.OperationalError(), True),
        (OSError(), True),
        (DENIED, False),
        (ValueError(2013), False),
    ],
)
def test_a_connection_that_is_gone_is_told_from_a_refusal(error: Exception, lost: bool) -> None:
    assert is_lost(error) == lost


@pytest.mark.parametrize(("error", "says"), [(LOST, "2013 lost"), (OSError(), "OSError")])
def test_an_error_is_one_line(error: Exception, says: str) -> None:
    assert line(error) == says
