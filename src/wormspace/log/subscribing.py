"""Subscriptions: every entry once, in order, from history into the present, past the holes.

Two ways to learn what is new, and the subscription takes the one that is cheaper at the moment.
When it is behind it reads pages of registers: one message to one server brings hundreds, so a
reader is several times as fast as any number of appenders.  When it has caught up it listens, and
learns of an entry at the moment its appender does.  The position decides what is delivered, so
changing over loses nothing and repeats nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from wormspace.errors import Trimmed, Unavailable
from wormspace.log.records import Entry, decode_entry
from wormspace.log.tape import Tape
from wormspace.space import Address, TrimmedAway, Written

PAGE = 1024
"""Positions read at a time by one who is behind."""

CAUGHT_UP = 64
"""A page that brings fewer entries than this shows that there is no more to read for now."""

BEHIND = 1024
"""With more entries than this arrived and not consumed, it is cheaper to read than to listen."""

POLL_S = 0.01
RETRY_S = 0.1


class Subscription:
    """One pass over a log from a position on.

    Args:
        tape: the log's entries.
        start: the first position to deliver.
        patience_s: how long a position may stay empty, while later ones are written, before it is
            made a hole.
        gone: makes the error for a position that was trimmed.
    """

    def __init__(
        self,
        tape: Tape,
        start: int,
        patience_s: float,
        gone: Callable[[int], Awaitable[Exception]],
    ) -> None:
        self._tape = tape
        self._next = start
        self._patience_s = patience_s
        self._gone = gone
        self._rng = tape.space.client.rng
        self._loop = asyncio.get_running_loop()
        self._stuck_at = -1
        self._stuck_until = 0.0

    async def entries(self) -> AsyncIterator[Entry]:
        """All entries, without end.

        Raises:
            LogTrimmed: the next position was trimmed before it was delivered.
        """
        while True:
            try:
                behind = True
                while behind:
                    values, gap = await self._page()
                    for entry in self._deliver(values):
                        yield entry
                    if gap:
                        await self._wait(self._next + gap, lambda: asyncio.sleep(POLL_S))
                    behind = bool(gap) or len(values) >= CAUGHT_UP
                async for entry in self._live():
                    yield entry
            except Trimmed as e:
                raise await self._gone(self._next) from e
            except Unavailable:
                await asyncio.sleep(RETRY_S)

    def _deliver(self, values: list[bytes]) -> list[Entry]:
        """The entries among the next values."""
        start = self._next
        self._next += len(values)
        return [decode_entry(raw, p) for p, raw in enumerate(values, start) if raw]

    async def _wait(self, stop: int, pause: Callable[[], Awaitable[object]]) -> None:
        """The next position is empty, and `stop` is written: wait, or fill what is between."""
        now = self._loop.time()
        if self._stuck_at != self._next:
            self._stuck_at = self._next
            # Not all readers at once: they would take the registers from each other.
            self._stuck_until = now + self._patience_s * self._rng.uniform(1.0, 1.2)
        left = self._stuck_until - now
        try:
            if left > 0:
                async with asyncio.timeout(left):
                    await pause()
                return
        except TimeoutError:
            pass
        await self._tape.fill(self._next, stop)

    # ------------------------------------------------------------ behind: read

    async def _page(self) -> tuple[list[bytes], int]:
        """The values from the next position on, and the width of a gap that follows them."""
        size = self._tape.size
        stop = self._next + min(PAGE, size - self._next % size)
        found = await self._tape.read(self._next, stop)
        values: list[bytes] = []
        for i, value in enumerate(found):
            if value is None:
                return values, next((k for k, v in enumerate(found[i:]) if v is not None), 0)
            values.append(value)
        return values, 0

    # ------------------------------------------------------------ caught up: listen

    async def _live(self) -> AsyncIterator[Entry]:
        """Entries as they are decided, until too many wait."""
        ear = _Ear(self._tape, self._next)
        try:
            while len(ear.arrived) <= BEHIND:
                values: list[bytes] = []
                while (value := ear.arrived.pop(self._next + len(values), None)) is not None:
                    values.append(value)
                for entry in self._deliver(values):
                    yield entry
                if self._next in ear.arrived:
                    continue
                ear.check(self._next)
                if ear.arrived:
                    await self._wait(min(ear.arrived), ear.news)
                else:
                    await ear.news()
        finally:
            await ear.close()


class _Ear:
    """Listens to the tape, and keeps what was written until it is asked for.

    Attributes:
        arrived: values by position.
    """

    def __init__(self, tape: Tape, start: int) -> None:
        self.arrived: dict[int, bytes] = {}
        self._tape = tape
        self._dropped = 0
        self._news = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._listen(start))

    async def _listen(self, start: int) -> None:
        size = self._tape.size
        try:
            async for event in self._tape.space.listen(Address.of(start, size)):
                if isinstance(event, Written):
                    if event.address.offset < size:
                        self.arrived[event.address.position(size)] = event.value
                        self._news.set()
                elif isinstance(event, TrimmedAway):
                    self._dropped = max(self._dropped, event.stop * size)
                    self._news.set()
        finally:
            self._news.set()

    def check(self, position: int) -> None:
        """Raise what ended the listening, or `Trimmed` if this position can never arrive."""
        if self._task.done():
            self._task.result()
        if position < self._dropped:
            raise Trimmed(f"position {position} was trimmed")

    async def news(self) -> None:
        """Wait until something arrives."""
        await self._news.wait()
        self._news.clear()

    async def close(self) -> None:
        """Stop listening."""
        self._task.cancel()
        await asyncio.wait([self._task])
