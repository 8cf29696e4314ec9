"""A mark: a small value that is durable, named, and changes.

The newest register of a small tape.  Whoever sets it often holds a capture on the tape and pays
one round trip each time; old values are trimmed away.
"""

from __future__ import annotations

import asyncio

import msgspec

from wormspace.errors import AlreadyWritten, CaptureLost, Trimmed
from wormspace.log.errors import Deposed
from wormspace.log.tape import Tape
from wormspace.log.tenure import Held, Tenure
from wormspace.space import Space

MARK_SIZE = 256
PAGE = 64
ABSENT = -1


class _Value(msgspec.Struct, frozen=True, array_like=True):
    """The nonce makes each setting a value of its own, which its setter recognises."""

    nonce: bytes
    body: bytes


class Mark:
    """One such value.

    Args:
        space: a space of its own.
    """

    def __init__(self, space: Space, size: int = MARK_SIZE) -> None:
        self._tape = Tape(space, size)
        self._tenure: Tenure | None = None
        self._turn = asyncio.Lock()

    async def get(self) -> tuple[int, bytes] | None:
        """The newest value and its number, which rises with every setting; None if never set."""
        while True:
            try:
                return await self._below(await self._tape.end())
            except Trimmed:
                continue  # newer values pushed the old ones out while we looked

    async def _below(self, end: int) -> tuple[int, bytes] | None:
        while end > 0:
            start = max(0, end - PAGE)
            values = await self._tape.read(start, end)
            for position in range(end - 1, start - 1, -1):
                raw = values[position - start]
                if raw:
                    return position, msgspec.msgpack.decode(raw, type=_Value).body
            end = start
        return None

    async def put(self, body: bytes) -> None:
        """Set it."""
        raw = self._encode(body)
        async with self._turn:
            while True:
                tenure = self._tenure
                if tenure is None:
                    tenure = self._tenure = Tenure(self._tape)
                    await tenure.acquire()
                try:
                    if await self._write(tenure, raw) is not None:
                        return
                    self._tenure = None
                except BaseException:
                    self._tenure = None
                    raise

    async def replace(self, expected: int, body: bytes) -> int | None:
        """Set it if its number is still `expected` (`ABSENT`: if it was never set).

        Returns its new number, or None if somebody else was first.
        """
        async with self._turn:
            self._tenure = None
            tenure = Tenure(self._tape)
            await tenure.acquire()
            try:
                found = await self._below(tenure.at)
            except Trimmed:
                return None  # a newer value pushed the old ones out
            if (found[0] if found else ABSENT) != expected:
                return None
            return await self._write(tenure, self._encode(body))

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
            if not await self._tape.settle(position, raw):
                return None
        self._tape.saw(position)
        if run.start == 0 and run.segment > 0:
            await self._tape.space.trim_prefix(run.segment)
        return position

    def _encode(self, body: bytes) -> bytes:
        return msgspec.msgpack.encode(_Value(self._tape.space.client.nonce(), body))

    async def close(self) -> None:
        """Stop what is under way in the background."""
        if self._tenure is not None:
            await self._tenure.close()
