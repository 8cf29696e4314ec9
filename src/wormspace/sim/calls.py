"""The calls of a simulated client: how each is made and recorded.

A client keeps the promises that the API asks of it, and only these: the unsafe writes to a register
all carry one value, and a token is handed over, not shared: the receiver writes only registers that
the giver left alone.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import defaultdict
from collections.abc import Awaitable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import wormspace
from wormspace.errors import (
    AlreadyWritten,
    CaptureLost,
    NotAllocated,
    PartialWrite,
    ProtocolViolation,
    TokenReused,
    Trimmed,
    Unavailable,
    WormError,
)
from wormspace.registers.spec import NOBODY
from wormspace.sim.mix import Gift, Mix
from wormspace.sim.records import Records, WriteCall
from wormspace.space.client import Client
from wormspace.space.segment import Segment

PUSHES = 4
"""Registers that a client tries to write before it gives up."""
USED_TOKENS = 3
"""Tokens that a client keeps after it has written under them."""


async def _all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Make the calls at once; when all have ended, raise the first error among them."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


class Calls:
    """What one client can call: `on_...(space)`, each a call or a few that belong together."""

    def __init__(
        self, name: str, mix: Mix, records: Records, gifts: list[Gift], rng: Random
    ) -> None:
        self.name = name
        self.mix = mix
        self.records = records
        self.rng = rng
        self._gifts = gifts
        self._values = 0
        self._used: list[tuple[Segment, int, wormspace.Token]] = []
        self._segments: dict[str, list[Segment]] = defaultdict(list)
        self._ends: dict[tuple[str, int], int] = {}
        self._worm: Client | None = None

    @property
    def worm(self) -> Client:
        """The connection."""
        if self._worm is None:
            raise RuntimeError("not connected")
        return self._worm

    def fresh(self) -> bytes:
        """A value that nobody else writes."""
        self._values += 1
        return f"{self.name}:{self._values}".encode()

    # ------------------------------------------------------------ where

    async def _segment(self, space: str) -> Segment:
        """Some live segment; makes the first ones."""
        known = self._segments[space]
        if len(known) < self.mix.segments:
            await self._discover(space)
        if not known:
            await self.on_alloc(space)
        return self.rng.choice(known)

    async def _discover(self, space: str) -> None:
        tail = await self.tail(space)
        known = {segment.number for segment in self._segments[space]}
        for number in range(max(0, tail - self.mix.segments), tail):
            if number not in known:
                segment = await self._ask(space, number)
                if segment is not None:
                    self._keep(space, segment)

    def _keep(self, space: str, segment: Segment) -> None:
        known = self._segments[space]
        if segment.number not in [one.number for one in known]:
            known.append(segment)
            del known[: -2 * self.mix.segments]

    @contextmanager
    def _noticing_trims(self, space: str, number: int) -> Iterator[None]:
        """Around a call: it may be told that the segment is trimmed."""
        try:
            yield
        except Trimmed:
            self._gone(space, number)
            raise

    def _gone(self, space: str, number: int) -> None:
        self.records.was_trimmed(space, number)
        known = self._segments[space]
        known[:] = [segment for segment in known if segment.number != number]

    def _span(self, size: int) -> tuple[int, int]:
        if self.rng.random() < 0.1:
            return 0, size
        start = self.rng.randrange(size)
        return start, min(size, start + self.rng.randint(1, 5))

    # ------------------------------------------------------------ captures and writes

    async def _capture(self, segment: Segment, start: int, stop: int) -> wormspace.Captured:
        called = self.records.call()
        with self._noticing_trims(segment.space.name, segment.number):
            captured = await segment.capture(start, stop)
        segment_name = (segment.space.name, segment.number)
        token = captured.token
        self.records.captured(
            segment_name, (start, stop), self.name, called, token.fence, captured.written
        )
        return captured

    async def _recorded(
        self, segment: Segment, offset: int, fence: bytes, value: bytes, call: Awaitable[None]
    ) -> None:
        self.records.call()
        where = (segment.space.name, segment.number, offset)
        entry = self.records.write(where, self.name, fence, value)
        try:
            await call
        except WormError as e:
            self._failed(segment, entry, e)
            raise
        self.records.done(entry)

    def _failed(self, segment: Segment, entry: WriteCall, error: WormError) -> None:
        if isinstance(error, AlreadyWritten):
            self.records.lost(entry, error.value)
        elif isinstance(error, TokenReused):
            self.records.refused(entry)
        elif isinstance(error, Trimmed):
            self._gone(segment.space.name, segment.number)

    async def _write(
        self, segment: Segment, offset: int, value: bytes, token: wormspace.Token
    ) -> None:
        call = segment.write(offset, value, token)
        await self._recorded(segment, offset, token.fence, value, call)

    async def on_write(self, space: str) -> None:
        """Capture one register and write it; sometimes write it again."""
        segment = await self._segment(space)
        offset = self.rng.randrange(segment.size)
        captured = await self._capture(segment, offset, offset + 1)
        if offset in captured.written and self.rng.random() < 0.8:
            return
        value = self.fresh()
        if self.rng.random() < 0.1:
            await self._write_twice(segment, offset, value, captured.token)
            return
        try:
            await self._write(segment, offset, value, captured.token)
        except Unavailable:
            whim = self.rng.random()
            if whim < 0.5:
                raise
            if whim < 0.7:
                await self._try_value(segment, offset, captured.token)
            else:
                await self._write(segment, offset, value, captured.token)

    async def _write_twice(
        self, segment: Segment, offset: int, value: bytes, token: wormspace.Token
    ) -> None:
        """The same write from two callers at once: both have an answer."""
        await _all(self._write(segment, offset, value, token) for _ in range(2))

    async def on_write_range(self, space: str) -> None:
        """Capture a range and write what is free, in one call or in several at once."""
        segment = await self._segment(space)
        captured = await self._capture(segment, *self._span(segment.size))
        token = captured.token
        free = list(token.free())
        if not free:
            return
        if self.rng.random() < 0.5:
            chosen = [offset for offset in free if self.rng.random() < 0.7]
            await _all(self._write(segment, offset, self.fresh(), token) for offset in chosen)
            return
        await self._write_run(segment, free, token)

    async def _write_run(self, segment: Segment, free: list[int], token: wormspace.Token) -> None:
        """`write_range` on the first run of free registers."""
        run = [offset for i, offset in enumerate(free) if offset == free[0] + i]
        values = [self.fresh() for _ in run]
        self.records.call()
        entries = []
        for offset, value in zip(run, values, strict=True):
            where = (segment.space.name, segment.number, offset)
            entries.append(self.records.write(where, self.name, token.fence, value))
        results: list[WormError | None] = [None] * len(run)
        try:
            await segment.write_range(run[0], values, token)
        except PartialWrite as e:
            results = e.results
        for entry, result in zip(entries, results, strict=True):
            if result is None:
                self.records.done(entry)
            else:
                self._failed(segment, entry, result)
        for result in results:
            if isinstance(result, ProtocolViolation):
                raise result

    async def on_push(self, space: str) -> None:
        """Write the first free register of the newest segment, as all others try to meanwhile."""
        await self._segment(space)
        segment = max(self._segments[space], key=lambda one: one.number)
        at = (space, segment.number)
        for _ in range(PUSHES):
            offset = self._ends.get(at, 0)
            if offset == segment.size:
                await self._discover(space)
                if all(one.number <= segment.number for one in self._segments[space]):
                    await self.on_alloc(space)
                return
            captured = await self._capture(segment, offset, offset + 1)
            if offset in captured.written:
                self._ends[at] = offset + 1
                continue
            try:
                await self._write(segment, offset, self.fresh(), captured.token)
            except CaptureLost:
                continue  # another one's capture came between: that may come to nothing
            except AlreadyWritten:
                continue
            self._ends[at] = offset + 1
            return

    async def begin(self, space: str) -> wormspace.Token:
        """Allocate a segment and capture all of it."""
        await self.on_alloc(space)
        segment = self._segments[space][-1]
        return (await self._capture(segment, 0, segment.size)).token

    async def go_on(self, space: str, offset: int, token: wormspace.Token) -> None:
        """Write a register of the segment just begun."""
        await self._write(self._segments[space][-1], offset, self.fresh(), token)

    async def on_stale(self, space: str) -> None:
        """Keep a token for a while before it is used: by then it is likely to be stolen."""
        segment = await self._segment(space)
        captured = await self._capture(segment, *self._span(segment.size))
        await asyncio.sleep(self.rng.random() * 0.5)
        for offset in list(captured.token.free())[:2]:
            try:
                await self._write(segment, offset, self.fresh(), captured.token)
            except CaptureLost:
                if self.rng.random() < 0.5:
                    await self._settle(segment, offset)
                else:
                    await self._try_value(segment, offset, captured.token)

    async def on_reuse(self, space: str) -> None:
        """A second value under one token: refused, unless the first is known to be decided.

        At once, or under a token of old, when the client may have forgotten what it wrote.
        """
        if self._used and self.rng.random() < 0.6:
            used = self._used[self.rng.randrange(len(self._used))]
        else:
            segment = await self._segment(space)
            offset = self.rng.randrange(segment.size)
            captured = await self._capture(segment, offset, offset + 1)
            used = (segment, offset, captured.token)
            await self._try_value(*used)
            self._used = [*self._used[-USED_TOKENS:], used]
        if self.rng.random() < 0.7:
            await self._try_value(*used)

    async def _try_value(self, segment: Segment, offset: int, token: wormspace.Token) -> None:
        try:
            await self._write(segment, offset, self.fresh(), token)
        except (CaptureLost, Unavailable):
            self.records.count("second value tried")

    # ------------------------------------------------------------ tokens handed over

    async def on_hand_over(self, space: str) -> None:
        """Capture a range, write some of it, and give the rest away, token and all."""
        segment = await self._segment(space)
        captured = await self._capture(segment, *self._span(segment.size))
        # The receiver tries registers that were written, too: the token must know better.
        mine: list[int] = []
        theirs: list[int] = []
        for offset in range(captured.token.start, captured.token.stop):
            (mine if self.rng.random() < 0.3 else theirs).append(offset)
        gift = Gift(space, segment.number, str(captured.token), theirs)
        self._gifts.append(gift)
        for offset in mine:
            if captured.token.is_free(offset):
                await self._write(segment, offset, self.fresh(), captured.token)

    async def on_take_over(self, space: str) -> None:
        """Use a token that somebody gave away."""
        gifts = self._gifts
        if not gifts:
            await self.on_hand_over(space)
            return
        gift = gifts.pop(self.rng.randrange(len(gifts)))
        token = wormspace.Token.parse(gift.token)
        with self._noticing_trims(gift.space, gift.segment):
            segment = await self.worm.space(gift.space).segment(gift.segment)
        await _all(self._write(segment, offset, self.fresh(), token) for offset in gift.offsets)

    # ------------------------------------------------------------ without a capture

    async def on_unsafe(self, space: str) -> None:
        """An unsafe write: every register has one value that it may be given so."""
        segment = await self._segment(space)
        offset = self.rng.randrange(segment.size)
        where = f"{space}/{segment.number}/{offset}"
        if zlib.crc32(where.encode()) % 3:
            offset = 0
            where = f"{space}/{segment.number}/0"
        value = f"unsafe:{where}".encode()
        call = segment.unsafe_write(offset, value)
        await self._recorded(segment, offset, NOBODY, value, call)

    async def on_settle(self, space: str) -> None:
        """Decide a register one way or the other."""
        segment = await self._segment(space)
        await self._settle(segment, self.rng.randrange(segment.size))

    async def _settle(self, segment: Segment, offset: int) -> None:
        where = (segment.space.name, segment.number, offset)
        entry = self.records.settle(where, self.name)
        with self._noticing_trims(segment.space.name, segment.number):
            value = await segment.settle(offset, entry.input[1])
        self.records.settled(entry, value)

    # ------------------------------------------------------------ reads

    async def on_read(self, space: str) -> None:
        """Read one register."""
        segment = await self._segment(space)
        offset = self.rng.randrange(segment.size)
        called = self.records.call()
        with self._noticing_trims(space, segment.number):
            value = await segment.read(offset)
        self.records.read((space, segment.number, offset), self.name, called, value)

    async def on_read_range(self, space: str) -> None:
        """Read several registers in one call."""
        segment = await self._segment(space)
        await self.read_range(segment, *self._span(segment.size))

    async def read_range(self, segment: Segment, start: int, stop: int) -> None:
        """Read [start, stop), recorded."""
        called = self.records.call()
        with self._noticing_trims(segment.space.name, segment.number):
            values = await segment.read_range(start, stop)
        at = (segment.space.name, segment.number)
        self.records.read_range(*at, start, self.name, called, values)

    # ------------------------------------------------------------ segments

    async def on_alloc(self, space: str) -> None:
        """Allocate a segment."""
        payload = self.fresh()
        self.records.call()
        entry = self.records.allocate(space, self.name, payload)
        segment = await self.worm.space(space).alloc(payload, self.mix.size)
        self.records.allocated(entry, segment.number)
        self._keep(space, segment)

    async def on_tail(self, space: str) -> None:
        """Count the segments."""
        await self.tail(space)

    async def tail(self, space: str) -> int:
        """How many segments there are, recorded."""
        called = self.records.call()
        tail = await self.worm.space(space).tail()
        self.records.tail(space, called, tail)
        return tail

    async def on_check(self, space: str) -> None:
        """Ask what a segment is for."""
        await self._ask(space, self.rng.randrange(await self.tail(space) + 2))

    async def _ask(self, space: str, number: int) -> Segment | None:
        called = self.records.call()
        try:
            segment = await self.worm.space(space).segment(number)
        except Trimmed:
            self._gone(space, number)
        except NotAllocated:
            self.records.not_allocated(space, number, called)
        else:
            self.records.payload(space, number, segment.metadata)
            return segment
        return None

    async def look(self, space: str, number: int) -> None:
        """Read all of a segment, from whatever the servers say now."""
        segment = await self._ask(space, number)
        if segment is not None:
            try:
                await self.read_range(segment, 0, segment.size)
            except Trimmed:
                pass

    async def on_trim(self, space: str) -> None:
        """Make one segment garbage."""
        segment = await self._segment(space)
        entry = self.records.trim(space, segment.number, segment.number + 1)
        self.records.call()
        await segment.trim()
        self.records.trimmed(entry)
        self._gone(space, segment.number)

    async def on_trim_prefix(self, space: str) -> None:
        """Make all segments up to one garbage."""
        tail = await self.tail(space)
        stop = max(0, tail - self.rng.randint(0, self.mix.segments))
        entry = self.records.trim(space, 0, stop)
        self.records.call()
        await self.worm.space(space).trim_prefix(stop)
        self.records.trimmed(entry)
        for number in range(stop):
            self._gone(space, number)
