"""Who a database server's database is: one row in a table of ours, `wormspace.identity`.

It is a schema of its own in PostgreSQL and a database of its own in MariaDB, so that no
`search_path` hides it and no migration tool takes it for the application's.  A dump, a replica and
a backup bring it along, for they stand for the same database.  (PostgreSQL's own system identifier
needs no table, but changes with a dump, and hosted servers do not let everybody read it.)

Each connection is asked when it is made: an address may lead elsewhere from one day to the next.
Only work makes the table, and only under a name that means no database yet: who merely looks, or
was led to the wrong database, changes nothing there.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from typing import Any

from wormspace.errors import NewerFormat
from wormspace.tx.errors import NoIdentity, WrongManager

FORMAT = 1
READ = "SELECT format, identity FROM wormspace.identity"


def drawn() -> str:
    """An identity that no other database has."""
    return secrets.token_hex(8)


def only(manager: str, rows: Sequence[Sequence[Any]]) -> tuple[int, str] | None:
    """Format and identity in what `READ` gave; None if there is no row.

    Raises:
        NoIdentity: there are several.
    """
    if len(rows) > 1:
        raise NoIdentity(
            f"{manager}: the table wormspace.identity has {len(rows)} rows, so this database does "
            "not say who it is.  Nothing was done.  Delete all but one: WrongManager says which "
            "one the name means"
        )
    for made_by, identity in rows:
        return int(made_by or 0), text_of(identity)
    return None


def text_of(value: object) -> str:
    """What a driver gave, which may be bytes; "" of NULL."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


class DatabaseIdentity:
    """Who the database of one manager is: what its first connection found.

    Args:
        manager: the manager's name.

    Attributes:
        known: its identity; "" before one was found.
    """

    def __init__(self, manager: str) -> None:
        self._manager = manager
        self._lock = threading.Lock()
        self.known = ""

    def recognise(self, row: tuple[int, str] | None) -> bool:
        """A connection leads to the database that has this row; whether that has an identity.

        Where it has none, another connection may find one later, and nobody knows whether both lead
        to the same: such a connection is used once, and not kept.

        Raises:
            NewerFormat: a newer wormspace made it.
            WrongManager: other connections lead to another database.
        """
        made_by, found = row or (FORMAT, "")
        if made_by > FORMAT:
            what = f"{self._manager}: the table wormspace.identity"
            raise NewerFormat.of(what, made_by, FORMAT)
        with self._lock:  # two threads may have connected at the same moment
            self.known = known = self.known or found
        if found != known:
            raise WrongManager(
                f"{self._manager}: this connection leads to another database than those before: "
                f"its identity is {found or 'missing'}, theirs {known}; nothing was done.  Let the "
                "address lead to one database; if this one is to take the other's place, see "
                "docs/in-doubt.md, 'Moving a database'",
                known,
                found,
            )
        return bool(known)


def without(manager: str, why: str, statements: str) -> NoIdentity:
    """The error of a database that nobody has given an identity."""
    return NoIdentity(
        f"{manager}: this database does not say who it is, and its user cannot change that: {why}. "
        "Nothing was done.  Let an administrator run there (for a replica: on its primary), once: "
        f"{statements}"
    )


def nameless(manager: str, meant: str, statements: str) -> NoIdentity:
    """The error of a database without an identity, whose name means one that has `meant`."""
    return NoIdentity(
        f"{manager}: the name means the database whose identity is {meant}, and this one has none. "
        "Nothing was done.  Correct the address.  Only if it takes that database's place (see "
        "docs/in-doubt.md, 'Moving a database'), let an administrator run there, once: "
        f"{statements}"
    )
