"""Who a database server's database is: one row in a table of ours, `wormspace.identity`.

It is a schema of its own in PostgreSQL and a database of its own in MariaDB, so that no
`search_path` hides it and no migration tool takes it for the application's.  A dump, a replica and
a backup bring it along, for they stand for the same database.  (PostgreSQL's own system identifier
needs no table, but changes with a dump, and hosted servers do not let everybody read it.)

Each connection is asked when it is made: an address may lead elsewhere from one day to the next.
"""

from __future__ import annotations

import secrets
import threading

from wormspace.errors import NewerFormat
from wormspace.tx.errors import NoIdentity, WrongManager

FORMAT = 1
READ = "SELECT format, identity FROM wormspace.identity"


def drawn() -> str:
    """An identity that no other database has."""
    return secrets.token_hex(8)


class DatabaseIdentity:
    """Who the database of one manager is: what its first connection found.

    Args:
        manager: the manager's name.

    Attributes:
        known: its identity; "" before the first connection.
    """

    def __init__(self, manager: str) -> None:
        self._manager = manager
        self._lock = threading.Lock()
        self.known = ""

    def recognise(self, made_by: int, found: str) -> None:
        """A connection leads to the database that has this row.

        Raises:
            NewerFormat: a newer wormspace made it.
            WrongManager: other connections lead to another database.
        """
        if made_by > FORMAT:
            raise NewerFormat(
                f"{self._manager}: the table wormspace.identity has format {made_by}, made by a "
                f"newer wormspace; this one reads up to {FORMAT}: update it"
            )
        with self._lock:  # two threads may have connected at the same moment
            self.known = known = self.known or found
        if found != known:
            raise WrongManager(
                f"{self._manager}: this connection leads to another database than those before: "
                f"its identity is {found}, theirs {known}; nothing was done.  Let the address lead "
                "to one database; if this one is to take the other's place, see "
                "docs/in-doubt.md, 'Moving a database'",
                known,
                found,
            )


def without(manager: str, why: str, statements: str) -> NoIdentity:
    """The error of a database that nobody has given an identity."""
    return NoIdentity(
        f"{manager}: this database does not say who it is, and its user cannot change that: {why}. "
        f"Nothing was done.  Let an administrator run there, once: {statements}"
    )
