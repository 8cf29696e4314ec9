"""Segments: write-once registers that were allocated together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from wormspace.errors import (
    AlreadyWritten,
    BadAddress,
    CaptureLost,
    PartialWrite,
    UsageError,
    WormError,
)
from wormspace.registers.interface import Captured, RegisterState
from wormspace.registers.token import Token
from wormspace.runtime.retrying import Race
from wormspace.space.address import Address
from wormspace.space.arguments import as_bytes, as_int, as_token
from wormspace.space.connection import Connection
from wormspace.space.events import Event
from wormspace.space.stream import Stream


class Surroundings(Protocol):
    """The space that a segment belongs to, as the segment sees it."""

    name: str
    client: Connection

    async def trim(self, number: int, *, timeout: float | None = None) -> None: ...
    def listen(self, start: Address | int = 0, *, stop: int | None = None) -> Stream[Event]: ...


class Segment:
    """A handle on one allocated segment; get it from `Space.alloc` or `Space.segment`.

    Attributes:
        space: the space it belongs to.
        number: its place in the space, from 0.
        size: how many registers it has.
        metadata: what its allocator said it is for.

    Every call takes a `timeout` in seconds (default: the client's) and raises `Unavailable` when it
    passes, `Trimmed` once the segment is garbage, and `BadAddress` for offsets outside it.
    """

    def __init__(self, space: Surroundings, number: int, size: int, metadata: bytes) -> None:
        self.space = space
        self.number = number
        self.size = size
        self.metadata = metadata
        self._segment_name = (space.name, number)
        self._registers = space.client.registers
        self._deadline = space.client.deadline

    def __repr__(self) -> str:
        return f"<Segment {self.space.name}/{self.number} of {self.size} registers>"

    async def capture(
        self, start: int | None = None, stop: int | None = None, *, timeout: float | None = None
    ) -> Captured:
        """Capture registers: all of them, the one at `start`, or [start, stop).

        A capture takes the registers from whoever held them.  What was half-written is decided
        first, so the result says what is written, with values, and the rest is free: its token
        writes any value to a free register in one round trip, until somebody else captures it.
        """
        if start is None:
            if stop is not None:
                raise UsageError("stop needs a start: capture(0, stop)")
            start, stop = 0, self.size
        elif stop is None:
            stop = as_int(start, "start") + 1
        self._check(start, stop)
        if start == stop:
            raise BadAddress(f"[{start}:{stop}] is no register to capture")
        return await self._registers.capture(
            self._segment_name, start, stop, self._deadline(timeout)
        )

    async def write(
        self, offset: int, value: bytes, token: Token, *, timeout: float | None = None
    ) -> None:
        """Write a register, for ever; returns when it is decided.

        The same write again, with the same token and value, is always safe.

        Raises:
            CaptureLost: somebody captured it since; the outcome is unknown (`settle` it).
            AlreadyWritten: it holds another value.
            TokenReused: another value was issued under this token before.
            BadToken: the token does not cover it.
            ValueTooLarge.
        """
        if type(offset) is not int or not 0 <= offset < self.size:
            self._check_one(offset)
        if type(value) is not bytes or type(token) is not Token:
            value, token = as_bytes(value, "a value"), as_token(token)
        await self._registers.write(
            self._segment_name, token, offset, value, self._deadline(timeout)
        )

    async def write_range(
        self, start: int, values: Sequence[bytes], token: Token, *, timeout: float | None = None
    ) -> None:
        """Write `values` to consecutive registers from `start` on; each has a fate of its own.

        Raises:
            PartialWrite: some failed; its `results` has an error or None for each.
        """
        if isinstance(values, str | bytes | bytearray | memoryview):
            raise UsageError(f"values is a sequence of bytes, not one {type(values).__name__}")
        try:
            values = [as_bytes(value, "a value") for value in values]
        except TypeError:
            kind = type(values).__name__
            raise UsageError(f"values is a sequence of bytes, not {kind}") from None
        self._check(start, as_int(start, "start") + len(values))
        token = as_token(token)
        deadline = self._deadline(timeout)
        issued: dict[int, asyncio.Future[None]] = {}
        results: list[BaseException | None] = [None] * len(values)
        for i, value in enumerate(values):
            try:
                issued[i] = self._registers.write(
                    self._segment_name, token, start + i, value, deadline
                )
            except WormError as e:
                results[i] = e
        outcomes = await asyncio.gather(*issued.values(), return_exceptions=True)
        for i, outcome in zip(issued, outcomes, strict=True):
            results[i] = outcome
        self._raise_failures(start, results)

    async def unsafe_write(
        self, offset: int, value: bytes, *, timeout: float | None = None
    ) -> None:
        """Write a register without a capture: one round trip in all.

        Right only where the application guarantees that at most one client ever issues an unsafe
        write to this register.

        Raises:
            CaptureLost: somebody captured it; the outcome is unknown.
            ProtocolViolation: another value was written unsafely: the guarantee was broken.
        """
        if type(offset) is not int or not 0 <= offset < self.size:
            self._check_one(offset)
        if type(value) is not bytes:
            value = as_bytes(value, "a value")
        await self._registers.write(
            self._segment_name, None, offset, value, self._deadline(timeout)
        )

    async def read(self, offset: int, *, timeout: float | None = None) -> bytes | None:
        """The register's value, or None if it is empty.

        Linearizable: whatever was written before the call began is seen.  A register that is met
        half-written is completed.
        """
        if type(offset) is not int or not 0 <= offset < self.size:
            self._check_one(offset)
        return await self._registers.read_one(self._segment_name, offset, self._deadline(timeout))

    async def read_range(
        self, start: int = 0, stop: int | None = None, *, timeout: float | None = None
    ) -> list[bytes | None]:
        """The values of [start, stop), None where empty; `stop` defaults to the segment's end."""
        stop = self.size if stop is None else stop
        self._check(start, stop)
        if start == stop:
            return []
        found = await self._registers.read(
            self._segment_name, [(start, stop)], self._deadline(timeout)
        )
        return [found.get(offset) for offset in range(start, stop)]

    async def settle(
        self, offset: int, otherwise: bytes = b"", *, timeout: float | None = None
    ) -> bytes:
        """Decide the register, one way or the other, and return its value.

        For writes whose outcome is unknown: what one of them left half-written is completed; if
        none is met, `otherwise` is written.  Only a value ends them all: of a register that is
        merely found empty and captured, a later captor may still meet what a minority accepted.

        Raises:
            Unavailable: no majority in time; the register may have been decided all the same.
        """
        self._check_one(offset)
        otherwise = as_bytes(otherwise, "a value")
        deadline = self._deadline(timeout)
        race = Race(
            self.space.client.rng, f"settling {self.space.name}/{self.number}/{offset}", deadline
        )
        while True:
            captured = await self._registers.capture(
                self._segment_name, offset, offset + 1, deadline
            )
            if captured.written:
                return captured.written[offset]
            try:
                await self._registers.write(
                    self._segment_name, captured.token, offset, otherwise, deadline
                )
            except CaptureLost:
                await race.pause()
            except AlreadyWritten as e:
                return e.value
            else:
                return otherwise

    async def holds(
        self, token: Token | None, offset: int, *, timeout: float | None = None
    ) -> bool:
        """Whether nobody captured register `offset` since the token's capture.

        Without a token (None): whether nobody ever captured it.

        Asks a majority and writes nothing.  True is linearizable: at some moment of the call nobody
        else's capture had been granted, so nobody else had written there.  It says nothing of the
        moment after.

        Raises:
            BadToken: the token does not cover it.
        """
        self._check_one(offset)
        token = None if token is None else as_token(token)
        return await self._registers.holds(
            self._segment_name, token, offset, self._deadline(timeout)
        )

    async def trim(self, *, timeout: float | None = None) -> None:
        """Make the segment garbage, by consensus and for ever."""
        await self.space.trim(self.number, timeout=timeout)

    def listen(self, start: int = 0) -> Stream[Event]:
        """Writes to this segment from offset `start` on, past and to come; see `Space.listen`."""
        return self.space.listen(Address(self.number, start), stop=self.number + 1)

    async def inspect(
        self, start: int = 0, stop: int | None = None, *, timeout: float | None = None
    ) -> dict[str, list[RegisterState] | None]:
        """What each server holds of [start, stop), for people.

        Returns:
            By server, its registers that hold anything, in order; none if the segment is trimmed
            there, and None if it did not say all of it in time.

        Raises:
            BadAddress: these are more registers than one call shows (4,194,304): give a range.
        """
        stop = self.size if stop is None else stop
        self._check(start, stop)
        return await self._registers.inspect(
            self._segment_name, start, stop, self._deadline(timeout)
        )

    def _check_one(self, offset: int) -> None:
        self._check(offset, as_int(offset, "an offset") + 1)

    def _check(self, start: int, stop: int) -> None:
        start, stop = as_int(start, "start"), as_int(stop, "stop")
        if not 0 <= start <= stop <= self.size:
            what = f"offset {start}" if stop == start + 1 else f"[{start}:{stop}]"
            raise BadAddress(
                f"{what} is outside segment {self.space.name}/{self.number}, which has "
                f"{self.size} registers"
            )

    def _raise_failures(self, start: int, results: list[BaseException | None]) -> None:
        failures = [r for r in results if r is not None]
        if not failures:
            return
        outcomes: list[WormError | None] = []
        for result in results:
            if result is not None and not isinstance(result, WormError):
                raise result
            outcomes.append(result)
        raise PartialWrite(
            f"{len(failures)} of {len(results)} writes from {self.space.name}/{self.number}/"
            f"{start} on did not succeed; the first: {failures[0]}",
            outcomes,
        )
