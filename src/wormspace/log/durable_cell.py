"""A cell: a small value that is durable, named, and changes.

The newest register of a small segmented log.  Whoever sets it often holds a capture on the
segmented log and pays one round trip each time.  With the first value in a segment, the segments
before it are trimmed: a segment that is gone means that a newer value is there.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Generic, TypeVar

import msgspec

from wormspace.errors import AlreadyWritten, CaptureLost, Trimmed, WormError
from wormspace.knobs import KNOBS
from wormspace.log.errors import Deposed
from wormspace.log.ongoing import Ongoing
from wormspace.log.records import FORMAT, refuse_newer
from wormspace.log.segmented_log import SegmentedLog
from wormspace.log.spaces import require_ours
from wormspace.log.term import ReservedWriter, Term
from wormspace.malformed import MALFORMED

log = logging.getLogger("wormspace.log")

ABSENT = -1

T = TypeVar("T")


class _Value(msgspec.Struct, frozen=True, array_like=True, tag=FORMAT):
    """The nonce makes each setting a value of its own, which its setter recognises."""

    nonce: bytes
    body: msgspec.Raw


class DurableCell(Generic[T]):
    """A small value that is durable, and changes.

    Args:
        segmented_log: a segmented log of its own.
        kind: the type of the value.
    """

    def __init__(self, segmented_log: SegmentedLog, kind: type[T]) -> None:
        self._segmented_log = segmented_log
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._term: Term | None = None
        self._acquiring: Ongoing[Term] = Ongoing(f"{segmented_log.space.name}: the right to set it")
        self._turn = asyncio.Lock()
        self._is_ours = False

    def deadline(self) -> float:
        """By when something that nobody waits for should be done."""
        return self._segmented_log.space.client.deadline(None)

    def nonce(self) -> bytes:
        """Sixteen bytes that nobody else has."""
        return self._segmented_log.space.client.nonce()

    async def get(self) -> tuple[int, T] | None:
        """The newest value and its number, which rises with every setting; None if never set.

        Raises:
            WrongKind: the space is something else.
            Trimmed: somebody else has trimmed it; the value is lost.
            Unavailable.
        """
        await self._require_ours()
        looked_below = ABSENT
        while True:
            end = await self._segmented_log.end()
            try:
                return await self._newest(end)
            except Trimmed:
                if end == looked_below:
                    raise
                looked_below = end  # newer values pushed the old ones out while we looked

    async def _newest(self, end: int) -> tuple[int, T] | None:
        """The newest value below slot `end`.

        Raises:
            Trimmed: there is a newer one at `end` or above.
        """
        size = self._segmented_log.size
        while end > 0:
            # Never a page of two segments: the lower may be gone, and the upper have the value.
            start = max(end - KNOBS.log_cell_page, (end - 1) // size * size)
            values = await self._segmented_log.read(start, end)
            for slot in range(end - 1, start - 1, -1):
                raw = values[slot - start]
                if raw and (value := self._value(raw, slot)) is not None:
                    return slot, value
            end = start
        return None

    def _value(self, raw: bytes, slot: int) -> T | None:
        try:
            return self._decode(msgspec.msgpack.decode(raw, type=_Value).body)
        except MALFORMED as e:
            refuse_newer(raw)
            log.info("%s: slot %d has no value: %s", self._segmented_log.space.name, slot, e)
            return None

    async def put(self, value: T) -> None:
        """Set it.

        Raises:
            Unavailable: the outcome is unknown.
        """
        raw = self._encode(value)
        async with self._turn:
            while True:
                term = self._term or await self._acquiring.join(self._acquire)
                # Where that ends without an outcome, the right is as good as before: the next value
                # goes above the place of this one.
                if await self._write(term, raw) is not None:
                    return
                await self._lose()

    async def _acquire(self) -> Term:
        await self._require_ours()
        term = Term(self._segmented_log)
        await term.acquire()
        self._term = term
        return term

    async def replace(self, expected: int, value: T) -> int | None:
        """Set it if its number is still `expected` (`ABSENT`: if it was never set).

        Returns its new number, or None if somebody else was first.

        Raises:
            Unavailable: the outcome is unknown.
        """
        await self._require_ours()
        async with self._turn:
            await self._lose()
            term = Term(self._segmented_log)
            try:
                await term.acquire()
                found = await self._newest(term.at)
                if (found[0] if found else ABSENT) != expected:
                    return None
                return await self._write(term, self._encode(value))
            except Trimmed:
                return None  # a newer value pushed the old ones out
            finally:
                await term.close()

    async def _write(self, term: Term, raw: bytes) -> int | None:
        """Write it at the next position; None if the right to do so is gone."""
        if not term.left:
            try:
                await term.extend()
            except Deposed:
                return None
        [reserved] = term.take(1)
        position = reserved.segment * self._segmented_log.size + reserved.start
        try:
            await ReservedWriter(self._segmented_log, reserved).write(reserved.start, raw)
        except (CaptureLost, AlreadyWritten):
            if not await self._settle(position, raw):
                return None
        except Trimmed:
            return None  # newer values pushed it out
        self._segmented_log.saw(position)
        await self._trim_below(reserved.segment)
        return position

    async def _settle(self, position: int, raw: bytes) -> bool:
        try:
            return await self._segmented_log.settle(position, raw)
        except Trimmed:
            return False  # newer values pushed it out

    async def _trim_below(self, segment: int) -> None:
        """Let the values before the newest go; what fails here is done with a later value."""
        try:
            await self._segmented_log.space.trim_prefix(segment)
        except WormError as e:
            log.info("%s: old values stay for now: %s", self._segmented_log.space.name, e)

    async def _require_ours(self) -> None:
        if not self._is_ours:
            await require_ours(self._segmented_log.space, self._segmented_log.part)
            self._is_ours = True

    def _encode(self, value: T) -> bytes:
        body = msgspec.Raw(msgspec.msgpack.encode(value))
        return msgspec.msgpack.encode(_Value(self._segmented_log.space.client.nonce(), body))

    async def _lose(self) -> None:
        await self._acquiring.stop()
        term, self._term = self._term, None
        if term is not None:
            await term.close()

    async def close(self) -> None:
        """Stop what is under way in the background; nobody sets it here any more."""
        await self._acquiring.close()
        await self._lose()
