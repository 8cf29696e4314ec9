"""The events that a listener is told: a queue between those who hear of them and one consumer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, Self

from wormspace.knobs import KNOBS
from wormspace.registers.interface import Event, Gap, Wrote


class Source(Protocol):
    """What a queue asks of those whose events it holds."""

    def is_coming(self, number: int, offset: int) -> bool:
        """Whether a register's event is on its way, and not yet in the queue."""

    def on_reading(self) -> bool:
        """The consumer has taken a `Gap` and reads; returns whether it reads this one's past."""

    def leave(self, first: int, stop: int) -> None:
        """No event of segments [first, stop) is of interest any more."""

    def close(self) -> None:
        """No event is of interest any more."""


class EventQueue:
    """The events of several subscriptions as one stream for one consumer."""

    def __init__(self, on_close: Callable[[EventQueue], None] = lambda _: None) -> None:
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._is_gap_queued = False
        self._queued: dict[tuple[int, int], int] = {}
        self._ready = asyncio.Event()
        self._closed: Exception | None = None
        self._subscriptions: list[Source] = []
        self._on_close = on_close

    def add(self, source: Source) -> None:
        """One more source."""
        self._subscriptions.append(source)

    def emit(self, event: Event, source: int = 0) -> None:
        """Called by the sources.  A consumer that is far behind gets a `Gap` in place of all.

        Args:
            source: which of the subscriptions, in the order in which they were added.
        """
        full = len(self._events) >= KNOBS.registers_queue_events
        if full or self._bytes >= KNOBS.registers_queue_bytes:
            self._forget()
            event = Gap()
        if isinstance(event, Gap):
            if self._is_gap_queued:
                return  # the consumer reads after this moment anyway
            self._is_gap_queued = True
        self._events.append(event)
        if isinstance(event, Wrote):
            at = (event.number, event.offset)
            if not self._subscriptions or self._subscriptions[source].is_coming(*at):
                self._queued[at] = source
            self._bytes += len(event.value)
        self._ready.set()

    def _forget(self) -> None:
        self._events.clear()
        self._queued.clear()
        self._bytes = 0
        self._is_gap_queued = False

    def fail(self, error: Exception) -> None:
        """End the stream with an error."""
        self._closed = error
        self._ready.set()

    def is_coming(self, number: int, offset: int) -> bool:
        """Whether the register's event is on its way, in its place among the others."""
        return (number, offset) in self._queued or any(
            subscription.is_coming(number, offset) for subscription in self._subscriptions
        )

    def leave(self, first: int, stop: int) -> None:
        """The consumer has heard all that is of interest to it of segments [first, stop)."""
        for subscription in self._subscriptions:
            subscription.leave(first, stop)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._closed:
                raise self._closed
            self._ready.clear()
            await self._ready.wait()
        event = self._events.popleft()
        if isinstance(event, Wrote):
            self._queued.pop((event.number, event.offset), None)
            self._bytes -= len(event.value)
        elif isinstance(event, Gap):
            self._is_gap_queued = False
            self._on_reading()
        return event

    def _on_reading(self) -> None:
        """The consumer reads; if it reads a source's past, what is queued of that is past, too."""
        past = {i for i, one in enumerate(self._subscriptions) if one.on_reading()}
        if past:
            self._queued = {at: i for at, i in self._queued.items() if i not in past}

    def close(self) -> None:
        """End the subscriptions, and the iteration."""
        if not isinstance(self._closed, StopAsyncIteration):
            self._forget()
            self.fail(StopAsyncIteration())
            for subscription in self._subscriptions:
                subscription.close()
            self._on_close(self)
