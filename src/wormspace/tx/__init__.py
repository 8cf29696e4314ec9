"""WormTX: atomic commit across databases and stores that never waits for a coordinator.

Each resource manager casts its vote into a write-once register of its own; the decision is the AND
of the votes; whoever finds a transaction stuck writes "no" where a vote is missing.  See
docs/tx.md for how it works and docs/in-doubt.md for operating it.
"""

from wormspace.tx.deciding import ABORTED, COMMITTED, UNDECIDED, Decision, Vote, outcome
from wormspace.tx.errors import (
    Aborted,
    CannotPrepare,
    Conflict,
    ManagerDown,
    NoIdentity,
    OutcomeUnknown,
    TimedOut,
    TooLate,
    WrongManager,
)
from wormspace.tx.kv import KeyValueStore, KvBranch
from wormspace.tx.managers import Branch, ResourceManager
from wormspace.tx.names import Gid, TxId
from wormspace.tx.remote import RemoteStore
from wormspace.tx.resolver import Resolution, Resolver
from wormspace.tx.site import Site
from wormspace.tx.space import TransactionSpace
from wormspace.tx.storage import LmdbStore
from wormspace.tx.transaction import Transaction
from wormspace.tx.variants import VARIANTS, Variant

__all__ = [
    "ABORTED",
    "COMMITTED",
    "UNDECIDED",
    "VARIANTS",
    "Aborted",
    "Branch",
    "CannotPrepare",
    "Conflict",
    "Decision",
    "Gid",
    "KeyValueStore",
    "KvBranch",
    "LmdbStore",
    "ManagerDown",
    "NoIdentity",
    "OutcomeUnknown",
    "RemoteStore",
    "Resolution",
    "Resolver",
    "ResourceManager",
    "Site",
    "TimedOut",
    "TooLate",
    "Transaction",
    "TransactionSpace",
    "TxId",
    "Variant",
    "Vote",
    "WrongManager",
    "outcome",
]
