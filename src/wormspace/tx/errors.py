"""What can go wrong with a transaction, in the families of `wormspace.errors`."""

from __future__ import annotations

from wormspace.errors import RaceLost, Unavailable, UsageError, WormError
from wormspace.tx.deciding import Decision
from wormspace.tx.names import TxId


class Conflict(RaceLost):
    """A key is locked by another transaction: this one restarts at once instead of waiting."""


class CannotPrepare(WormError):
    """The resource manager cannot promise to commit; it votes no, and its work is rolled back."""


class Aborted(RaceLost):
    """The transaction was aborted, everywhere and for ever; nothing of it took effect.

    Attributes:
        decision: who voted no, and why.
        conflict: whether a lock was the reason, so that running it again makes sense.
    """

    def __init__(self, message: str, decision: Decision) -> None:
        super().__init__(message)
        self.decision = decision
        self.conflict = decision.conflict


class OutcomeUnknown(Unavailable):
    """The vote registers could not be reached: the transaction is, or will be, one or the other.

    `wormspace tx show ID` says which once a majority of the servers is back; so does
    `Site.settle(id, participants)`.

    Attributes:
        id: the transaction.
        participants: the names of its resource managers.
    """

    def __init__(self, message: str, txid: TxId, participants: tuple[str, ...]) -> None:
        super().__init__(message)
        self.id = txid
        self.participants = participants


class TooLate(RaceLost):
    """The block raised an error, and its transaction was committed all the same.

    All of its stores had been told with `last=True` to vote, and had voted yes before they could be
    called off.  `__cause__` is what the block raised.

    Attributes:
        decision: committed.
    """

    def __init__(self, message: str, decision: Decision) -> None:
        super().__init__(message)
        self.decision = decision


class TimedOut(WormError, TimeoutError):
    """The time for running a transaction, again and again, is over; nothing of it took effect."""


class ManagerDown(Unavailable):
    """A resource manager could not be reached, or did not answer in time.

    What it holds prepared is resolved when it can be.
    """


class WrongManager(UsageError):
    """A resource manager's name means another database; nothing was begun, decided or trimmed.

    Attributes:
        meant: the identity of the database that the name means.
        found: the identity of the one that was found.
    """

    def __init__(self, message: str, meant: str, found: str) -> None:
        super().__init__(message)
        self.meant = meant
        self.found = found


class NoIdentity(UsageError):
    """A database does not say who it is, and its user may not change that, or must not.

    The message says which statements an administrator has to run there, once.
    """
