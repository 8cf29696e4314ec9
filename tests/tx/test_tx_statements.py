"""Statements that would begin or end a transaction are told from all others."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from wormspace.errors import UsageError
from wormspace.tx import statements
from wormspace.tx.statements import refuse_control

CONTROL = [
    "COMMIT",
    "commit;",
    " \n\tEnd",
    "ROLLBACK",
    "rollback work",
    "ROLLBACK AND CHAIN",
    "abort",
    "BEGIN",
    "BEGIN WORK",
    "BEGIN TRANSACTION READ WRITE",
    "START TRANSACTION",
    "COMMIT AND CHAIN",
    "SELECT 1; COMMIT",
    "-- a word\nCOMMIT",
    "/* a /* nested */ word */ COMMIT",
    "SELECT 'it''s'; COMMIT",
    r"SELECT 'a\'; COMMIT --'",
    r"SELECT E'a\'b'; COMMIT",
    "SELECT $$;$$; COMMIT",
    "SELECT $x$ $$ ; $x$; COMMIT",
    'SELECT ";" ; COMMIT',
    "PREPARE TRANSACTION 'x'",
    "COMMIT PREPARED 'x'",
]
HARMLESS = [
    "",
    ";;",
    "SELECT 'COMMIT'",
    "SELECT ';COMMIT'",
    r"SELECT E'\';COMMIT'",
    "SELECT $$; COMMIT$$",
    "SELECT $body$; COMMIT; $body$",
    "SELECT 1 -- ; COMMIT",
    "SELECT /* ; COMMIT */ 1",
    "SELECT /* never closed ; COMMIT",
    "ROLLBACK TO SAVEPOINT a",
    "ROLLBACK WORK TO a",
    "SAVEPOINT a",
    "RELEASE a",
    "PREPARE commit AS SELECT 1",
    "INSERT INTO commit VALUES (1)",
    "(SELECT 1)",
    'SELECT "; COMMIT"',
    "COMMITTED",
    "DO $$ BEGIN PERFORM 1; END $$",
]


@pytest.mark.parametrize("statement", CONTROL)
def test_a_statement_that_ends_or_begins_a_transaction_is_refused(statement: str) -> None:
    with pytest.raises(UsageError, match="was not sent"):
        refuse_control(statement)


@pytest.mark.parametrize("statement", HARMLESS)
def test_any_other_statement_passes(statement: str) -> None:
    refuse_control(statement)


@pytest.mark.parametrize(
    "statement",
    ["XA END 'x'", "COMMIT", "/*!50000 COMMIT */", "# a word\nCOMMIT", "/*M! xa end */", "begin"],
)
def test_mariadbs_words_are_refused(statement: str) -> None:
    with pytest.raises(UsageError):
        refuse_control(statement, mariadb=True)


@pytest.mark.parametrize(
    "statement",
    [r"SELECT 'a\'; COMMIT'", "SELECT `; COMMIT`", "BEGIN NOT ATOMIC SELECT 1; END", "SELECT 1"],
)
def test_mariadbs_other_words_pass(statement: str) -> None:
    refuse_control(statement, mariadb=True)


class Counted:
    """A pattern, and how often it was matched."""

    def __init__(self, pattern) -> None:
        self._pattern, self.count = pattern, 0

    def match(self, *arguments):
        self.count += 1
        return self._pattern.match(*arguments)


@pytest.mark.parametrize("mariadb", [False, True])
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t VALUES " + "(1, 'a', $$b$$), " * 5_000,
        "SELECT '" + r"\'" * 20_000 + "\\",
        "SELECT " + " ".join(f"$a{i}$" for i in range(5_000)),
        'SELECT "' + "a" * 40_000,
        "SELECT " + "'a'" * 20_000,
    ],
    ids=lambda statement: statement[:10] if isinstance(statement, str) else "",
)
def test_a_long_statement_is_gone_through_once(monkeypatch, statement: str, mariadb: bool) -> None:
    name = "_MARIADB" if mariadb else "_POSTGRES"
    scanner = getattr(statements, name)
    part, rest = Counted(scanner.part), Counted(scanner.rest)
    monkeypatch.setattr(statements, name, SimpleNamespace(part=part, rest=rest))
    refuse_control(statement, mariadb=mariadb)
    assert part.count + rest.count <= 12
