"""Registers as a single leader writes them: held segments, several registers in flight.

A *term* begins with a segment that the leader allocated, and by whose metadata the others find it.
Everything below that segment is *closed* first: its rest is captured, which decides what was
half-written and locks out whoever led before; gaps are filled with no-ops, and a seal says that the
segment ends there.  Only then does the term propose.  When the segment is half full, the next one
is allocated and captured, so that the turn of a segment costs nothing.

Losing a register does not end a term: a reader may have had to capture one to complete it.  Then
the rest is captured again, and what was lost is proposed again; sessions make that harmless.  A
term ends when somebody else has allocated a segment above.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from wormspace.errors import RaceLost, Unavailable
from wormspace.runtime.batching import EndOfTurn
from wormspace.runtime.retrying import RETRY_S
from wormspace.runtime.tasks import Tasks
from wormspace.smr.learner import Learner
from wormspace.smr.records import NOOP, SEAL, Packet
from wormspace.smr.replica_context import NotLeading, ReplicaContext
from wormspace.smr.shared import Shared
from wormspace.space import Address, Segment, Space, Token
from wormspace.writer.segments import CapturedSegment

log = logging.getLogger("wormspace.smr")


class Deposed(NotLeading):
    """Somebody else has allocated a segment above this leader's."""


async def complete(learner: Learner, segment: Segment) -> tuple[Token, int, bool]:
    """Capture what of a segment was not applied here; decide it, fill its gaps, learn it.

    Returns:
        The token, the first free register, and whether the segment was sealed before.
    """
    while True:
        position = learner.position
        start = position.offset if position.segment == segment.number else 0
        captured = await segment.capture(start, segment.size)
        written = captured.written
        seals = [offset for offset, value in written.items() if value == SEAL]
        end = min(seals) if seals else max(written, default=start - 1) + 1
        gaps = [offset for offset in range(start, end) if offset not in written]
        try:
            await asyncio.gather(*(segment.write(o, NOOP, captured.token) for o in gaps))
        except RaceLost:
            continue  # somebody captured it meanwhile
        learner.allocated(segment.number, segment.size, segment.metadata)
        for offset in gaps:
            learner.learn(Address(segment.number, offset), NOOP)
        for offset, value in written.items():
            learner.learn(Address(segment.number, offset), value)
        return captured.token, end, bool(seals)


async def close(learner: Learner, segment: Segment) -> None:
    """End a segment where it is: nothing more is ever applied of it."""
    while True:
        token, end, sealed = await complete(learner, segment)
        if sealed or end >= segment.size:
            return
        try:
            await segment.write(end, SEAL, token)
        except RaceLost:
            continue
        learner.learn(Address(segment.number, end), SEAL)
        return


async def close_below(space: Space, learner: Learner, stop: int) -> None:
    """Close every segment below `stop` that was not applied to its end."""
    while learner.position.segment < stop:
        segment = await space.segment(learner.position.segment)
        learner.require_ours(segment.metadata)
        await close(learner, segment)


