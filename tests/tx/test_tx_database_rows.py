"""How a database's identity is read, and made where there is none, with connections made up."""

from __future__ import annotations

import threading

import psycopg
import pymysql
import pytest

from wormspace.errors import NewerFormat
from wormspace.tx import mariadb_identity, postgres_identity
from wormspace.tx.database_identity import READ, DatabaseIdentity, drawn, only
from wormspace.tx.errors import ManagerDown, NoIdentity, WrongManager

NAMED = (1, "0123456789abcdef")


def postgres_error(sqlstate: str) -> psycopg.Error:
    error = psycopg.errors.lookup(sqlstate)("it\n says why")
    assert error.sqlstate == sqlstate
    return error


class Result:
    """Rows as libpq gives them."""

    def __init__(self, *rows: tuple[int, str]) -> None:
        self.rows, self.ntuples = rows, len(rows)

    def get_value(self, row: int, column: int) -> bytes:
        return str(self.rows[row][column]).encode()


class Link:
    """A connection to PostgreSQL that gives or raises what comes."""

    def __init__(self, *answers: object) -> None:
        self.answers, self.ran = [*answers], []

    async def run(self, statement: bytes, deadline: float) -> object:
        self.ran.append((statement.decode(), deadline))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Connection:
    """The same of MariaDB."""

    def __init__(self, *answers: object) -> None:
        self.answers, self.ran = [*answers], []

    def cursor(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute(self, statement: str, arguments: object) -> int:
        self.ran.append(statement)
        self.found = self.answers.pop(0)
        if isinstance(self.found, Exception):
            raise self.found
        return len(self.found)

    def fetchall(self):
        return self.found


def test_identities_are_drawn_from_many() -> None:
    assert len({drawn() for _ in range(100)}) == 100
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in (drawn() for _ in range(100)))


def test_all_connections_lead_to_what_the_first_one_found() -> None:
    database = DatabaseIdentity("bank")
    assert database.known == ""
    for _ in range(2):
        assert database.recognise((1, "x")) is True
        assert database.known == "x"
    with pytest.raises(WrongManager, match=r"^bank: .* identity is y, theirs x;") as caught:
        database.recognise((1, "y"))
    assert (caught.value.meant, caught.value.found, database.known) == ("x", "y", "x")
    with pytest.raises(WrongManager, match=r"^bank: .* identity is missing, theirs x;") as caught:
        database.recognise(None)
    assert (caught.value.meant, caught.value.found, database.known) == ("x", "", "x")


def test_a_connection_to_what_has_no_identity_yet_says_so() -> None:
    database = DatabaseIdentity("bank")
    assert database.recognise(None) is False
    assert database.known == ""
    assert database.recognise((1, "x")) is True


def test_a_row_of_a_newer_format_is_not_believed() -> None:
    database = DatabaseIdentity("bank")
    with pytest.raises(NewerFormat, match=r"^bank: .* format 2, .* reads up to 1: update it$"):
        database.recognise((2, "x"))
    assert database.known == ""
    database.recognise((0, "x"))
    assert database.known == "x", "an older one is"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ((1, "x"), (1, "x")),
        ((b"1", b"x"), (1, "x")),
        ((None, None), (0, "")),
        ((2, b"\xff"), (2, "\N{REPLACEMENT CHARACTER}")),
    ],
)
def test_a_row_is_read_as_the_driver_gives_it(row, found) -> None:
    assert only("bank", [row]) == found


def test_of_several_rows_none_is_taken() -> None:
    assert only("bank", []) is None
    with pytest.raises(NoIdentity, match=r"^bank: .* has 2 rows, .* all but one: WrongManager"):
        only("bank", [NAMED, NAMED])


