"""Who a PostgreSQL database is; see `database_identity`.

Prepared transactions are a database's, not the whole server's, and so is the identity.
"""

from __future__ import annotations

import psycopg

from wormspace.tx.database_identity import READ, drawn, only, without
from wormspace.tx.errors import ManagerDown, NoIdentity
from wormspace.tx.postgres_link import Link, line

_LOCK = b"SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(2003792493)"
"""Those who make it at the same moment do so one after the other ("worm" as a number), and see what
the one before has made, however the user's sessions are isolated."""

_MISSING = ("42P01", "3F000")
_FORBIDDEN = ("42501", "25006")
"""A right that the user lacks; a server, or a session, that only reads."""


def statements(identity: str) -> str:
    """What gives a database an identity, if it has none."""
    return (
        "CREATE SCHEMA IF NOT EXISTS wormspace; "
        "CREATE TABLE IF NOT EXISTS wormspace.identity "
        "(one boolean PRIMARY KEY DEFAULT true CHECK (one), format integer NOT NULL DEFAULT 1, "
        "identity text NOT NULL); "
        "GRANT USAGE ON SCHEMA wormspace TO PUBLIC; "
        "GRANT SELECT ON wormspace.identity TO PUBLIC; "
        f"INSERT INTO wormspace.identity (identity) VALUES ('{identity}') ON CONFLICT DO NOTHING;"
    )


async def find(link: Link, manager: str, deadline: float) -> tuple[int, str] | None:
    """Format and identity of the database that a connection leads to; None if it has none.

    Raises:
        NoIdentity: the user may not read it; or there are several.
        ManagerDown: the server did not answer in time, or cannot do it now.
    """
    try:
        result = await link.run(READ.encode(), deadline)
    except psycopg.Error as e:
        if e.sqlstate in _MISSING:
            return None
        raise _problem(manager, e, statements(drawn())) from e
    return only(
        manager, [[result.get_value(row, c) for c in (0, 1)] for row in range(result.ntuples)]
    )


async def make(link: Link, manager: str, deadline: float) -> tuple[int, str]:
    """Give the database an identity, unless somebody else is quicker; format and identity.

    Raises:
        NoIdentity: the user may not.
        ManagerDown: the server did not answer in time, or cannot do it now.
    """
    whole = statements(drawn())
    try:
        await link.run(_LOCK + b"; " + whole.encode(), deadline)
    except psycopg.Error as e:
        raise _problem(manager, e, whole) from e
    found = await find(link, manager, deadline)
    if found is None:
        raise ManagerDown(f"{manager}: somebody deletes the row of wormspace.identity")
    return found


def _problem(manager: str, e: psycopg.Error, whole: str) -> NoIdentity | ManagerDown:
    if e.sqlstate in _FORBIDDEN:
        return without(manager, line(e), whole)
    return ManagerDown(f"{manager}: {line(e)}")