class Term:
    """One leader's time: from its capture to its loss.

    Attributes:
        confirmed_at: the loop's time when what a majority last granted was asked for.
    """

    def __init__(self, context: ReplicaContext, first: Segment) -> None:
        self._context = context
        self._loop = context.loop
        self._segments = [CapturedSegment(first, _NO_TOKEN)]
        self._queue: list[Packet] = []
        self._lost: list[tuple[Address, list[Packet]]] = []
        self._writes = Tasks(f"{context.member}: a write")
        self._extending = Tasks(f"{context.member}: the next segment")
        self._end_of_turn = EndOfTurn(self.flush)
        self._open = False
        self._ended = False
        self._trouble = asyncio.Event()
        self._error: Exception | None = None
        self._confirmation = Shared(self._confirm)
        self.confirmed_at = self._loop.time()

    # ------------------------------------------------------------ life

    async def rule(self, on_ready: Callable[[], None], period: float) -> None:
        """Take over, then lead until deposed.  `period`: how often to make sure, in seconds.

        Raises:
            Deposed, Trimmed, Unavailable.
        """
        context = self._context
        first = self._segments[0].segment
        await close_below(context.space, context.learner, first.number)
        await self._hold(self._segments[0])
        self._open = True
        on_ready()
        while True:
            try:
                async with asyncio.timeout(period):
                    await self._trouble.wait()
            except TimeoutError:
                await self._keep()
                continue
            await self._recover()

    def end(self) -> None:
        """Stop; what is under way may or may not succeed."""
        self._open, self._ended = False, True
        self._writes.cancel()
        self._extending.cancel()
        self._confirmation.end()

    async def _hold(self, held: CapturedSegment) -> None:
        held.token, held.next, sealed = await complete(self._context.learner, held.segment)
        if sealed:
            raise Deposed(f"segment {held.segment.number} was closed by another replica")

    async def _recover(self) -> None:
        """Registers were lost: find out whether the term is over, and if not, go on."""
        self._open = False
        while self._error is None and (under_way := [*self._writes, *self._extending]):
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        if self._error is not None:
            raise self._error
        context = self._context
        top = self._segments[-1].segment.number
        if await context.space.tail() > top + 1:
            raise Deposed(f"another replica has allocated a segment above {top}")
        lost, self._lost = sorted(self._lost, key=lambda one: one[0]), []
        # What was lost may be in a segment that was used up, and left, meanwhile.
        await close_below(context.space, context.learner, self._segments[0].segment.number)
        for held in self._segments:
            await self._hold(held)
        self._segments = [h for h in self._segments[:-1] if not h.is_full] + self._segments[-1:]
        self._queue[:0] = [packet for _, packets in lost for packet in packets]
        self._trouble.clear()
        self._open = True
        self._extend()
        self.flush()

    async def _keep(self) -> None:
        """Now and then: let happen what is due, and see that the capture stands."""
        if not self._writes and self._context.is_due():
            self._write([])
        else:
            try:
                await self._stands()
            except (Unavailable, NotLeading) as e:  # the next time tells more
                log.info("%s: leading, but out of touch: %s", self._context.member, e)

    # ------------------------------------------------------------ proposing

    def offer(self, packet: Packet) -> None:
        """Queue a packet; those of one turn of the loop go into one register."""
        self._queue.append(packet)
        self._end_of_turn.request()

    def flush(self) -> None:
        """Write what is queued, as far as the pipeline has room."""
        while self._queue and self._open and len(self._writes) < self._context.tuning.pipeline:
            if self._segments[0].is_full and len(self._segments) < 2:
                return  # the next segment is on its way
            self._write(self._context.take(self._queue))

    def _write(self, packets: list[Packet]) -> None:
        held = self._segments[0]
        if held.is_full:
            if len(self._segments) < 2:
                return
            self._segments.pop(0)
            held = self._segments[0]
        offset = held.next
        held.next += 1
        self._extend()
        work = self._insist(held, offset, packets, self._context.batch(packets))
        self._writes.spawn(work, self._on_written)

    async def _insist(
        self, held: CapturedSegment, offset: int, packets: list[Packet], raw: bytes
    ) -> None:
        """Write one register, for as long as it takes."""
        address = Address(held.segment.number, offset)
        while True:
            asked = self._loop.time()
            try:
                await held.segment.write(offset, raw, held.token)
            except Unavailable:
                await asyncio.sleep(RETRY_S)  # the same token and value: always safe
            except RaceLost:
                self._lost.append((address, packets))
                self._trouble.set()
                return
            else:
                self.confirmed_at = max(self.confirmed_at, asked)
                self._context.learner.learn(address, raw)
                return

    def _on_written(self, task: asyncio.Task[None]) -> None:
        self._look_at(task)
        if self._queue:
            self.flush()

    def _look_at(self, task: asyncio.Task[None]) -> None:
        """A task that has not done its work ends the term, whatever became of it.

        Else a register would stay empty that those behind it wait for, or the next segment absent.
        """
        if self._ended:
            task.cancelled() or task.exception()  # nobody waits for it any more
        elif task.cancelled():
            self._error = NotLeading("what this leader had begun was cancelled")
        elif (error := task.exception()) is not None:
            broken = NotLeading(f"this leader broke: {error!r}")
            self._error = error if isinstance(error, Exception) else broken
        if self._error is not None:
            self._trouble.set()

    # ------------------------------------------------------------ the next segment

    def _extend(self) -> None:
        if len(self._segments) < 2 and not self._extending:
            held = self._segments[0]
            if held.next * 2 >= held.segment.size:
                self._extending.spawn(self._allocate(), self._on_extended)

    async def _allocate(self) -> None:
        context = self._context
        mine = self._segments[-1].segment.number
        segment: Segment | None = None
        while True:
            try:
                if segment is None:
                    segment = await context.space.alloc(
                        context.segment_metadata(), context.tuning.segment_size
                    )
                if segment.number != mine + 1:
                    raise Deposed(f"another replica has allocated segment {mine + 1}")
                held = CapturedSegment(segment, _NO_TOKEN)
                await self._hold(held)
            except Unavailable:
                await asyncio.sleep(RETRY_S)
            else:
                self._segments.append(held)
                return

    def _on_extended(self, task: asyncio.Task[None]) -> None:
        self._look_at(task)
        self.flush()

    # ------------------------------------------------------------ reading

    async def confirm(self) -> Address:
        """A position before which lies all that was acknowledged before the call.

        Raises:
            NotLeading, Unavailable, Trimmed, Closed: nobody knows.
        """
        return await self._confirmation.ask()

    async def _confirm(self) -> Address:
        """What this leader has applied, if nobody else led at some moment after the call."""
        position = self._context.learner.position
        if not await self._stands():
            raise NotLeading("another replica has taken over")
        return position

    async def _stands(self) -> bool:
        """Ask a majority whether the next register to write is still this leader's."""
        held = self._segments[0] if not self._segments[0].is_full else self._segments[-1]
        if held.is_full or not self._open:
            raise NotLeading("the leader is between two segments")
        asked = self._loop.time()
        if await held.segment.holds(held.token, held.next):
            self.confirmed_at = max(self.confirmed_at, asked)
            return True
        self._trouble.set()
        return False


_NO_TOKEN = Token("-", 0, 0, 0, b"-")
"""In place of a token until the segment is captured."""
