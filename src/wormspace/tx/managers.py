"""What a resource manager is: anything that can promise to commit, and remember the promise.

A branch is the work of one transaction at one resource manager.  `prepare` makes it durable and
keeps its locks; from then on only the votes decide, and the manager obeys `commit` or `abort` of
whoever has read them.  Both are harmless when repeated, and when the branch is gone.

These three may be plain functions that return a future, or `async def`: whoever calls them lets
those of several managers run at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from wormspace.tx.names import Gid


class Branch(Protocol):
    """One transaction's work at one resource manager, before it is prepared."""

    @property
    def session(self) -> Any:
        """What the user works with: the database's own connection, or the store's session."""

    def prepare(self) -> Awaitable[None]:
        """Make the work durable under its gid, so that it can be committed even after a crash.

        Raises:
            CannotPrepare: it cannot; the work is rolled back.
            Conflict: it cannot, because of another transaction's lock.
            ManagerDown: nobody knows whether it is prepared.
        """

    async def rollback(self) -> None:
        """Undo the work; nothing to do after `prepare` was called.

        It ends in a bounded time; a database that cannot be reached rolls back by itself.
        """


class ResourceManager(Protocol):
    """A database or a store that takes part in transactions.

    Attributes:
        name: the same for everybody who uses this database, and no other's: the transaction space
            remembers which database it means (see `identity`), and another one is refused.
    """

    @property
    def name(self) -> str:
        """See the class."""

    async def identity(self, timeout: float | None = None, *, meant: str = "") -> str:
        """Which database this is: no other has the same, and it stays what it is.

        1 to 64 letters, digits, `_`, `.`, `:` and `-`; kept in the database itself, so that whoever
        connects to it under whatever address is told the same.

        Args:
            timeout: as for `begin`.
            meant: the identity that the name means, where that is decided: a database without one
                is given none then, for it is another.

        Raises:
            ManagerDown: it cannot be asked in time.
            NoIdentity: it has none, and an administrator has to give it one.
        """

    async def begin(self, gid: Gid, timeout: float | None = None) -> Branch:
        """Begin a branch, which is to be prepared as `gid`.

        Args:
            timeout: seconds that it may take; the manager's own limit is another.

        Raises:
            ManagerDown: it cannot be reached in time.
        """

    def commit(self, gid: Gid) -> Awaitable[None]:
        """Make a prepared branch take effect; nothing to do if it is gone.

        Raises:
            ManagerDown: it cannot be done now; say so again later.
        """

    def abort(self, gid: Gid) -> Awaitable[None]:
        """Undo a prepared branch; nothing to do if there is none.

        Raises:
            ManagerDown: it cannot be done now; say so again later.
        """

    async def prepared(self) -> list[Gid]:
        """The branches that are prepared, and not yet committed or aborted *durably*.

        Raises:
            ManagerDown: it cannot be reached.
        """

    def is_conflict(self, error: BaseException) -> bool:
        """Whether an error of a session means that another transaction was in the way.

        So that running it again makes sense: a lock, a deadlock, a failed serialization.
        """

    async def close(self) -> None:
        """Disconnect; what is prepared stays so."""
