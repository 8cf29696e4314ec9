"""Who a MariaDB server is; see `database_identity`.

XA transactions are the server's, not one database's, and so is the identity.
"""

from __future__ import annotations

from typing import Any

import pymysql

from wormspace.tx.database_identity import READ, drawn, only, text_of, without
from wormspace.tx.errors import NoIdentity
from wormspace.tx.mariadb_lane import line, query

_MISSING = (1049, 1146)
_FORBIDDEN = (1044, 1142, 1143, 1227, 1290, 1792, 1836)
"""A right that the user lacks; a server, or a session, that only reads."""


def statements(identity: str) -> tuple[str, ...]:
    """What gives a server an identity, if it has none."""
    return (
        "CREATE DATABASE IF NOT EXISTS wormspace",
        "CREATE TABLE IF NOT EXISTS wormspace.identity "
        "(one tinyint PRIMARY KEY DEFAULT 1 CHECK (one = 1), format int NOT NULL DEFAULT 1, "
        "identity varchar(64) NOT NULL) ENGINE=InnoDB",
        f"INSERT IGNORE INTO wormspace.identity (identity) VALUES ('{identity}')",
    )


def find(connection: Any, manager: str) -> tuple[int, str] | None:
    """Format and identity of the server that a connection leads to; None if it has none.

    It blocks, so it runs in a thread.

    Raises:
        NoIdentity: the user may not read it; or there are several.
        pymysql.Error: the server cannot do it now, or the connection is gone.
    """
    try:
        rows = query(connection, READ).rows
    except pymysql.Error as e:
        if e.args[0] in _MISSING:
            return None
        if e.args[0] in _FORBIDDEN:
            raise _without(connection, manager, e, drawn()) from e
        raise
    return only(manager, rows)


def make(connection: Any, manager: str) -> tuple[int, str]:
    """Give the server an identity, unless somebody else is quicker; format and identity.

    It blocks, so it runs in a thread.

    Raises:
        NoIdentity: the user may not.
        pymysql.Error: the server cannot do it now, or the connection is gone.
    """
    identity = drawn()
    try:
        for statement in statements(identity):
            query(connection, statement)
    except pymysql.Error as e:
        if e.args[0] in _FORBIDDEN:
            raise _without(connection, manager, e, identity) from e
        raise
    found = find(connection, manager)
    if found is None:
        raise pymysql.OperationalError(0, "somebody deletes the row of wormspace.identity")
    return found


def _without(connection: Any, manager: str, e: pymysql.Error, identity: str) -> NoIdentity:
    """There is no PUBLIC before MariaDB 10.11, so the right to read is this very user's."""
    account = text_of(query(connection, "SELECT CURRENT_USER()").rows[0][0])
    user, _, host = account.rpartition("@")
    grant = f"GRANT SELECT ON wormspace.identity TO '{user}'@'{host}'"
    return without(manager, line(e), "; ".join((*statements(identity), grant)))
