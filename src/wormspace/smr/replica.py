"""A replica: a state machine in this process, kept the same as the others by the address space.

    inventory = await worm.replicate(Inventory, "inventory")
    await inventory.reserve("sku-1", 3)

Nothing of the state is anywhere but in the registers (and, if so chosen, in snapshots): a replica
may die at any line, and start again anywhere.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

from wormspace.errors import UsageError
from wormspace.runtime.closing import Closing
from wormspace.runtime.endpoints import as_port
from wormspace.smr.arguments import (
    as_choice,
    as_clock,
    as_level,
    as_machine,
    as_text,
)
from wormspace.smr.consistency import Consistency, Linearizable, Session
from wormspace.smr.core import Core, Settings, listening
from wormspace.smr.declare import StateMachine
from wormspace.smr.durability import Durability, NeverTrim
from wormspace.smr.events import Events
from wormspace.smr.leadership import Sticky
from wormspace.smr.replica_context import Leadership, Tuning
from wormspace.smr.upgrading import Versions
from wormspace.smr.views import Status, View
from wormspace.space import Client, Stream
from wormspace.space.arguments import as_name, as_rng, as_timeout

M = TypeVar("M", bound=StateMachine)


class Replica(Closing, View[M], Generic[M]):
    """A state machine that survives machines; get it from `Worm.replicate`.

    A replica is also a `View` of itself: its commands and queries can be awaited on it.
    """

    def __init__(
        self,
        machine_type: type[M],
        core: Core,
        level: Consistency,
        on_close: Callable[[Replica[M]], object],
    ) -> None:
        super().__init__(machine_type.declaration, core, level, Session())
        self._core = core
        self._name = core.context.space.name
        self._on_close = on_close
        self._closed = False

    @classmethod
    async def open(
        cls,
        client: Client,
        machine_type: type[M],
        name: str,
        *,
        replica: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
        leadership: Leadership | None = None,
        durability: Durability | None = None,
        consistency: Consistency | None = None,
        tuning: Tuning | None = None,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        on_close: Callable[[Replica[M]], object] = lambda replica: None,
    ) -> Self:
        """Take part in a replicated object; see `Worm.replicate`, which calls this.

        Args:
            on_close: called with the replica when it is closed.
        """
        if tuning is not None and not isinstance(tuning, Tuning):
            raise UsageError(f"tuning is a Tuning(...), not {type(tuning).__name__}")
        level = Linearizable() if consistency is None else as_level(consistency)
        leadership = Sticky() if leadership is None else leadership
        durability = NeverTrim() if durability is None else durability
        port = as_port(port, 0)
        machine_type, space = as_machine(machine_type), client.space(as_name(name))
        settings = Settings(
            as_text(replica, "a replica's name"),
            as_text(host, "a host") or socket.gethostname(),
            as_timeout(timeout),
            as_clock(clock),
            as_rng(rng),
            as_choice(leadership, "a leadership", "make_proposer"),
            as_choice(durability, "a durability", "run"),
            tuning or Tuning(),
        )
        core = await listening(machine_type, space, port, settings)
        try:
            await core.start()
        except BaseException:
            await core.close()
            raise
        return cls(machine_type, core, level, on_close)

    def __repr__(self) -> str:
        status, of = self.status(), self._declaration.owner.__name__
        role = "stopped" if status.failed else "leads" if status.leads else "follows"
        state = "closed" if self._closed else f"{role}, at {status.applied}"
        return f"<Replica {status.member.name!r} of {of} {self._name!r}: {state}>"

    def status(self) -> Status:
        """How this replica is."""
        return self._core.status()

    def listen(self, start: int | None = None) -> Stream[tuple[int, Any]]:
        """The events that commands emit, numbered from 1, the same on every replica.

        The stream has its place from this call on, though nobody reads it yet.  A wait for its next
        item may be given up and begun again.  It ends with `Closed` when this replica is closed.

        Args:
            start: the number to begin with; by default, the next one that comes from now on.

        Raises (from the stream):
            EventsLost: what comes next is not held any more.
        """
        return Events(self._core, start, repr(self._name))

    async def versions(self) -> Versions:
        """Of what versions the object is: which classes are still needed, which one is in force.

        Raises:
            Unavailable.
        """
        return await self._core.upgrades.versions()

    async def upgrade(self) -> int:
        """Make the object what this replica's class is, from some position on, everywhere.

        Replicas that have no such class stop there, and go on when they are started with it.

        Returns:
            The version that the object is of now.

        Raises:
            Exception: what the migration raised; nothing has changed then.
            NoLeader, SessionExpired: whether it was done is unknown; calling again is safe.
        """
        return await self._core.upgrades.upgrade()

    async def close(self) -> None:
        """Stop taking part; the state is where it was, in the space."""
        self._closed = True
        await self._core.close()
        self._on_close(self)
