"""Who a MariaDB server is; see `database_identity`.

XA transactions are the server's, not one database's, and so is the identity.
"""

from __future__ import annotations

from typing import Any

import pymysql

from wormspace.tx.database_identity import READ, drawn, without
from wormspace.tx.mariadb_lane import line, query

_MISSING = (1049, 1146)
_FORBIDDEN = (1044, 1142, 1143, 1227, 1290, 1836)
"""A right that the user lacks; a server that only reads."""


def statements(identity: str) -> tuple[str, ...]:
    """What gives a server an identity, if it has none."""
    return (
        "CREATE DATABASE IF NOT EXISTS wormspace",
        "CREATE TABLE IF NOT EXISTS wormspace.identity "
        "(one tinyint PRIMARY KEY DEFAULT 1 CHECK (one = 1), format int NOT NULL DEFAULT 1, "
        "identity varchar(64) NOT NULL) ENGINE=InnoDB",
        f"INSERT IGNORE INTO wormspace.identity (identity) VALUES ('{identity}')",
    )


def identify(connection: Any, manager: str) -> tuple[int, str]:
    """Format and identity of the server that a connection leads to; made if there is none.

    It blocks, so it runs in a thread.

    Raises:
        NoIdentity: there is none, and the user may not make it; or may not read it.
        pymysql.Error: the server cannot do it now, or the connection is gone.
    """
    make = statements(drawn())
    try:
        found = _read(connection)
        if found is None:
            for statement in make:
                query(connection, statement)
            found = _read(connection)
    except pymysql.Error as e:
        if e.args[:1] not in [(code,) for code in _FORBIDDEN]:
            raise
        grant = "GRANT SELECT ON wormspace.identity TO each user that takes part"
        raise without(manager, line(e), "; ".join((*make, grant))) from e
    if found is None:
        raise pymysql.OperationalError(0, "somebody deletes the row of wormspace.identity")
    return found


def _read(connection: Any) -> tuple[int, str] | None:
    try:
        rows = query(connection, READ).rows
    except pymysql.Error as e:
        if e.args[0] in _MISSING:
            return None
        raise
    return (int(rows[0][0]), str(rows[0][1])) if rows else None
