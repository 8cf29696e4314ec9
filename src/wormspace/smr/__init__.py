"""WormPaxos: replicated state machines over the address space.

    class Inventory(StateMachine):
        stock: dict[str, int] = {}

        @command
        def reserve(self, sku: str, count: int) -> int: ...

    inventory = await worm.replicate(Inventory, "inventory")
    await inventory.reserve("sku-1", 3)

Each process that does so has a replica; a command takes effect on all of them, once.
"""

from wormspace.smr.consistency import (
    Causal,
    Consistency,
    Eventual,
    Linearizable,
    Sequential,
    Session,
)
from wormspace.smr.declare import StateMachine
from wormspace.smr.durability import (
    Durability,
    NeverTrim,
    TrimBehindSnapshots,
    TrimWhenApplied,
)
from wormspace.smr.errors import (
    BadDeclaration,
    BadSnapshot,
    Behind,
    CommandFailed,
    Diverged,
    EventsLost,
    LeaseLost,
    NoLeader,
    NoSnapshot,
    OtherStrategy,
    SessionExpired,
    ShapeChanged,
    Stopped,
    UpdateNeeded,
    VersionForgotten,
)
from wormspace.smr.holding import holding, taking
from wormspace.smr.kv import Change, Entry, KeyValue
from wormspace.smr.leaderless import Leaderless
from wormspace.smr.leadership import Fixed, Sticky
from wormspace.smr.methods import command, query
from wormspace.smr.remote import Remote, attach
from wormspace.smr.replica import Replica
from wormspace.smr.replica_context import Leadership, Tuning
from wormspace.smr.rotating import Rotating
from wormspace.smr.stores import LocalSnapshots, MemorySnapshots, SnapshotStore
from wormspace.smr.table import Table
from wormspace.smr.types import Counter, Dict, Election, Grant, Job, Lock, Queue, Set
from wormspace.smr.upgrading import Versions
from wormspace.smr.views import Status, View

__all__ = [
    "BadDeclaration",
    "BadSnapshot",
    "Behind",
    "Causal",
    "Change",
    "CommandFailed",
    "Consistency",
    "Counter",
    "Dict",
    "Diverged",
    "Durability",
    "Election",
    "Entry",
    "EventsLost",
    "Eventual",
    "Fixed",
    "Grant",
    "Job",
    "KeyValue",
    "Leaderless",
    "Leadership",
    "LeaseLost",
    "Linearizable",
    "LocalSnapshots",
    "Lock",
    "MemorySnapshots",
    "NeverTrim",
    "NoLeader",
    "NoSnapshot",
    "OtherStrategy",
    "Queue",
    "Remote",
    "Replica",
    "Rotating",
    "Sequential",
    "Session",
    "SessionExpired",
    "Set",
    "ShapeChanged",
    "SnapshotStore",
    "StateMachine",
    "Status",
    "Sticky",
    "Stopped",
    "Table",
    "TrimBehindSnapshots",
    "TrimWhenApplied",
    "Tuning",
    "UpdateNeeded",
    "VersionForgotten",
    "Versions",
    "View",
    "attach",
    "command",
    "holding",
    "query",
    "taking",
]
