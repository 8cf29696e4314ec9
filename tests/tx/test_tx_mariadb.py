"""What a MariaDB participant asks of its connections, which are made up: no server is needed."""

from __future__ import annotations

import pymysql
import pytest
from tests.tx.pieces import gid

from wormspace.errors import UsageError
from wormspace.knobs import turned
from wormspace.tx.errors import ManagerDown, NoIdentity
from wormspace.tx.mariadb import MariaDb, parse_xid, xid
from wormspace.tx.mariadb_lane import Rows
from wormspace.tx.names import Gid, TxId

URL = "mysql://u:p%20w@h:33/db"


class Lane:
    """Connections that note what is asked of them.

    Attributes:
        answers: what the next statements give, or raise.
    """

    def __init__(self) -> None:
        self.asked: list[tuple] = []
        self.answers: list[object] = []

    def _answer(self) -> object:
        answer = self.answers.pop(0) if self.answers else Rows((), 0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def run(self, statement: str, deadline: float) -> tuple[str, object]:
        self.asked.append(("run", statement))
        return "connection", self._answer()

    async def call(self, connection: object, work: object, deadline: float) -> object:
        self.asked.append(("call", connection))
        return self._answer()

    def give_back(self, connection: object) -> None:
        self.asked.append(("give back", connection))

    def renew(self, connection: object, deadline: float) -> None:
        self.asked.append(("renew", connection))

    def drop(self, connection: object) -> None:
        self.asked.append(("drop", connection))

    async def close(self) -> None:
        self.asked.append(("close",))


def participant() -> tuple[MariaDb, Lane, Lane]:
    made = MariaDb("a", URL)
    made._work, made._ends = Lane(), Lane()  # type: ignore[assignment]
    return made, made._work, made._ends


def recovered(*gids: Gid, whole: bool = True) -> Rows:
    """What XA RECOVER says."""
    rows = []
    for one in gids:
        first, second = (half.strip("'") for half in xid(one).split(","))
        data = first + second
        rows.append((1, len(first), len(second), data.encode() if whole else data))
    return Rows(tuple(rows), len(rows))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (5, "a URL is text, mysql://USER:PASSWORD@HOST:PORT/DATABASE, not int"),
        (b"mysql://h/db", "not bytes"),
        ("mysql://h:port/db", "the URL is not mysql://"),
        ("mysql://h:99999/db", "the URL is not mysql://"),
        ("postgres://h/db", "the URL is not mysql://"),
        ("", "the URL is not mysql://"),
    ],
)
def test_a_url_of_something_else_is_refused(url, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        MariaDb("a", url)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (URL, {"user": "u", "password": "p w", "database": "db", "host": "h", "port": 33}),
        ("mariadb:///", {"user": "", "database": None, "host": "127.0.0.1", "port": 3306}),
        ("mysql://h?unix_socket=/s&read_timeout=7", {"unix_socket": "/s", "read_timeout": 7}),
        ("mysql://h?autocommit=0", {"autocommit": True}),
    ],
)
def test_a_url_says_how_to_connect(url: str, options: dict) -> None:
    held = MariaDb("a", url)._work._options
    assert held | options == held
    assert ("host" in held) != ("unix_socket" in held)
    assert ("port" in held) != ("unix_socket" in held)


@pytest.mark.parametrize(("pool", "ends"), [(1, 1), (4, 1), (5, 2), (32, 8)])
def test_a_quarter_as_many_connections_end_what_is_prepared(pool: int, ends: int) -> None:
    made = MariaDb("a", URL, pool=pool)
    lanes = [lane._threads._max_workers for lane in (made._work, made._ends)]
    assert lanes == [pool, ends]
    with turned(tx_pool=pool):
        made = MariaDb("a", URL)
        assert made._work._threads._max_workers == pool


@pytest.mark.parametrize(("pool", "timeout"), [(0, 1.0), (-1, 1.0), (True, 1.0), (1, 0), (1, -1.0)])
def test_a_pool_and_a_time_limit_that_make_no_sense_are_refused(pool, timeout) -> None:
    with pytest.raises(UsageError):
        MariaDb("a", URL, pool=pool, timeout=timeout)


async def test_a_branch_begins_and_ends_under_its_name() -> None:
    made, work, ends = participant()
    branch = await made.begin(gid())
    assert work.asked == [("run", f"XA START {xid(gid())}")]
    assert branch.session.connection == "connection"
    await made.commit(gid())
    await made.abort(gid())
    said = [("run", f"XA {what} {xid(gid())}") for what in ("COMMIT", "ROLLBACK")]
    assert ends.asked == [
        said[0],
        ("give back", "connection"),
        said[1],
        ("give back", "connection"),
    ]


