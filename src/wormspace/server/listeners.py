"""Who listens to what: the subscriptions of all clients, and what they are told.

| operation | cost |
|---|---|
| `add`, `remove` | constant |
| `forget` | the subscriptions of that client |
| `publish` | the subscriptions to that segment, and those to several segments of that space |
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Protocol, TypeAlias

import msgspec

from wormspace.knobs import KNOBS
from wormspace.paxos.messages import Trim, Write
from wormspace.server.counters import Counters
from wormspace.wire.messages import Accepted, Lagging, Listen, ServerMessage, TrimNotice

News: TypeAlias = Write | Trim
"""What listeners are to be told, once it is durable."""

Event: TypeAlias = Accepted | TrimNotice


class ReplyTo(Protocol):
    """Where the answers to a client go."""

    def answer(self, request_id: int, message: ServerMessage) -> None:
        """Send an answer or push an event."""

    def congested(self) -> bool:
        """Whether what was sent before piles up."""


class _Listener(msgspec.Struct, frozen=True, eq=False):
    port: ReplyTo
    id: int
    space: str
    segment: int
    stop: int
    values: bool


_Set: TypeAlias = dict[_Listener, None]
"""Listeners, in the order in which they came."""


class _Space:
    """The listeners of one space: those to a single segment by its number, and the others."""

    def __init__(self) -> None:
        self.narrow: dict[int, _Set] = {}
        self.wide: _Set = {}

    def add(self, x: _Listener) -> None:
        if x.stop == x.segment + 1:
            self.narrow.setdefault(x.segment, {})[x] = None
        else:
            self.wide[x] = None

    def remove(self, x: _Listener) -> None:
        if x.stop == x.segment + 1:
            same = self.narrow[x.segment]
            del same[x]
            if not same:
                del self.narrow[x.segment]
        else:
            del self.wide[x]

    def concerned(self, segment: int, stop: int) -> Iterator[_Listener]:
        """The listeners to any of the segments [segment, stop)."""
        for x in list(self.wide):
            if x.segment < stop and segment < x.stop:
                yield x
        if stop - segment < len(self.narrow):
            numbers = [n for n in range(segment, stop) if n in self.narrow]
        else:
            numbers = [n for n in self.narrow if segment <= n < stop]
        for n in numbers:
            yield from list(self.narrow[n])

    def __bool__(self) -> bool:
        return bool(self.wide or self.narrow)


class Listeners:
    """All subscriptions of a server."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._by_port: dict[ReplyTo, dict[int, _Listener]] = {}
        self._by_space: dict[str, _Space] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def held_by(self, port: ReplyTo) -> int:
        """How many subscriptions a client has."""
        return len(self._by_port.get(port, ()))

    def add(self, port: ReplyTo, listener_id: int, m: Listen) -> None:
        """Begin a subscription; one of the same client and id is replaced."""
        self.remove(port, listener_id)
        x = _Listener(port, listener_id, m.space, m.segment, m.stop, m.values)
        self._by_port.setdefault(port, {})[listener_id] = x
        self._by_space.setdefault(m.space, _Space()).add(x)
        self._count += 1

    def remove(self, port: ReplyTo, listener_id: int) -> bool:
        """End a subscription; returns whether there was one."""
        own = self._by_port.get(port, {})
        x = own.pop(listener_id, None)
        if x is None:
            return False
        if not own:
            del self._by_port[port]
        space = self._by_space[x.space]
        space.remove(x)
        if not space:
            del self._by_space[x.space]
        self._count -= 1
        return True

    def forget(self, port: ReplyTo) -> None:
        """A client is gone: end its subscriptions."""
        for listener_id in list(self._by_port.get(port, ())):
            self.remove(port, listener_id)

    async def tell(self, news: list[News]) -> None:
        """Tell of a batch's news, those too who came while it was on its way to the disk.

        A subscription that was answered before must hear of it: what its client has read since is
        the state without this batch.
        """
        told = 0
        for m in news:
            if m.space not in self._by_space:
                continue
            if isinstance(m, Trim):
                told += self.publish(TrimNotice(m.space, m.segment, m.stop))
            else:
                told += self.publish(Accepted(m.space, m.segment, m.ballot, m.offsets, m.values))
            if told >= KNOBS.server_turn_requests:
                told = 0
                await asyncio.sleep(0)

    def publish(self, event: Event) -> int:
        """Tell everybody whom it concerns, and end the subscriptions of those who read too slowly.

        Returns how many were concerned.
        """
        space = self._by_space.get(event.space)
        if space is None:
            return 0
        bare = event
        if isinstance(event, Accepted):
            bare = Accepted(event.space, event.segment, event.ballot, event.offsets, [])
            concerned = space.concerned(event.segment, event.segment + 1)
        else:
            concerned = space.concerned(event.segment, event.stop)
        told = 0
        for x in concerned:
            told += 1
            if x.port.congested():
                self._counters.listeners_dropped += 1
                x.port.answer(x.id, Lagging())
                self.remove(x.port, x.id)
            else:
                self._counters.events += 1
                x.port.answer(x.id, event if x.values else bare)
        return told
