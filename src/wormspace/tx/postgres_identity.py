"""Who a PostgreSQL database is; see `database_identity`.

Prepared transactions are a database's, not the whole server's, and so is the identity.
"""

from __future__ import annotations

import psycopg

from wormspace.tx.database_identity import READ, drawn, without
from wormspace.tx.errors import ManagerDown
from wormspace.tx.postgres_link import Link, line

_LOCK = b"SELECT pg_advisory_xact_lock(2003792493)"
"""Those who make it at the same moment do so one after the other ("worm" as a number)."""

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


async def identify(link: Link, manager: str, deadline: float) -> tuple[int, str]:
    """Format and identity of the database that a connection leads to; made if there is none.

    Raises:
        NoIdentity: there is none, and the user may not make it; or may not read it.
        ManagerDown: the server did not answer in time, or cannot do it now.
    """
    make = statements(drawn())
    try:
        found = await _read(link, deadline)
        if found is None:
            await link.run(_LOCK + b"; " + make.encode(), deadline)
            found = await _read(link, deadline)
    except psycopg.Error as e:
        if e.sqlstate in _FORBIDDEN:
            raise without(manager, line(e), make) from e
        raise ManagerDown(f"{manager}: {line(e)}") from e
    if found is None:
        raise ManagerDown(f"{manager}: somebody deletes the row of wormspace.identity")
    return found


async def _read(link: Link, deadline: float) -> tuple[int, str] | None:
    try:
        result = await link.run(READ.encode(), deadline)
    except psycopg.Error as e:
        if e.sqlstate in _MISSING:
            return None
        raise
    if result.ntuples == 0:
        return None
    made_by, identity = result.get_value(0, 0) or b"0", result.get_value(0, 1) or b""
    return int(made_by), identity.decode(errors="replace")