async def test_the_connection_that_prepared_a_branch_ends_it_once() -> None:
    made, work, ends = participant()
    made.hold(gid(), "its own")
    for _ in range(2):
        await made.commit(gid())
    assert work.asked == [("call", "its own"), ("renew", "its own")]
    assert [what for what, *_ in ends.asked] == ["run", "give back"]


async def test_a_server_that_said_who_it_is_is_not_asked_again() -> None:
    made, _, ends = participant()
    assert await made.identity() == ""
    made._server.recognise((1, "itself"))
    assert await made.identity() == "itself"
    assert [what for what, *_ in ends.asked] == ["run", "call", "give back"]


async def test_one_whose_name_means_another_is_given_no_identity() -> None:
    made, _, ends = participant()
    with pytest.raises(NoIdentity, match=r"^a: .* identity is x, .*INSERT .*\('x'\)$"):
        await made.identity(meant="x")
    assert ends.asked == [("run", "DO 0"), ("drop", "connection")]


async def test_an_identity_that_cannot_be_made_now_is_an_error_of_the_manager() -> None:
    made, _, ends = participant()
    ends.answers = [Rows((), 0), pymysql.OperationalError(1021, "disk full")]
    with pytest.raises(ManagerDown, match=r"^a: 1021 disk full$"):
        await made.identity()


@pytest.mark.parametrize("error", [ManagerDown("gone"), pymysql.OperationalError(2013, "lost")])
async def test_another_connection_ends_what_its_own_could_not(error: Exception) -> None:
    made, work, ends = participant()
    made.hold(gid(), "its own")
    work.answers = [error]
    await made.abort(gid())
    assert work.asked == [("call", "its own")]
    assert ends.asked[0] == ("run", f"XA ROLLBACK {xid(gid())}")


async def test_a_branch_that_is_unknown_is_over_unless_it_is_listed() -> None:
    unknown = pymysql.OperationalError(1397, "unknown XID")
    made, _, ends = participant()
    ends.answers = [unknown, recovered(gid(number=2))]
    await made.commit(gid())
    assert [what for what, *_ in ends.asked] == ["run", "run", "give back"]
    ends.answers = [unknown, recovered(gid())]
    with pytest.raises(ManagerDown, match=r"the connection that prepared .* still has it"):
        await made.commit(gid())


@pytest.mark.parametrize("code", [1, 1205, 1396, 1398, 1399, 1402, 2013])
async def test_no_other_refusal_says_that_a_branch_is_over(code: int) -> None:
    made, _, ends = participant()
    for end in (made.commit, made.abort):
        ends.asked.clear()
        ends.answers = [pymysql.OperationalError(code, "no"), recovered()]
        with pytest.raises(ManagerDown, match=f"^a: {code} no$"):
            await end(gid())
        assert len(ends.asked) == 1, "what is prepared says nothing of it"


@pytest.mark.parametrize("whole", [True, False])
async def test_of_what_is_prepared_its_own_is_found_and_what_was_ended_by_hand_is_let_go(
    whole: bool,
) -> None:
    made, work, ends = participant()
    made.hold(gid(number=1), "kept")
    made.hold(gid(number=2), "over")
    old = Gid("", "tx", "a", TxId("j", 9))
    ends.answers = [recovered(gid(number=1), gid("b"), old, whole=whole)]
    assert await made.prepared() == [gid(number=1), old]
    assert ends.asked == [("run", "XA RECOVER"), ("give back", "connection")]
    assert work.asked == [("drop", "over")]
    assert list(made._holding) == [gid(number=1)]
    ends.answers = [pymysql.OperationalError(1227, "denied")]
    with pytest.raises(ManagerDown, match=r"^a: 1227 denied$"):
        await made.prepared()
    await made.close()
    assert made._holding == {}
    assert work.asked[-1] == ends.asked[-1] == ("close",)


@pytest.mark.parametrize(
    ("error", "conflict"),
    [
        (pymysql.OperationalError(1205, "x"), True),
        (pymysql.OperationalError(1213, "x"), True),
        (pymysql.OperationalError(1397, "x"), False),
        (pymysql.OperationalError(), False),
        (ValueError(1205), False),
    ],
)
def test_a_lock_and_a_deadlock_are_conflicts(error: Exception, conflict: bool) -> None:
    assert MariaDb("a", URL).is_conflict(error) == conflict


@pytest.mark.parametrize(
    "halves",
    [("tx", "worm2:x:a"), ("tx:j-1", "worm"), ("tx:j-1", "other:a"), ("tx:j-x", "worm:a")],
)
def test_halves_of_something_else_are_no_branch(halves: tuple[str, str]) -> None:
    assert parse_xid(*halves) == ""
