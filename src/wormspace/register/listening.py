"""A learner: counts what the servers of a partition say they accepted.

Servers push every write when they accept it, so a listener learns of a decision as early as the
writer does: when a majority accepted one register under one ballot.  A register that stays short
of a majority (its writer died, or an event was lost with a connection) is read after a moment,
which completes it.  While a majority of the streams stands, nothing can be missed: every decision
has a server among them.  When fewer do, and the majority is back, the listener says `Gap`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import msgspec

from wormspace.errors import Trimmed, WormError
from wormspace.paxos.messages import Done
from wormspace.paxos.quorum import is_quorum
from wormspace.register.contract import ArrayName, Dropped, Event, Gap, Wrote
from wormspace.register.issued import OffsetSet
from wormspace.register.partition import Partition
from wormspace.wire.messages import (
    ONE_WAY,
    Accepted,
    Discarded,
    Downward,
    Failed,
    Lagging,
    Listen,
    Unlisten,
)

log = logging.getLogger("wormspace.listen")

SETTLE_S = 0.1
"""How long a register may stay short of a majority before it is read."""

QUEUE_LIMIT = 100_000
"""Events a consumer may fall behind; beyond, they are dropped and it gets a `Gap`."""

ReadOne: TypeAlias = Callable[[ArrayName, int], Awaitable[bytes | None]]


class _Votes(msgspec.Struct):
    since: float
    by_ballot: dict[bytes, int]
    reading: bool = False


class Subscription:
    """One partition's share of a `listen`."""

    def __init__(
        self,
        partition: Partition,
        space: str,
        first: int,
        stop: int,
        read_one: ReadOne,
        emit: Callable[[Event], None],
    ) -> None:
        self._partition = partition
        self._message = Listen(space, first, stop)
        self._read_one = read_one
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._id = partition.enter(self)
        self._streams = 0
        self._whole = False
        self._votes: dict[tuple[int, int], _Votes] = {}
        self._delivered: dict[int, OffsetSet] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._timer = self._loop.call_later(SETTLE_S, self._look)
        self._over = False
        for server in range(partition.size):
            self.on_up(server)

    def close(self) -> None:
        """End the subscription."""
        if self._over:
            return
        self._over = True
        self._timer.cancel()
        for task in self._readers:
            task.cancel()
        self._partition.leave(self._id)
        for server in range(self._partition.size):
            self._partition.tell(server, ONE_WAY, Unlisten(self._id))

    # ------------------------------------------------------------ partition.Operation

    def on_up(self, server: int) -> None:
        self._partition.tell(server, self._id, self._message)

    def on_down(self, server: int) -> None:
        self._streams &= ~(1 << server)
        if not is_quorum(self._streams, self._partition.size):
            self._whole = False

    def cancel(self, error: Exception) -> None:
        self.close()

    def on_message(self, server: int, message: Downward) -> None:
        if isinstance(message, Accepted):
            self._on_accepted(1 << server, message)
        elif isinstance(message, Done):
            self._streams |= 1 << server
            if not self._whole and is_quorum(self._streams, self._partition.size):
                self._whole = True
                self._emit(Gap())
        elif isinstance(message, Discarded):
            self._on_discarded(message)
        elif isinstance(message, Lagging):
            self.on_down(server)
            self.on_up(server)
        elif isinstance(message, Failed):
            log.warning("listen: %s", message.text)

    # ------------------------------------------------------------ counting

    def _on_accepted(self, bit: int, m: Accepted) -> None:
        delivered = self._delivered.setdefault(m.segment, OffsetSet())
        size = self._partition.size
        for offset, value in zip(m.offsets, m.values, strict=True):
            if offset in delivered:
                continue
            at = (m.segment, offset)
            votes = self._votes.get(at)
            if votes is None:
                votes = self._votes[at] = _Votes(self._loop.time(), {})
            by = votes.by_ballot.get(m.ballot, 0) | bit
            votes.by_ballot[m.ballot] = by
            if is_quorum(by, size):
                self._deliver(m.segment, offset, value)

    def _deliver(self, number: int, offset: int, value: bytes) -> None:
        self._votes.pop((number, offset), None)
        self._delivered.setdefault(number, OffsetSet()).add(offset)
        self._emit(Wrote(self._message.space, number, offset, value))

    def _on_discarded(self, m: Discarded) -> None:
        for number in [n for n in self._delivered if m.segment <= n < m.stop]:
            del self._delivered[number]
        for at in [at for at in self._votes if m.segment <= at[0] < m.stop]:
            del self._votes[at]
        self._emit(Dropped(m.space, m.segment, m.stop))

    def _look(self) -> None:
        """Read what has been short of a majority for too long."""
        self._timer = self._loop.call_later(SETTLE_S, self._look)
        before = self._loop.time() - SETTLE_S
        for at, votes in self._votes.items():
            if votes.since > before:
                break  # in order of arrival
            if not votes.reading:
                votes.reading = True
                task = self._loop.create_task(self._settle(at))
                self._readers.add(task)
                task.add_done_callback(self._readers.discard)

    async def _settle(self, at: tuple[int, int]) -> None:
        number, offset = at
        try:
            value = await self._read_one((self._message.space, number), offset)
        except Trimmed:
            self._votes.pop(at, None)
            return
        except WormError as e:
            log.info("listen: register %s/%s is undecided: %s", number, offset, e)
            value = None
        votes = self._votes.get(at)
        if votes is None or self._over:
            return
        if value is not None:
            self._deliver(number, offset, value)
        else:
            votes.reading = False


class Listening:
    """The events of several subscriptions as one stream for one consumer."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._ready = asyncio.Event()
        self._closed: Exception | None = None
        self._subscriptions: list[Subscription] = []

    def add(self, subscription: Subscription) -> None:
        """One more source."""
        self._subscriptions.append(subscription)

    def emit(self, event: Event) -> None:
        """Called by the sources."""
        if len(self._events) >= QUEUE_LIMIT:
            self._events = [Gap()]
        else:
            self._events.append(event)
        self._ready.set()

    def fail(self, error: Exception) -> None:
        """End the stream with an error."""
        self._closed = error
        self._ready.set()

    async def stream(self) -> AsyncIterator[Event]:
        """Events until the consumer stops asking, or the client is closed."""
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                events, self._events = self._events, []
                for event in events:
                    yield event
                if self._closed:
                    raise self._closed
        finally:
            for subscription in self._subscriptions:
                subscription.close()
