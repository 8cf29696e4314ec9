"""A user's session and a branch in MariaDB, on a connection that is made up."""

from __future__ import annotations

import asyncio

import pymysql
import pytest
from tests.tx.pieces import gid

from wormspace.errors import UsageError
from wormspace.tx.errors import CannotPrepare, Conflict, ManagerDown
from wormspace.tx.mariadb import MariaDb, MariaDbBranch, MariaDbSession, xid
from wormspace.tx.mariadb_lane import Rows

DENIED = pymysql.OperationalError(1142, "denied")


class Connection:
    """It notes its statements, and raises `problem` at the one called `bad`."""

    def __init__(self) -> None:
        self.ran: list[object] = []
        self.bad, self.problem = "", DENIED

    def cursor(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute(self, statement: str, arguments: object) -> int:
        self.ran.append((statement, arguments))
        if statement.startswith(self.bad or "\0"):
            raise self.problem
        return 1

    def fetchall(self):
        return [("row",)]


class Lane:
    """It makes each call at once.

    Attributes:
        after: awaited before each answer comes.
        busy: whether it is told that a call is under way.
    """

    def __init__(self) -> None:
        self.deadlines: list[float | None] = []
        self.renewed: list[object] = []
        self.busy = False
        self.after: asyncio.Event | None = None

    async def call(self, connection, work, deadline: float | None) -> object:
        self.deadlines.append(deadline)
        if self.after is not None:
            await self.after.wait()
        return work()

    def give_up(self, connection) -> bool:
        return self.busy

    def renew(self, connection, deadline: float) -> None:
        self.renewed.append(connection)


def session() -> tuple[MariaDbSession, Lane, Connection]:
    lane, connection = Lane(), Connection()
    return MariaDbSession(lane, connection, "a"), lane, connection  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statement", "arguments", "says"),
    [
        (5, (), "a statement is text, not int"),
        (b"SELECT 1", (), "a statement is text, not bytes"),
        ("SELECT 1", "abc", "a list or tuple, not str"),
        ("SELECT 1", b"abc", "a list or tuple, not bytes"),
        ("SELECT 1", 5, "a list or tuple, not int"),
        ("SELECT 1", {1}, "a list or tuple, not set"),
        ("XA END 'x'", (), "was not sent"),
    ],
)
async def test_what_makes_no_sense_is_not_sent_and_the_work_goes_on(statement, arguments, says):
    made, _, connection = session()
    with pytest.raises(UsageError, match=says):
        await made.execute(statement, arguments)
    assert connection.ran == []
    assert await made.execute("SELECT %s", [1]) == Rows((("row",),), 1)
    assert await made.execute("SELECT 1") == Rows((("row",),), 1)
    assert connection.ran == [("SELECT %s", (1,)), ("SELECT 1", None)]


async def test_a_statement_may_take_as_long_as_its_user_waits() -> None:
    made, lane, _ = session()
    await made.execute("SELECT 1")
    assert lane.deadlines == [None]


async def test_after_a_statement_that_failed_the_work_is_lost() -> None:
    made, _, connection = session()
    connection.bad = "SELECT 1"
    with pytest.raises(pymysql.OperationalError, match="denied"):
        await made.execute("SELECT 1")
    for _ in range(2):
        with pytest.raises(CannotPrepare, match=r"^a: the work is lost: a statement before failed"):
            await made.execute("SELECT 2")
    assert made.end() is None
    assert len(connection.ran) == 1


async def test_when_it_is_over_nothing_is_sent() -> None:
    made, _, connection = session()
    assert made.end() is connection
    assert made.end() is None
    with pytest.raises(UsageError, match=r"^a: this .* is over, .*; begin another transaction$"):
        await made.execute("SELECT 1")
    assert connection.ran == []


@pytest.mark.parametrize(
    ("problem", "kind"),
    [(DENIED, UsageError), (ManagerDown("x"), UsageError), (KeyError(), KeyError)],
)
async def test_a_block_that_ends_while_a_statement_runs_loses_the_work(problem, kind) -> None:
    made, lane, connection = session()
    lane.busy, lane.after = True, asyncio.Event()
    connection.bad, connection.problem = "SELECT", problem
    running = asyncio.ensure_future(made.execute("SELECT 1"))
    await asyncio.sleep(0)
    assert made.end() is None
    lane.after.set()
    with pytest.raises(kind) as caught:
        await running
    assert kind is KeyError or "over, and its session with it; await each" in str(caught.value)


async def test_of_tasks_that_share_it_one_waits_for_the_other() -> None:
    made, lane, connection = session()
    lane.after = asyncio.Event()
    both = asyncio.gather(made.execute("SELECT 1"), made.execute("SELECT 2"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(lane.deadlines) == 1
    lane.after.set()
    await both
    assert [statement for statement, _ in connection.ran] == ["SELECT 1", "SELECT 2"]


# ---------------------------------------------------------------- a branch


def branch() -> tuple[MariaDbBranch, MariaDb, Lane, Connection]:
    manager, lane, connection = MariaDb("a", "mysql://h", timeout=8.0), Lane(), Connection()
    return MariaDbBranch(manager, lane, connection, gid()), manager, lane, connection


def said(*commands: str) -> list[object]:
    return [(f"{command} {xid(gid())}", None) for command in commands]


def timely(lane: Lane) -> bool:
    """Whether its calls may take the eight seconds of the manager."""
    now = asyncio.get_running_loop().time()
    return all(6 < deadline - now <= 8 for deadline in lane.deadlines)


async def test_a_branch_is_prepared_once_and_keeps_its_connection() -> None:
    made, manager, lane, connection = branch()
    await made.prepare()
    assert connection.ran == said("XA END", "XA PREPARE")
    assert manager._holding == {gid(): connection}
    assert len(lane.deadlines) == 1
    assert timely(lane)
    with pytest.raises(CannotPrepare, match=r"^a: the work is lost"):
        await made.prepare()
    await made.rollback()
    assert (len(connection.ran), lane.renewed) == (2, [])


@pytest.mark.parametrize(
    ("problem", "kind", "says"),
    [
        (pymysql.OperationalError(1213, "deadlock"), Conflict, "^a: 1213 deadlock$"),
        (DENIED, CannotPrepare, "^a: 1142 denied$"),
        (ManagerDown("gone"), ManagerDown, "^gone$"),
    ],
)
async def test_what_prepare_raises_says_whether_to_run_it_again(problem, kind, says) -> None:
    made, manager, _, connection = branch()
    connection.bad, connection.problem = "XA PREPARE", problem
    with pytest.raises(kind, match=says):
        await made.prepare()
    assert manager._holding == {}


async def test_a_branch_is_rolled_back_once_and_its_connection_is_as_new() -> None:
    made, manager, lane, connection = branch()
    for _ in range(2):
        await made.rollback()
    assert connection.ran == said("XA END", "XA ROLLBACK")
    assert lane.renewed == [connection]
    assert timely(lane)
    assert manager._holding == {}


@pytest.mark.parametrize("problem", [DENIED, ManagerDown("gone"), KeyError()])
async def test_a_rollback_that_fails_is_left_to_the_server(problem) -> None:
    made, _, lane, connection = branch()
    connection.bad, connection.problem = "XA END", problem
    if isinstance(problem, KeyError):
        with pytest.raises(KeyError):
            await made.rollback()
    else:
        await made.rollback()
    assert (lane.renewed, connection.ran) == ([], said("XA END"))
