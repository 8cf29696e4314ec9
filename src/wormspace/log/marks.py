"""A mark: a small value that is durable, named, and changes.

The newest register of a small tape.  Whoever sets it often holds a capture on the tape and pays
one round trip each time.  With the first value in a segment, the segments before it are trimmed:
a segment that is gone means that a newer value is there.
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
from wormspace.log.spaces import require_ours
from wormspace.log.tape import Tape
from wormspace.log.tenure import Held, Tenure
from wormspace.malformed import MALFORMED

log = logging.getLogger("wormspace.log")

ABSENT = -1

T = TypeVar("T")


class _Value(msgspec.Struct, frozen=True, array_like=True, tag=FORMAT):
    """The nonce makes each setting a value of its own, which its setter recognises."""

    nonce: bytes
    body: msgspec.Raw


class Mark(Generic[T]):
    """One such value.

    Args:
        tape: a tape of its own.
        kind: the type of the value.
    """

    def __init__(self, tape: Tape, kind: type[T]) -> None:
        self._tape = tape
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._tenure: Tenure | None = None
        self._acquiring: Ongoing[Tenure] = Ongoing(f"{tape.space.name}: the right to set it")
        self._turn = asyncio.Lock()
        self._is_ours = False

    def deadline(self) -> float:
        """By when something that nobody waits for should be done."""
        return self._tape.space.client.deadline(None)

    def nonce(self) -> bytes:
        """Sixteen bytes that nobody else has."""
        return self._tape.space.client.nonce()

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
            end = await self._tape.end()
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
        size = self._tape.size
        while end > 0:
            # Never a page of two segments: the lower may be gone, and the upper have the value.
            start = max(end - KNOBS.log_mark_page, (end - 1) // size * size)
            values = await self._tape.read(start, end)
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
            log.info("%s: slot %d has no value: %s", self._tape.space.name, slot, e)
            return None

    async def put(self, value: T) -> None:
        """Set it.

        Raises:
            Unavailable: the outcome is unknown.
        """
        raw = self._encode(value)
        async with self._turn:
            while True:
                tenure = self._tenure or await self._acquiring.join(self._acquire)
                # Where that ends without an outcome, the right is as good as before: the next value
                # goes above the place of this one.
                if await self._write(tenure, raw) is not None:
                    return
                await self._lose()

    async def _acquire(self) -> Tenure:
        await self._require_ours()
        tenure = Tenure(self._tape)
        await tenure.acquire()
        self._tenure = tenure
        return tenure

    async def replace(self, expected: int, value: T) -> int | None:
        """Set it if its number is still `expected` (`ABSENT`: if it was never set).

        Returns its new number, or None if somebody else was first.

        Raises:
            Unavailable: the outcome is unknown.
        """
        await self._require_ours()
        async with self._turn:
            await self._lose()
            tenure = Tenure(self._tape)
            try:
                await tenure.acquire()
                found = await self._newest(tenure.at)
                if (found[0] if found else ABSENT) != expected:
                    return None
                return await self._write(tenure, self._encode(value))
            except Trimmed:
                return None  # a newer value pushed the old ones out
            finally:
                await tenure.close()

    async def _write(self, tenure: Tenure, raw: bytes) -> int | None:
        """Write it at the next position; None if the right to do so is gone."""
        if not tenure.left:
            try:
                await tenure.extend()
            except Deposed:
                return None
        [run] = tenure.take(1)
        position = run.segment * self._tape.size + run.start
        try:
            await Held(self._tape, run).write(run.start, raw)
        except (CaptureLost, AlreadyWritten):
            if not await self._settle(position, raw):
                return None
        except Trimmed:
            return None  # newer values pushed it out
        self._tape.saw(position)
        await self._trim_below(run.segment)
        return position

    async def _settle(self, position: int, raw: bytes) -> bool:
        try:
            return await self._tape.settle(position, raw)
        except Trimmed:
            return False  # newer values pushed it out

    async def _trim_below(self, segment: int) -> None:
        """Let the values before the newest go; what fails here is done with a later value."""
        try:
            await self._tape.space.trim_prefix(segment)
        except WormError as e:
            log.info("%s: old values stay for now: %s", self._tape.space.name, e)

    async def _require_ours(self) -> None:
        if not self._is_ours:
            await require_ours(self._tape.space, self._tape.part)
            self._is_ours = True

    def _encode(self, value: T) -> bytes:
        body = msgspec.Raw(msgspec.msgpack.encode(value))
        return msgspec.msgpack.encode(_Value(self._tape.space.client.nonce(), body))

    async def _lose(self) -> None:
        await self._acquiring.stop()
        tenure, self._tenure = self._tenure, None
        if tenure is not None:
            await tenure.close()

    async def close(self) -> None:
        """Stop what is under way in the background; nobody sets it here any more."""
        await self._acquiring.close()
        await self._lose()
