"""Which database a resource manager's name means: decided once, in a register of its own.

Two databases under one name would be each other's end: "nothing is prepared here" of the one would
trim votes that the other's prepared branches wait for.  So each database has an identity, which no
other has.  The stamp of segment 0 of the address space `<tx space>/<manager>` says the identity of
the database that the name means; whoever first begins a transaction there decides it.  It is
compared before a branch begins, and before what a manager holds prepared is believed.
"""

from __future__ import annotations

import asyncio
import re

from wormspace.errors import NotAllocated, ProtocolViolation, Trimmed, Unavailable, UsageError
from wormspace.runtime.deadlines import LEAST_S, left
from wormspace.space import Client, require_stamp, stamp
from wormspace.tx.errors import WrongManager
from wormspace.tx.managers import ResourceManager

KIND = "tx manager"
FORMAT = 1
TRY_S = 1.0
"""After which, at first, it is looked whether somebody else has decided it meanwhile."""

_IDENTITY = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class Identities:
    """The managers of one process that were recognised.

    Args:
        client: the connection to the address space.
        space: the transaction space's name.
    """

    def __init__(self, client: Client, space: str) -> None:
        self._client = client
        self._space = space
        self._recognised: dict[str, ResourceManager] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    def has(self, manager: ResourceManager) -> bool:
        """Whether this manager was recognised before."""
        return self._recognised.get(manager.name) is manager

    async def check(
        self, manager: ResourceManager, deadline: float, *, decide: bool = False
    ) -> None:
        """Pass a manager that is the database that its name means.

        And one whose name means no database yet: nobody has begun anything under it, so nothing is
        prepared there.

        Args:
            decide: let such a name mean this database.

        Raises:
            WrongManager: the name means another database.
            NoIdentity, UsageError: the manager does not say who it is.
            WrongKind, NewerFormat, Trimmed: what tells its database cannot be used.
            ManagerDown: the manager cannot be asked in time.
            Unavailable.
        """
        if self.has(manager):
            return
        name = manager.name
        async with _Turn(self._turns.setdefault(name, asyncio.Lock()), name, deadline):
            if self.has(manager):
                return
            meant = await self._find(name, deadline)
            if meant is None and not decide:
                return
            found = _checked(name, await manager.identity(left(deadline), meant=meant or ""))
            try_s = TRY_S
            while meant is None:
                await self._decide(name, found, min(try_s, left(deadline)), deadline)
                meant = await self._find(name, deadline)
                try_s *= 2
            if found != meant:
                raise WrongManager(_says(name, f"{self._space}/{name}", meant, found), meant, found)
            self._recognised[name] = manager

    async def _find(self, manager: str, deadline: float) -> str | None:
        """The identity that the name means; None if that is not decided."""
        name = f"{self._space}/{manager}"
        try:
            segment = await self._client.space(name).segment(0, timeout=left(deadline))
        except NotAllocated:
            return None
        except Trimmed as e:
            raise Trimmed(
                f"space {name!r} was trimmed, and with it what tells the database of resource "
                f"manager {manager!r} from others: give the database another name"
            ) from e
        _, payload = require_stamp(segment.metadata, KIND, FORMAT, name)
        identity = payload.decode(errors="replace")
        if not _IDENTITY.fullmatch(identity):
            raise ProtocolViolation(f"space {name!r} names a database that cannot be: {payload!r}")
        return identity

    async def _decide(self, manager: str, identity: str, try_s: float, deadline: float) -> None:
        """Let the name mean this database; somebody else may be quicker, and decide it."""
        space = self._client.space(f"{self._space}/{manager}")
        try:
            await space.alloc(stamp(KIND, FORMAT, identity.encode()), timeout=try_s)
        except Unavailable:
            if left(deadline) <= LEAST_S:
                raise


class _Turn:
    """One at a time asks who a manager is; the others wait, until their time is over."""

    def __init__(self, lock: asyncio.Lock, manager: str, deadline: float) -> None:
        self._lock = lock
        self._manager = manager
        self._deadline = deadline

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._lock.acquire()
        except TimeoutError:
            raise Unavailable(
                f"nobody could tell in time which database {self._manager} is"
            ) from None

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


def _checked(manager: str, identity: object) -> str:
    """
    Raises:
        UsageError: no database can have that identity.
    """
    if not isinstance(identity, str) or not _IDENTITY.fullmatch(identity):
        raise UsageError(
            f"the identity of resource manager {manager!r} is 1 to 64 letters, digits, '_', '.', "
            f"':' and '-', not {identity!r}: correct it there, see docs/in-doubt.md, 'Moving a "
            "database'"
        )
    return identity


def _says(manager: str, space: str, meant: str, found: str) -> str:
    return (
        f"resource manager {manager!r} is another database here: this one's identity is {found}, "
        f"and the name means {meant} (space {space!r} says so); nothing was done.  Correct the "
        "address; or give this database a name of its own; or, if it is to take the other's place, "
        "see docs/in-doubt.md, 'Moving a database'"
    )
