"""The right to hand out the slots of a segmented log, and how it passes from one holder to the
next.

It is nothing but a capture: whoever captured the unwritten rest of the open segment last is the
holder, for nobody else's token writes there any more.  Before a segment is used up the holder
allocates and captures the next, and then writes the seal of this one *under the token of this
one*.  If that write succeeds, nobody had captured this segment until then, so the right has passed
to the next segment undivided; if it fails, the holder has been deposed and never uses the next.

A new holder therefore captures the rest of the open segment (and of the one before, where the old
holder may still be handing out what lies in front of the seal) before it hands out anything, and
fills what was left empty there.  It goes on in the next segment, of which nobody has handed out a
slot; or, where it does no harm that the values of two holders are mixed, one past the last slot
that is written.  Mixed they may be: a value that was written to a minority of servers before the
capture can be met by a later captor of its slot, who completes it.  Hence:

* nothing is put into a slot twice, because a register is written once;
* slots handed out later are higher than all in which a write was acknowledged before, whoever
  handed them out, because the tokens of those below are dead or their registers written.

Who the holder is need not be agreed on anywhere else: sequencers announce themselves only so that
appenders find them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

import msgspec

from wormspace.errors import (
    AlreadyWritten,
    CaptureLost,
    PartialWrite,
    Trimmed,
    WormError,
)
from wormspace.log.errors import Deposed
from wormspace.log.ongoing import Ongoing
from wormspace.log.records import HOLE
from wormspace.log.segmented_log import SegmentedLog
from wormspace.space import Segment, Token

MARGIN = 4
"""The next segment is made ready when less than 1/MARGIN of the current one is left."""

UNSAFE = b""
"""Instead of a fence, of slots that are written without a capture."""


class ReservedRange(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive registers of a segment, given to one appender, who alone may write them.

    Attributes:
        fence: of the capture that covers them; empty for the unsafe write.
    """

    segment: int
    start: int
    stop: int
    fence: bytes

    def token(self, space: str) -> Token | None:
        """What to write them with; None for the unsafe write."""
        if self.fence == UNSAFE:
            return None
        return Token(space, self.segment, self.start, self.stop, self.fence)


class _Unreserved:
    """The part of a segment that is still to be handed out."""

    def __init__(self, number: int, at: int, stop: int, fence: bytes) -> None:
        self.number = number
        self.at = at
        self.stop = stop
        self.fence = fence
        self.seal: bytes | None = None  # what was sent as its seal: a retry sends the same

    @property
    def left(self) -> int:
        return self.stop - self.at

    def reserved(self, count: int) -> ReservedRange:
        """Hand out `count` registers."""
        start = self.at
        self.at += count
        return ReservedRange(self.number, start, self.at, self.fence)


async def _nothing() -> bytes:
    return b"-"