def test_of_threads_that_connect_at_once_one_is_the_first() -> None:
    database, start, refused = DatabaseIdentity("bank"), threading.Barrier(8), []

    def connect(found: str) -> None:
        start.wait()
        try:
            database.recognise((1, found))
        except WrongManager as e:
            refused.append(e.found)

    threads = [threading.Thread(target=connect, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted([*refused, database.known]) == [str(n) for n in range(8)]


# ---------------------------------------------------------------- PostgreSQL


MISSING = [Result(), postgres_error("42P01"), postgres_error("3F000")]


async def test_postgresql_is_asked_once() -> None:
    link = Link(Result(NAMED))
    assert await postgres_identity.find(link, "bank", 7.0) == NAMED
    assert link.ran == [(READ, 7.0)]


@pytest.mark.parametrize("missing", MISSING)
async def test_postgresql_without_an_identity_is_found_so_and_nothing_is_made(missing) -> None:
    link = Link(missing)
    assert await postgres_identity.find(link, "bank", 7.0) is None
    assert link.ran == [(READ, 7.0)]


async def test_in_postgresql_it_is_made_by_one_at_a_time_and_read_again() -> None:
    link = Link(Result(), Result(NAMED))
    assert await postgres_identity.make(link, "bank", 7.0) == NAMED
    (made, then), (again, last) = link.ran
    assert (then, last, again) == (7.0, 7.0, READ)
    isolation, lock, schema, table, usage, select, insert = made.rstrip(";").split("; ")
    assert isolation == "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
    assert lock == "SELECT pg_advisory_xact_lock(2003792493)"
    assert schema == "CREATE SCHEMA IF NOT EXISTS wormspace"
    assert table.startswith("CREATE TABLE IF NOT EXISTS wormspace.identity (")
    assert usage == "GRANT USAGE ON SCHEMA wormspace TO PUBLIC"
    assert select == "GRANT SELECT ON wormspace.identity TO PUBLIC"
    assert insert.endswith("ON CONFLICT DO NOTHING")


@pytest.mark.parametrize("sqlstate", ["42501", "25006"])
@pytest.mark.parametrize("do", [postgres_identity.find, postgres_identity.make])
async def test_who_may_not_in_postgresql_is_told_the_statements(sqlstate: str, do) -> None:
    with pytest.raises(NoIdentity, match=r"^bank: .*: it says why") as caught:
        await do(Link(postgres_error(sqlstate)), "bank", 7.0)
    _, _, statements = str(caught.value).partition("once: ")
    assert statements.startswith("CREATE SCHEMA IF NOT EXISTS wormspace; CREATE TABLE")
    assert "pg_advisory" not in statements


@pytest.mark.parametrize(
    ("do", "answers", "says"),
    [
        (postgres_identity.find, (postgres_error("53100"),), "bank: it says why"),
        (postgres_identity.make, (postgres_error("53100"),), "bank: it says why"),
        (postgres_identity.make, (Result(), Result()), "bank: somebody deletes the row"),
        (postgres_identity.make, (Result(), postgres_error("42P01")), "bank: somebody deletes"),
    ],
)
async def test_what_postgresql_cannot_say_now_it_may_say_later(do, answers, says: str) -> None:
    with pytest.raises(ManagerDown, match=says):
        await do(Link(*answers), "bank", 7.0)


# ---------------------------------------------------------------- MariaDB


def test_mariadb_is_asked_once() -> None:
    connection = Connection((NAMED,))
    assert mariadb_identity.find(connection, "bank") == NAMED
    assert connection.ran == [READ]


@pytest.mark.parametrize("missing", [(), *(pymysql.Error(code, "none") for code in (1049, 1146))])
def test_mariadb_without_an_identity_is_found_so_and_nothing_is_made(missing) -> None:
    connection = Connection(missing)
    assert mariadb_identity.find(connection, "bank") is None
    assert connection.ran == [READ]


def test_in_mariadb_it_is_made_and_read_again() -> None:
    connection = Connection((), (), (), (NAMED,))
    assert mariadb_identity.make(connection, "bank") == NAMED
    base, table, insert, last = connection.ran
    assert last == READ
    assert base == "CREATE DATABASE IF NOT EXISTS wormspace"
    assert table.startswith("CREATE TABLE IF NOT EXISTS wormspace.identity (")
    assert table.endswith("ENGINE=InnoDB")
    assert insert.startswith("INSERT IGNORE INTO wormspace.identity ")


@pytest.mark.parametrize("code", [1044, 1142, 1143, 1227, 1290, 1792, 1836])
@pytest.mark.parametrize("do", [mariadb_identity.find, mariadb_identity.make])
@pytest.mark.parametrize("account", ["a@b@10.%", b"a@b@10.%"])
def test_who_may_not_in_mariadb_is_told_the_statements(code: int, do, account) -> None:
    connection = Connection(pymysql.OperationalError(code, "denied"), ((account,),))
    with pytest.raises(NoIdentity, match=f"^bank: .*: {code} denied") as caught:
        do(connection, "bank")
    *made, grant = str(caught.value).partition("once: ")[2].split("; ")
    assert [s.split()[0] for s in made] == ["CREATE", "CREATE", "INSERT"]
    assert grant == "GRANT SELECT ON wormspace.identity TO 'a@b'@'10.%'"


@pytest.mark.parametrize(
    ("do", "answers"),
    [
        (mariadb_identity.find, (pymysql.OperationalError(1205, "a lock"),)),
        (mariadb_identity.make, (pymysql.OperationalError(1021, "disk full"),)),
        (mariadb_identity.make, ((), (), (), pymysql.OperationalError(1146, "none"))),
    ],
)
def test_what_mariadb_cannot_say_now_is_an_error_of_its_own(do, answers) -> None:
    with pytest.raises(pymysql.Error):
        do(Connection(*answers), "bank")


def test_of_what_somebody_deletes_there_is_no_identity() -> None:
    with pytest.raises(pymysql.OperationalError, match="somebody deletes the row"):
        mariadb_identity.make(Connection((), (), (), ()), "bank")
