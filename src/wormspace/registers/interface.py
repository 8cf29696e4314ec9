"""What a write-once register is, whatever stands behind it.

Registers live in segments named by a space and a number.  An implementation offers the calls of
`Registers`; all of them are linearizable, take a deadline in seconds of the running loop's clock,
and raise `Unavailable` when it passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol, Self, TypeAlias

import msgspec

from wormspace.addresses import SegmentName, Span
from wormspace.registers.token import Token


class Captured(msgspec.Struct, frozen=True):
    """A capture that was granted: the token, and what was already written in its range."""

    token: Token
    written: Mapping[int, bytes]


class Wrote(msgspec.Struct, frozen=True):
    """An event: the register is decided, and this is its value."""

    space: str
    number: int
    offset: int
    value: bytes


class RegistersTrimmed(msgspec.Struct, frozen=True):
    """An event: segments [number, stop) of the space were trimmed."""

    space: str
    number: int
    stop: int


class Gap(msgspec.Struct, frozen=True):
    """An event: some events may have been missed; read what matters, then go on."""


Event: TypeAlias = Wrote | RegistersTrimmed | Gap


class ServerState(msgspec.Struct, frozen=True):
    """One server as a client sees it."""

    server: str
    partition: int
    reachable: bool
    trouble: str
    metrics: dict[str, int]


class RegisterState(msgspec.Struct, frozen=True):
    """One register as one server sees it.

    Attributes:
        promised, accepted: by whose capture, for people; "-" for nobody's.
    """

    offset: int
    promised: str
    accepted: str
    decided: bool
    value: bytes | None


class EventStream(Protocol):
    """What `listen` returns: an asynchronous iterator of events, to be closed."""

    def __aiter__(self) -> Self:
        """Itself."""

    async def __anext__(self) -> Event:
        """The next event; `Closed` if the client was closed."""

    def is_coming(self, number: int, offset: int) -> bool:
        """Whether an event for this register is on its way.

        Whoever reads a register while it listens asks this before it takes the reading for news:
        the event has its place in the order of decisions, the reading has none.
        """

    def leave(self, first: int, stop: int) -> None:
        """No event of segments [first, stop) is of interest any more: need not be remembered."""

    def close(self) -> None:
        """Stop listening, which ends the iteration; harmless when repeated."""


class Registers(Protocol):
    """An implementation of write-once registers."""

    @property
    def max_value(self) -> int:
        """The largest value a register takes, in bytes."""

    async def capture(
        self, segment_name: SegmentName, start: int, stop: int, deadline: float
    ) -> Captured:
        """Capture [start, stop), from whomever holds it, and decide what is half-written there.

        Raises:
            Trimmed: the segment is garbage.
            Unavailable: no majority answered in time.
        """

    def write(
        self,
        segment_name: SegmentName,
        token: Token | None,
        offset: int,
        value: bytes,
        deadline: float,
    ) -> asyncio.Future[None]:
        """Write one register under a token, or unsafely (None).  Done when it is decided.

        Raises (from the call itself, nothing being sent):
            BadToken, TokenReused, ValueTooLarge.
        Raises (from the future):
            CaptureLost: somebody captured it meanwhile; the outcome is unknown.
            AlreadyWritten: the register holds another value.
            Trimmed: the segment is garbage.
            Unavailable: the outcome is unknown.
        """

    def read_one(
        self, segment_name: SegmentName, offset: int, deadline: float
    ) -> asyncio.Future[bytes | None]:
        """The value of one register; None if it is empty, linearizably so."""

    async def read(
        self, segment_name: SegmentName, spans: list[Span], deadline: float
    ) -> Mapping[int, bytes]:
        """The values of the written registers in `spans`; those not in the result are empty."""

    async def read_page(
        self, segment_name: SegmentName, spans: list[Span], deadline: float
    ) -> tuple[Mapping[int, bytes], int]:
        """As `read`, of as many registers as travel in one message.

        Returns:
            The values of the written registers below an offset, and that offset: from there on
            nothing was read.  It is the end of the spans if all of it was.
        """

    async def holds(
        self, segment_name: SegmentName, token: Token | None, offset: int, deadline: float
    ) -> bool:
        """Whether nobody captured the register since the token's capture; writes nothing.

        Without a token: whether nobody ever captured it.

        True is linearizable: at some moment of the call, nobody else's capture was granted.

        Raises:
            BadToken: the token does not cover the register, or is of other registers than these.
            Trimmed: the segment is garbage.
        """

    async def trim(
        self, segment_name: SegmentName, stop: int, deadline: float, *, told_from: int | None = None
    ) -> None:
        """Make segments [segment_name's number, stop) garbage, for ever.  Their trim is decided
        first.

        The trim of [told_from, segment's number) was decided before, perhaps by somebody who could
        not tell a majority of the servers: they are told again.
        """

    def listen(self, space: str, first: int, stop: int) -> EventStream:
        """Events of segments [first, stop) of the space, from now on.

        The first event is a `Gap`, sent when the subscription stands: whatever is decided after
        it is delivered, each register once.  A later `Gap` says that a connection was lost.
        """

    async def trims(
        self, space: str, first: int, stop: int, deadline: float
    ) -> tuple[list[Span], int]:
        """Which segments of [first, stop) are trimmed, as a majority was told; there may be more.

        Returns:
            Ascending spans, which may reach beyond [first, stop), and a number: from there on
            nothing was read.  It is `stop` if all was.
        """

    async def spaces(self, deadline: float) -> list[str]:
        """The names of the spaces that hold something, in order."""

    async def servers(self, deadline: float) -> list[ServerState]:
        """Every server, and what it says of itself."""

    async def inspect(
        self, segment_name: SegmentName, start: int, stop: int, deadline: float
    ) -> dict[str, list[RegisterState] | None]:
        """What each server holds of [start, stop); None if it did not say all of it in time.

        Raises:
            BadAddress: these are too many registers for one answer.
        """

    async def close(self) -> None:
        """Give up all that is under way (`Closed`) and disconnect."""