class Term:
    """One holder's right over a segmented log, from `acquire` until somebody else acquires.

    Args:
        segmented_log: whose slots are handed out.
        unsafe: do not capture segments that this holder has allocated itself: they are written
            with the unsafe write, which is right because nobody else hands them out.  Whoever
            takes over captures them, and no unsafe write succeeds any more.
        mixed: go on in a segment of which another holder has handed out slots.
        seal: what to write into the seal of a segment that is left; never the empty value.
    """

    def __init__(
        self,
        segmented_log: SegmentedLog,
        *,
        unsafe: bool = False,
        mixed: bool = True,
        seal: Callable[[], Awaitable[bytes]] = _nothing,
    ) -> None:
        self._segmented_log = segmented_log
        self._unsafe = unsafe
        self._mixed = mixed
        self._seal = seal
        self._now: _Unreserved | None = None
        self._next: _Unreserved | None = None
        self._extending: Ongoing[None] = Ongoing(f"{segmented_log.space.name}: the next segment")

    @property
    def at(self) -> int:
        """The slot that will be handed out next."""
        unreserved = self._current()
        return unreserved.number * self._segmented_log.size + unreserved.at

    @property
    def left(self) -> int:
        """How many slots can be handed out at once."""
        unreserved = self._current()
        return unreserved.left + (self._next.left if self._next else 0)

    def covers(self, fence: bytes) -> bool:
        """Whether slots under this fence are (still) handed out here."""
        unreserved_parts = (self._now, self._next)
        return any(
            unreserved is not None and unreserved.fence == fence for unreserved in unreserved_parts
        )

    async def stands(self) -> bool:
        """Whether nobody had acquired the segmented log at some moment of this call.

        The seal tells: a successor captures it, and nobody who only fills a hole does.
        """
        unreserved, segmented_log = self._current(), self._segmented_log
        token = ReservedRange(
            unreserved.number, segmented_log.size, segmented_log.size + 1, unreserved.fence
        ).token(segmented_log.space.name)
        try:
            return await segmented_log.segment(unreserved.number).holds(token, segmented_log.size)
        except Trimmed:
            return False

    def _current(self) -> _Unreserved:
        if self._now is None:
            raise Deposed("this sequencer holds nothing")
        return self._now

    # ------------------------------------------------------------ taking

    def take(self, count: int) -> list[ReservedRange]:
        """Hand out `count` slots, or as many as there are."""
        ranges = []
        while count:
            unreserved = self._current()
            size = min(count, unreserved.left)
            if size:
                ranges.append(unreserved.reserved(size))
                count -= size
            elif self._next is None:
                break
            else:
                self._now, self._next = self._next, None
        return ranges

    def look_ahead(self) -> None:
        """Begin to make the next segment ready, if it is time to; nobody waits for it."""
        if self._next is None and self._current().left * MARGIN < self._segmented_log.size:
            self._extending.begin(self._make_next)

    async def extend(self) -> None:
        """Make the next segment ready.

        Raises:
            Deposed: somebody else has acquired the segmented log; nothing more can be handed out.
            Unavailable: not in time; it may be tried again.
        """
        if self._next is None:
            await self._extending.join(self._make_next)

    async def close(self) -> None:
        """Stop what is under way in the background."""
        await self._extending.stop()

    # ------------------------------------------------------------ acquiring

    async def acquire(self) -> None:
        """Become the holder: from now on nobody else's slots can be written.

        Raises:
            Unavailable: not in time.
        """
        await self.close()
        self._now = self._next = None
        open_segment = await self._segmented_log.open_segment()
        number = max(0, open_segment - 1)
        while True:
            unreserved = await self._take_over(number)
            if unreserved is not None:
                self._now = unreserved
                return
            number += 1

    async def _take_over(self, number: int) -> _Unreserved | None:
        """Capture what is left of a segment; None if the segmented log goes on in the next."""
        segmented_log = self._segmented_log
        own = number == 0 and await segmented_log.allocated(0)
        try:
            low = await segmented_log.written_offset(number)
            captured = await segmented_log.segment(number).capture(low, segmented_log.size + 1)
        except Trimmed:
            return None
        written = captured.written
        closed = segmented_log.size in written
        last = max((offset for offset in written if offset < segmented_log.size), default=low - 1)
        if last >= low:
            segmented_log.saw(number * segmented_log.size + last)
        # Who has allocated a segment 0 in which nothing is written is the first ever to hold it:
        # others would not have handed out its slots.
        goes_on = self._mixed or (own and last < 0)
        stop = last + 1 if goes_on and not closed else segmented_log.size
        left_empty = [offset for offset in range(low, stop) if offset not in written]
        await self._fill(segmented_log.segment(number), left_empty, captured.token)
        if closed:
            return None
        return _Unreserved(number, stop, segmented_log.size, captured.token.fence)

    async def _fill(self, segment: Segment, offsets: list[int], token: Token) -> None:
        """Make holes of what the last holder handed out and nobody wrote."""
        junk = (segment.write(offset, HOLE, token) for offset in offsets)
        for result in await asyncio.gather(*junk, return_exceptions=True):
            # Whoever captured one of them since then decides it.
            if isinstance(result, BaseException) and not isinstance(result, WormError):
                raise result

    # ------------------------------------------------------------ the next segment

    async def _make_next(self) -> None:
        """Allocate (or adopt) the next segment, capture it, and move the right there."""
        segmented_log, current = self._segmented_log, self._current()
        number = current.number + 1
        mine = await segmented_log.allocated(number)
        if mine and self._unsafe:
            fence = UNSAFE
        else:
            try:
                captured = await segmented_log.segment(number).capture()
            except Trimmed as e:
                raise Deposed(
                    f"{segmented_log.space.name}: another sequencer has been to {number}"
                ) from e
            if captured.written:
                raise Deposed(
                    f"{segmented_log.space.name}: somebody else already writes to {number}"
                )
            fence = captured.token.fence
        await self._close(current)
        self._next = _Unreserved(number, 0, segmented_log.size, fence)

    async def _close(self, unreserved: _Unreserved) -> None:
        """Write the seal, which proves that nobody has taken over."""
        segmented_log = self._segmented_log
        if unreserved.seal is None:
            unreserved.seal = await self._seal()
        reserved = ReservedRange(
            unreserved.number, segmented_log.size, segmented_log.size + 1, unreserved.fence
        )
        try:
            await ReservedWriter(segmented_log, reserved).write(segmented_log.size, unreserved.seal)
        except (CaptureLost, AlreadyWritten, Trimmed) as e:
            raise Deposed(f"{segmented_log.space.name}: another sequencer has taken over") from e


class ReservedWriter:
    """A reserved range with what it takes to write it.

    Attributes:
        first: the slot at offset 0 of its segment.
        fence: the reserved range's.
    """

    __slots__ = ("_segment", "_start", "_token", "fence", "first")

    def __init__(self, segmented_log: SegmentedLog, reserved: ReservedRange) -> None:
        self.first = reserved.segment * segmented_log.size
        self.fence = reserved.fence
        self._start = reserved.start
        self._token = reserved.token(segmented_log.space.name)
        self._segment = segmented_log.segment(reserved.segment)

    def write(
        self, offset: int, value: bytes, timeout: float | None = None
    ) -> Coroutine[object, object, None]:
        """Write one register.

        Raises (when awaited):
            CaptureLost, AlreadyWritten: it was taken away; the outcome is unknown.
            Trimmed, Unavailable, ValueTooLarge.
        """
        if self._token is None:
            return self._segment.unsafe_write(offset, value, timeout=timeout)
        return self._segment.write(offset, value, self._token, timeout=timeout)

    async def write_all(self, values: list[bytes], timeout: float) -> None:
        """Write all registers of the reserved range, in as few messages as there can be.

        Raises:
            PartialWrite: some failed.
        """
        if self._token is not None:
            await self._segment.write_range(self._start, values, self._token, timeout=timeout)
            return
        writes = (self.write(self._start + i, value, timeout) for i, value in enumerate(values))
        results: list[WormError | None] = []
        for result in await asyncio.gather(*writes, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, WormError):
                raise result
            results.append(result)
        if any(results):
            raise PartialWrite(f"{self._segment!r}: some writes did not succeed", results)
