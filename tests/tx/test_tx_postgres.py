"""What a PostgreSQL participant asks of its connections, which are made up: no server is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import psycopg
import pytest
from psycopg import conninfo
from tests.tx.pieces import gid

from wormspace.errors import UsageError
from wormspace.knobs import turned
from wormspace.sim import World
from wormspace.tx import postgres
from wormspace.tx.errors import CannotPrepare, Conflict, ManagerDown, NoIdentity, WrongManager
from wormspace.tx.postgres import Postgres

NAMED = (1, "its identity")


def error(sqlstate: str) -> psycopg.Error:
    return psycopg.errors.lookup(sqlstate)("it\n says why")


DOWN = ManagerDown("gone")


class Link:
    """A connection that notes what is asked of it.

    Attributes:
        ran: each statement, with the seconds that it may take.
        answer: what the next statement gives or raises, if it is not None.
    """

    def __init__(self) -> None:
        self.ran: list[tuple[str, float]] = []
        self.answer: object = None
        self.given_up, self.is_sound, self.is_quiet, self.is_idle = False, True, True, False
        self.closed = self.cancelled = self.resets = 0
        self.problem: Exception | None = None
        self.user = SimpleNamespace(over=False, lost=False, ended=False)

    def open_session(self) -> SimpleNamespace:
        return self.user

    def literal(self, text: str) -> bytes:
        return f"'{text}'".encode()

    async def run(self, statement: bytes, deadline: float) -> object:
        self.ran.append((statement.decode(), deadline - asyncio.get_running_loop().time()))
        answer, self.answer = self.answer, None
        if isinstance(answer, BaseException):
            raise answer
        return answer or SimpleNamespace(command_status=statement.partition(b" '")[0])

    def begin_reset(self) -> None:
        self.resets += 1
        if self.problem is not None:
            raise self.problem

    async def cancel(self) -> None:
        await asyncio.sleep(1)
        self.cancelled += 1
        if self.problem is not None:
            raise self.problem

    def close(self) -> None:
        self.closed += 1


class Server:
    """Where connections lead.

    Attributes:
        made: the connections.
        answers: what the first statements of the next ones give or raise.
        problem, hangs: what connecting raises; whether it takes for ever.
        identity, makes: what it says; what it says when it was given one. Or what that raises.
    """

    def __init__(self) -> None:
        self.made: list[Link] = []
        self.answers: list[object] = []
        self.problem: BaseException | None = None
        self.hangs = False
        self.identity: object = NAMED
        self.makes: object = NAMED

    async def connect(self, manager: str, info: str) -> Link:
        assert (manager, conninfo.conninfo_to_dict(info)["host"]) == ("a", "h")
        if self.hangs:
            await asyncio.sleep(1e6)
        if self.problem is not None:
            raise self.problem
        self.made.append(link := Link())
        link.answer = self.answers.pop(0) if self.answers else None
        return link

    async def find(self, link: Link, manager: str, deadline: float) -> object:
        assert (link, manager) == (self.made[-1], "a")
        if isinstance(self.identity, Exception):
            raise self.identity
        return self.identity

    async def make(self, link: Link, manager: str, deadline: float) -> object:
        assert (link, manager) == (self.made[-1], "a")
        if isinstance(self.makes, BaseException):
            raise self.makes
        return self.makes


@pytest.fixture
def server(monkeypatch) -> Server:
    made = Server()
    monkeypatch.setattr(postgres, "Link", made)
    monkeypatch.setattr(postgres, "find", made.find)
    monkeypatch.setattr(postgres, "make", made.make)
    return made


def virtually(work: Callable):
    """What `work(manager)` returns, of a participant with one connection for each purpose."""
    with World(0) as world:

        async def main():
            return await work(Postgres("a", "host=h", pool=1, timeout=8.0))

        return world.run(main())


def said(link: Link) -> list[str]:
    return [statement for statement, _ in link.ran]


def counts(link: Link) -> tuple[int, int, int]:
    """How often it was made as new, stopped and closed."""
    return link.resets, link.cancelled, link.closed


@pytest.mark.parametrize(
    ("info", "says"), [(5, "text, not int"), (b"host=h", "not bytes"), ("host", "of PostgreSQL")]
)
def test_what_is_no_connection_string_is_refused(info, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Postgres("a", info)


def test_a_server_that_died_is_noticed_unless_the_user_says_how() -> None:
    given = conninfo.conninfo_to_dict(postgres._complete("host=h keepalives_idle=77"))
    assert given == {
        "host": "h", "keepalives_idle": "77", "connect_timeout": "5", "keepalives_interval": "2",
        "keepalives_count": "3", "tcp_user_timeout": "10000",
    }  # fmt: skip


@pytest.mark.parametrize(("pool", "ends"), [(1, 1), (4, 1), (5, 2), (32, 8)])
def test_a_quarter_as_many_connections_end_what_is_prepared(pool: int, ends: int) -> None:
    with turned(tx_pool=pool):
        for made in (Postgres("a", "host=h"), Postgres("a", "host=h", pool=pool)):
            assert (made._work._places._size, made._ends._places._size) == (pool, ends)
            assert made.timeout == postgres.TIMEOUT_S


@pytest.mark.parametrize(
    ("raised", "conflict"),
    [
        *((error(code), True) for code in postgres.CONFLICTS),
        (error("42P01"), False),
        (psycopg.OperationalError("gone"), False),
        (ValueError("40001"), False),
    ],
)
def test_a_lock_and_a_deadlock_are_conflicts(raised: Exception, conflict: bool) -> None:
    assert Postgres("a", "host=h").is_conflict(raised) == conflict


@pytest.mark.parametrize(("timeout", "given"), [(None, 8.0), (3.0, 3.0), (20.0, 8.0)])
def test_its_identity_and_a_beginning_take_no_longer_than_allowed(server, timeout, given) -> None:
    async def work(manager: Postgres) -> None:
        for _ in range(3):
            assert await manager.identity(timeout) == NAMED[1]
        branch = await manager.begin(gid(), timeout)
        assert branch.session is server.made[1].user

    virtually(work)
    assert [link.ran for link in server.made] == [[("SELECT", given)], [("BEGIN", given)]]
    assert [counts(link) for link in server.made] == [(0, 0, 0)] * 2


def test_what_is_prepared_is_ended_on_the_other_connections(server) -> None:
    async def work(manager: Postgres) -> None:
        for _ in range(2):
            await manager.commit(gid())
            await manager.abort(gid())
        server.made[0].answer = error("42704")  # there is no such transaction: it is over
        await manager.commit(gid())
        await manager.commit(gid())
        server.made[1].answer = error("55000")
        with pytest.raises(ManagerDown, match=r"^a: it says why$"):
            await manager.abort(gid())
        await manager.abort(gid())

    virtually(work)
    first, second, third = server.made
    commit, abort = (f"{what} PREPARED '{gid()}'" for what in ("COMMIT", "ROLLBACK"))
    assert said(first) == [commit, abort, commit, abort, commit]
    assert (said(second), said(third)) == ([commit, abort], [abort])
    assert [counts(link) for link in server.made] == [(0, 0, 1), (0, 0, 1), (0, 0, 0)]
    assert {seconds for _, seconds in (first.ran[0], second.ran[0])} == {8.0}


def test_what_is_prepared_there_is_listed_of_its_own(server) -> None:
    rows = [[str(gid()).encode()], [None], [b"another's \xff"], [str(gid("b")).encode()]]
    listed = SimpleNamespace(ntuples=len(rows), get_value=lambda row, column: rows[row][column])

    async def work(manager: Postgres) -> None:
        for _ in range(2):
            server.answers = [listed]
            for link in server.made:
                link.answer = listed
            assert await manager.prepared() == [gid()]

    virtually(work)
    [link] = server.made
    assert "current_database()" in said(link)[0]
    assert [seconds for _, seconds in link.ran] == [8.0, 0.25 * 8.0]


# ---------------------------------------------------------------- a branch


def branch(work: Callable) -> None:
    """Run `work(branch, link)`; then the one place for a connection is free again."""

    async def run(manager: Postgres) -> None:
        begun = await manager.begin(gid())
        await work(begun, begun._link)
        await asyncio.sleep(5)
        await manager.begin(gid())

    virtually(run)


def test_a_branch_is_prepared_once_and_its_connection_is_as_new(server) -> None:
    async def work(begun, link: Link) -> None:
        await begun.prepare()
        assert link.ran[1] == (f"PREPARE TRANSACTION '{gid()}'", 8.0)
        assert (link.user.over, counts(link)) == (True, (1, 0, 0))
        with pytest.raises(CannotPrepare, match="a: the work was rolled back"):
            await begun.prepare()
        with pytest.raises(UsageError, match="this transaction is over"):
            _ = begun.session
        await begun.rollback()
        assert len(link.ran) == 2

    branch(work)


def test_a_prepare_that_rolled_back_is_a_no(server) -> None:
    async def work(begun, link: Link) -> None:
        link.answer = SimpleNamespace(command_status=b"ROLLBACK")
        with pytest.raises(CannotPrepare, match="rolled it back"):
            await begun.prepare()
        assert counts(link) == (1, 0, 0)

    branch(work)


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (error("40001"), Conflict, "^a: it says why$"),
        (error("55000"), CannotPrepare, "^a: it says why; set max_prepared_transactions to at"),
        (error("53200"), CannotPrepare, "^a: it says why; set max_prepared_transactions to at"),
        (error("42P01"), CannotPrepare, "^a: it says why$"),
        (ManagerDown("gone"), ManagerDown, "^gone$"),
        (asyncio.CancelledError(), asyncio.CancelledError, "^$"),
    ],
)
def test_what_prepare_raises_says_what_to_do(server, raised, kind, says: str) -> None:
    async def work(begun, link: Link) -> None:
        link.answer = raised
        with pytest.raises(kind, match=says):
            await begun.prepare()
        assert counts(link) == (0, 0, 1)

    branch(work)


@pytest.mark.parametrize(
    ("lost", "ended", "quiet", "says"),
    [
        (True, False, True, "lost or ended"),
        (False, True, True, "lost or ended"),
        (False, False, False, "still under way"),
    ],
)
def test_work_that_a_statement_lost_is_not_prepared(server, lost, ended, quiet, says) -> None:
    async def work(begun, link: Link) -> None:
        link.user.lost, link.user.ended, link.is_quiet = lost, ended, quiet
        with pytest.raises(CannotPrepare, match=f"^a: .*{says}"):
            await begun.prepare()
        assert said(link) == ["BEGIN"]
        assert link.given_up == (lost or not quiet)
        await asyncio.sleep(2)
        assert counts(link) == (0, int(link.given_up), 1)

    branch(work)


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("sound", [False, True])
def test_a_branch_is_rolled_back_where_that_is_known_to_work(server, sound, quiet, idle) -> None:
    async def work(begun, link: Link) -> None:
        link.is_sound, link.is_quiet, link.is_idle = sound, quiet, idle
        run = link.run

        async def rolls_back(statement: bytes, deadline: float) -> object:
            link.is_idle = True
            return await run(statement, deadline)

        link.run = rolls_back
        await begun.rollback()
        sent = sound and quiet and not idle
        assert link.ran[1:] == ([("ROLLBACK", 8.0)] if sent else [])
        kept = sound and (sent or idle)
        await asyncio.sleep(2)
        assert (link.resets, link.closed) == ((1, 0) if kept else (0, 1))
        await begun.rollback()
        assert len(link.ran) == 1 + sent

    branch(work)


@pytest.mark.parametrize("raised", [DOWN, error("42P01"), asyncio.CancelledError(), KeyError()])
def test_a_rollback_that_fails_is_left_to_the_server(server, raised) -> None:
    async def work(begun, link: Link) -> None:
        link.answer = raised
        if isinstance(raised, ManagerDown | psycopg.Error):
            await begun.rollback()
        else:
            with pytest.raises(type(raised)):
                await begun.rollback()
        assert counts(link) == (0, 0, 1)

    branch(work)


# ---------------------------------------------------------------- its connections


def test_of_connections_that_died_while_idle_all_are_dropped_and_a_fresh_one_is_asked(
    server,
) -> None:
    async def work(manager: Postgres) -> None:
        lane = postgres._Lane(manager, "host=h", 3)
        until = asyncio.get_running_loop().time() + 8
        links = [(await lane.run(b"X", until))[0] for _ in range(3)]
        for link in links:
            lane.give_back(link)
            link.answer = ManagerDown("dead")
        link, _ = await lane.run(b"Y", until)
        assert link is server.made[3]
        assert [counts(one)[2] for one in server.made] == [1, 1, 1, 0]
        assert [said(one) for one in server.made] == [["X"], ["X"], ["X", "Y"], ["Y"]]
        for _ in range(2):
            await lane.run(b"Z", until)
        with pytest.raises(ManagerDown, match="all 3 connections"):
            await lane.run(b"Z", until)

    virtually(work)


def test_what_the_server_refuses_on_an_idle_connection_is_not_asked_again(server) -> None:
    async def work(manager: Postgres) -> None:
        lane = postgres._Lane(manager, "host=h", 2)
        until = asyncio.get_running_loop().time() + 8
        links = [(await lane.run(b"X", until))[0] for _ in range(2)]
        for link in links:
            lane.give_back(link)
        links[1].answer = error("42P01")
        with pytest.raises(psycopg.Error):
            await lane.run(b"Y", until)
        assert [counts(one)[2] for one in links] == [0, 1]
        assert (await lane.run(b"Z", until))[0] is links[0]

    virtually(work)


@pytest.mark.parametrize("raised", [DOWN, error("42P01")])
def test_what_fails_on_a_fresh_connection_fails(server, raised) -> None:
    async def work(manager: Postgres) -> None:
        for _ in range(2):
            server.answers = [raised]
            with pytest.raises(type(raised)):
                await manager.begin(gid())
        assert [counts(one) for one in server.made] == [(0, 0, 1)] * 2

    virtually(work)


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (psycopg.OperationalError("no\n host"), ManagerDown, "^a: no host$"),
        (OSError(5, "no route"), ManagerDown, "no route"),
        (psycopg.OperationalError(), ManagerDown, "^a: no connection in time$"),
        (psycopg.ProgrammingError("x"), psycopg.ProgrammingError, "^x$"),
        (asyncio.CancelledError(), asyncio.CancelledError, "^$"),
    ],
)
def test_where_no_connection_is_made_its_place_is_free(server, raised, kind, says) -> None:
    async def work(manager: Postgres) -> None:
        for _ in range(2):
            server.problem = raised
            with pytest.raises(kind, match=says):
                await manager.begin(gid())
        server.problem = None
        await manager.begin(gid())

    virtually(work)


def test_connecting_takes_no_longer_than_the_deadline(server) -> None:
    async def work(manager: Postgres) -> float:
        server.hangs, began = True, asyncio.get_running_loop().time()
        with pytest.raises(ManagerDown, match="no connection in time"):
            await manager.begin(gid())
        return asyncio.get_running_loop().time() - began

    assert virtually(work) == pytest.approx(8.0)


def test_a_connection_that_leads_elsewhere_is_closed_and_its_place_is_free(server) -> None:
    async def work(manager: Postgres) -> None:
        assert await manager.identity() == NAMED[1]
        for found, kind in (((1, "another"), WrongManager), (ManagerDown("x"), ManagerDown)):
            server.identity = found
            with pytest.raises(kind):
                await manager.begin(gid())
            assert (server.made[-1].ran, counts(server.made[-1])) == ([], (0, 0, 1))

    virtually(work)


def test_one_without_an_identity_is_given_one_and_its_connection_is_not_kept(server) -> None:
    async def work(manager: Postgres) -> None:
        server.identity = None
        with pytest.raises(NoIdentity, match=r"^a: .* identity is x, .*VALUES \('x'\)"):
            await manager.identity(meant="x")
        server.makes = asyncio.CancelledError()
        with pytest.raises(asyncio.CancelledError):
            await manager.identity()
        assert manager.database.known == ""
        server.makes = NAMED
        for _ in range(2):
            assert await manager.identity() == NAMED[1]
        assert [counts(link)[2] for link in server.made] == [1, 1, 1]

    virtually(work)


@pytest.mark.parametrize("problem", [None, psycopg.OperationalError("x"), OSError("x")])
def test_what_is_given_up_is_stopped_and_its_place_is_free_then(server, problem) -> None:
    async def work(manager: Postgres) -> None:
        await manager.begin(gid())
        [link] = server.made
        link.given_up, link.problem = True, problem
        manager._work.drop(link)
        [stopping] = manager._work._tasks
        assert counts(link) == (0, 0, 0)
        began = asyncio.get_running_loop().time()
        await manager.begin(gid())
        assert counts(link) == (0, 1, 1)
        assert asyncio.get_running_loop().time() - began == pytest.approx(1.0)
        await asyncio.sleep(0)
        assert not manager._work._tasks
        assert stopping.exception() is None

    virtually(work)


def test_a_connection_that_cannot_be_made_as_new_is_dropped(server) -> None:
    async def work(begun, link: Link) -> None:
        link.problem = psycopg.OperationalError("x")
        await begun.prepare()
        assert counts(link) == (1, 0, 1)

    branch(work)
    assert len(server.made) == 2


def test_when_it_is_closed_connections_are_too_those_in_use_when_they_come_back(server) -> None:
    async def work(manager: Postgres) -> None:
        await manager.identity()
        begun = await manager.begin(gid())
        idle, in_use = server.made
        await manager.close()
        assert (counts(in_use)[2], counts(idle)[2]) == (0, 1)
        await begun.prepare()
        assert counts(in_use) == (1, 0, 1)
        for _ in range(2):
            with pytest.raises(ManagerDown, match=r"^a was closed$"):
                await manager.begin(gid())

    virtually(work)


def test_closing_waits_for_what_is_stopped(server) -> None:
    async def work(manager: Postgres) -> None:
        await manager.begin(gid())
        [link] = server.made
        link.given_up = True
        manager._work.drop(link)
        await manager.close()
        assert counts(link) == (0, 1, 1)

    virtually(work)
