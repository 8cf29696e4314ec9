"""Registers over Paxos: the contract's calls as proposer operations on partitions.

Segments are spread over the partitions by space and number, so that consecutive segments of a space
use all of them.  See `wormspace.paxos` for the protocol and docs/safety.md for why it is safe.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import zlib
from collections.abc import Mapping
from functools import partial

from wormspace.addresses import TRIM, SegmentName, Span
from wormspace.errors import (
    AlreadyWritten,
    CaptureLost,
    Closed,
    ProtocolViolation,
    TokenReused,
    Trimmed,
    Unavailable,
    WormError,
)
from wormspace.knobs import KNOBS
from wormspace.paxos import prepare, reading
from wormspace.paxos.ballot import MAX_ROUND, UNSAFE, above, round_of
from wormspace.paxos.broadcast import Broadcast
from wormspace.paxos.messages import Trim
from wormspace.paxos.prepare import Prepare
from wormspace.paxos.reading import Reading
from wormspace.registers.event_queue import EventQueue
from wormspace.registers.interface import Captured, EventStream, RegisterState, ServerState
from wormspace.registers.paxos import administration, listening
from wormspace.registers.paxos.capture_check import CaptureCheckOperation
from wormspace.registers.paxos.capture_operation import CaptureOperation
from wormspace.registers.paxos.contention import Contention
from wormspace.registers.paxos.issued import Issued
from wormspace.registers.paxos.memory import BallotWrites, Memory, ballot_of
from wormspace.registers.paxos.operations import ReadOperation, TellOperation, WriteOperation
from wormspace.registers.paxos.partition import Partition
from wormspace.registers.paxos.read_batching import ReadBatcher
from wormspace.registers.spans import SpanSet, after, as_spans, shares
from wormspace.registers.token import Token
from wormspace.runtime.tasks import Tasks

ABSURD_ROUND = 1 << 62
"""Nobody gets so far by counting.  Such a round stands where somebody put it, and is not carried to
other registers: from one that nobody can capture any more, all would become so."""
HELP_S = 5.0
CLOSE_S = 1.0

TRIM_VALUE = b"trimmed"
"""What every trimmer writes, so that the unsafe write is safe: one value under one ballot."""


class PaxosRegisters:
    """Registers replicated over the partitions of a cluster (or one acceptor in this process).

    Args:
        partitions: the replica sets, in the cluster's order.
        rng: where the proposer id and back-off pauses come from.
    """

    def __init__(self, partitions: list[Partition], rng: random.Random) -> None:
        self._partitions = partitions
        self._contention = Contention(rng)
        self._proposer = rng.getrandbits(64).to_bytes(8, "big")
        self._seen = self._taken = UNSAFE
        self._loop = asyncio.get_running_loop()
        self._memory = Memory()
        self._tasks = Tasks("a register's operation")
        self._gathering = ReadBatcher(self.read, self._tasks.spawn)
        self._listenings: dict[EventQueue, None] = {}
        self._trimmed_told: dict[str, SpanSet] = {}
        self._closed = False
        self._ending = Tasks("closing a client")
        self._closing: asyncio.Task[None] | None = None
        for partition in partitions:
            partition.start()

    @property
    def max_value(self) -> int:
        return min(partition.max_value for partition in self._partitions)

    def _at(self, segment_name: SegmentName) -> Partition:
        self._check_open()
        space, number = segment_name
        return self._partitions[(zlib.crc32(space.encode()) + number) % len(self._partitions)]

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the client is closed")

    # ------------------------------------------------------------ capture

    async def capture(
        self, segment_name: SegmentName, start: int, stop: int, deadline: float
    ) -> Captured:
        space, number = segment_name
        floor = self._seen
        for attempt in itertools.count():
            await self._contention.pause(attempt, deadline)
            partition = self._at(segment_name)
            ballot = self._next_ballot(floor, segment_name)
            machine = Prepare(
                partition.size, space, number, start, stop, ballot, part=KNOBS.registers_part
            )
            operation = CaptureOperation(partition, machine, deadline)
            try:
                machine = await operation.run()
            except Trimmed:
                self.on_gone(segment_name)
                raise
            except Unavailable as e:
                raise Unavailable.contended(operation.what, attempt) if attempt > 1 else e from None
            if machine.phase == prepare.PROMISED and await self._complete(machine, deadline):
                self._contention.on_won()
                break
            self._contention.on_lost(attempt)
            floor = machine.top
            self.on_refused(floor)
            if self._loop.time() >= deadline:
                raise Unavailable.contended(operation.what, attempt)
        written = {row.offset: row.value for row in prepare.reported(machine)}
        token = Token(space, number, start, stop, ballot, as_spans(list(written)))
        return Captured(token, written)

    async def _complete(self, promised: Prepare, deadline: float) -> bool:
        """Decide what the capture met half-written; false if somebody else captured meanwhile."""
        segment_name = (promised.space, promised.segment)
        rows = {row.offset: row.value for row in prepare.undecided(promised)}
        results = await self._write_rows(segment_name, promised.ballot, rows, deadline)
        lost = False
        for result in results.values():
            if isinstance(result, CaptureLost):
                lost = True
            elif result is not None:
                raise result
        return not lost

    # ------------------------------------------------------------ write

    def write(
        self,
        segment_name: SegmentName,
        token: Token | None,
        offset: int,
        value: bytes,
        deadline: float,
    ) -> asyncio.Future[None]:
        ballot, taken = UNSAFE, False
        if token is not None:
            token.require(segment_name, offset)
            ballot = token.fence
            taken = bool(token.taken) and not token.is_free(offset)
        if self._closed:
            self._check_open()
        writes = self._memory.writes.get((segment_name, ballot))
        if writes is None or ballot == UNSAFE:
            if token is not None:
                ballot_of(token)
            writes = writes or self._memory.open(self._at(segment_name), segment_name, ballot)
        writes.partition.check(value)
        issued = writes.issued
        if (
            (taken or writes.is_forgotten or offset in issued.decided)
            and offset not in issued.open
            and offset not in issued.doubt
        ):
            return self._tasks.begin(self._compare_first(writes, offset, value, taken, deadline))
        return self._issue(writes, offset, value, deadline)

    def _issue(
        self, writes: BallotWrites, offset: int, value: bytes, deadline: float
    ) -> asyncio.Future[None]:
        """Write, unless another value has been issued for the register under this ballot."""
        if writes.is_refused or not writes.issued.issue(offset, value):
            raise _reused(writes, offset)
        operation = writes.gathering
        if operation is None:
            operation = writes.gather(self)
        elif operation.is_full:
            operation.begin()
            operation = writes.gather(self)
        return operation.add(offset, value, deadline)

    async def _compare_first(
        self, writes: BallotWrites, offset: int, value: bytes, taken: bool, deadline: float
    ) -> None:
        """A write to a register that is, or may be, written: right if it says the same."""
        segment_name = writes.segment_name
        where = f"{segment_name[0]}/{segment_name[1]}/{offset}"
        known = taken or offset in writes.issued.decided
        writes.comparing += 1  # so that it is not forgotten meanwhile
        try:
            held = (await self.read(segment_name, [(offset, offset + 1)], deadline)).get(offset)
        finally:
            writes.comparing -= 1
        if held is None:
            if known:
                raise ProtocolViolation(f"{where} was decided, and is empty now")
            if offset in writes.issued.decided:  # by another call, after it was read here
                await self._compare_first(writes, offset, value, taken, deadline)
            else:
                await self._issue(writes, offset, value, deadline)
        elif held != value:
            raise AlreadyWritten(f"{where} is already written, with another value", held)

    # ------------------------------------------------------------ read

    def read_one(
        self, segment_name: SegmentName, offset: int, deadline: float
    ) -> asyncio.Future[bytes | None]:
        return self._gathering.add(segment_name, offset, deadline)

    async def read(
        self, segment_name: SegmentName, spans: list[Span], deadline: float
    ) -> Mapping[int, bytes]:
        values, end = await self.read_page(segment_name, spans, deadline)
        rest = after(spans, end)
        if not rest:
            return values
        every = dict(values)
        parts = shares(rest, KNOBS.registers_pages_at_once)
        async with Tasks("a share of a read") as tasks:
            reading = [tasks.begin(self._read_on(segment_name, s, deadline)) for s in parts]
            for values in await asyncio.gather(*reading):
                every.update(values)
        return every

    async def _read_on(
        self, segment_name: SegmentName, spans: list[Span], deadline: float
    ) -> dict[int, bytes]:
        """Page after page."""
        every: dict[int, bytes] = {}
        while spans:
            values, end = await self.read_page(segment_name, spans, deadline)
            every.update(values)
            spans = after(spans, end)
        return every

    async def read_page(
        self, segment_name: SegmentName, spans: list[Span], deadline: float
    ) -> tuple[Mapping[int, bytes], int]:
        partition = self._at(segment_name)
        asked = tuple(spans[: KNOBS.registers_read_spans])
        machine = Reading(partition.size, *segment_name, spans=asked, first=partition.pick())
        operation = ReadOperation(partition, machine, deadline)
        try:
            machine = await operation.run()
        except Trimmed:
            self.on_gone(segment_name)
            raise
        values = {f.row.offset: f.row.value for f in machine.found if f.row.decided}
        if len(values) < len(machine.found):
            values.update(await self._conclude(segment_name, machine, deadline))
        return values, operation.end

    async def _conclude(
        self, segment_name: SegmentName, machine: Reading, deadline: float
    ) -> dict[int, bytes]:
        """The values that no server knows to be decided: a majority's, or half-written ones."""
        partition = self._at(segment_name)
        values: dict[int, bytes] = {}
        undecided: dict[bytes, dict[int, bytes]] = {}
        learned: dict[bytes, list[int]] = {}
        for found in machine.found:
            row = found.row
            if row.decided:
                continue
            if reading.is_known(found, machine.servers):
                values[row.offset] = row.value
                learned.setdefault(row.ballot, []).append(row.offset)
            else:
                undecided.setdefault(row.ballot, {})[row.offset] = row.value
        for ballot, offsets in learned.items():
            partition.mark(*segment_name, ballot, as_spans(offsets))
        for ballot, rows in undecided.items():
            values.update(await self._help(segment_name, ballot, rows, deadline))
        return values

    async def _help(
        self, segment_name: SegmentName, ballot: bytes, rows: dict[int, bytes], deadline: float
    ) -> dict[int, bytes]:
        """Complete half-written registers: the very same ballot and value, which steals nothing.

        Only where that is refused, because somebody captured the register since, is it captured.
        """
        values: dict[int, bytes] = {}
        results = await self._write_rows(segment_name, ballot, rows, deadline)
        for offset, result in results.items():
            if result is None:
                values[offset] = rows[offset]
            elif isinstance(result, CaptureLost):
                captured = await self.capture(segment_name, offset, offset + 1, deadline)
                values.update(captured.written)
            else:
                raise result
        return values

    async def _write_rows(
        self, segment_name: SegmentName, ballot: bytes, rows: dict[int, bytes], deadline: float
    ) -> dict[int, BaseException | None]:
        """Write values that were met in the registers, under this very ballot."""
        partition = self._at(segment_name)
        futures: dict[int, asyncio.Future[None]] = {}
        operation: WriteOperation | None = None
        for offset, value in rows.items():
            if operation is None or operation.is_full:
                operation = WriteOperation(partition, segment_name, ballot, Issued(), self)
                self._loop.call_soon(operation.begin)
            futures[offset] = operation.add(offset, value, deadline)
        results = await asyncio.gather(*futures.values(), return_exceptions=True)
        return dict(zip(futures, results, strict=True))

    async def holds(
        self, segment_name: SegmentName, token: Token | None, offset: int, deadline: float
    ) -> bool:
        if token is not None:
            token.require(segment_name, offset)
        ballot = UNSAFE if token is None else ballot_of(token)
        operation = CaptureCheckOperation(
            self._at(segment_name), segment_name, offset, ballot, deadline
        )
        return await operation.run()

    # ------------------------------------------------------------ operations.Owner

    def on_gone(self, segment_name: SegmentName) -> None:
        """A server says that the segment is trimmed; help the others to know."""
        told = self._trimmed_told.setdefault(segment_name[0], SpanSet())
        if segment_name[1] not in told and not self._closed:
            told.add(segment_name[1], segment_name[1] + 1)
            deadline = self._loop.time() + HELP_S
            self._tasks.spawn(self._discard_quietly(*segment_name, segment_name[1] + 1, deadline))

    def on_refused(self, promised: bytes) -> None:
        """Somebody captured what was written to: the next capture begins above."""
        if round_of(promised) < ABSURD_ROUND:
            self._seen = max(self._seen, promised)

    def _next_ballot(self, floor: bytes, segment_name: SegmentName) -> bytes:
        """A ballot of ours above `floor` and all others seen, which no other capture has."""
        low = max(floor, self._seen)
        if round_of(low) + 1 >= ABSURD_ROUND:  # which is not seen elsewhere, nor taken twice
            low = max(low, self._taken)
        if round_of(low) >= MAX_ROUND:
            raise ProtocolViolation(
                f"{segment_name[0]}/{segment_name[1]}: somebody captured registers with the "
                "highest ballot, so that nobody can capture them any more"
            )
        ballot = above(low, self._proposer)
        self._taken = max(self._taken, ballot)
        self.on_refused(ballot)
        return ballot

    # ------------------------------------------------------------ trim

    async def trim(
        self, segment_name: SegmentName, stop: int, deadline: float, *, told_from: int | None = None
    ) -> None:
        space, first = segment_name
        at_once = KNOBS.registers_trims_at_once
        for lo in range(first, stop, at_once):
            hi = min(stop, lo + at_once)
            # Everybody writes this very value there, so it need not be remembered.
            row = {TRIM: TRIM_VALUE}
            decided = [
                self._write_rows((space, number), UNSAFE, row, deadline) for number in range(lo, hi)
            ]
            for results in await asyncio.gather(*decided):
                result = results[TRIM]
                if result is not None and not isinstance(result, Trimmed):
                    raise result
        first = first if told_from is None else min(first, told_from)
        await self._discard(space, first, stop, deadline)

    async def _discard(self, space: str, first: int, stop: int, deadline: float) -> None:
        """The trim is decided: let the servers delete."""

        async def tell(partition: Partition) -> None:
            self._check_open()
            machine = Broadcast(partition.size, Trim(space, first, stop))
            what = f"trim of {space}/{first}..{stop - 1}"
            await TellOperation(partition, machine, what, deadline).run()

        await asyncio.gather(*(tell(partition) for partition in self._partitions))

    # ------------------------------------------------------------ listen

    def listen(self, space: str, first: int, stop: int) -> EventStream:
        self._check_open()

        async def read_one(segment_name: SegmentName, offset: int) -> bytes | None:
            return await self.read_one(segment_name, offset, self._loop.time() + HELP_S)

        events = EventQueue(on_close=lambda ended: self._listenings.pop(ended, None))
        for source, partition in enumerate(self._partitions):
            emit = partial(events.emit, source=source)
            one = listening.PartitionListener(
                partition, space, first, stop, read_one, emit, events.fail
            )
            events.add(one)
        self._listenings[events] = None
        return events

    # ------------------------------------------------------------ administration

    async def trims(
        self, space: str, first: int, stop: int, deadline: float
    ) -> tuple[list[Span], int]:
        return await administration.trims(self._at((space, 0)), space, first, stop, deadline)

    async def spaces(self, deadline: float) -> list[str]:
        self._check_open()
        return await administration.spaces(self._partitions, deadline)

    async def servers(self, deadline: float) -> list[ServerState]:
        self._check_open()
        return await administration.servers(self._partitions, deadline)

    async def inspect(
        self, segment_name: SegmentName, start: int, stop: int, deadline: float
    ) -> dict[str, list[RegisterState] | None]:
        return await administration.inspect(
            self._at(segment_name), segment_name, start, stop, deadline
        )

    # ------------------------------------------------------------ life

    async def close(self) -> None:
        if self._closing is None:
            self._closing = self._ending.begin(self._close())
        await asyncio.shield(self._closing)  # who stops waiting leaves it half-closed otherwise

    async def _close(self) -> None:
        self._closed = True
        error = Closed("the client was closed")
        for writes in self._memory.writes.values():
            writes.cancel(error)
        for listener in list(self._listenings):
            listener.fail(error)
        # Ends every operation with `Closed`, and so the tasks that wait for one; a task that is
        # cancelled instead would leave its callers waiting, or take them for cancelled.
        await asyncio.gather(*(partition.close(error) for partition in self._partitions))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
            self._tasks.cancel()

    async def _discard_quietly(self, space: str, first: int, stop: int, deadline: float) -> None:
        """Help that nobody waits for: its failure is somebody else's next attempt."""
        try:
            await self._discard(space, first, stop, deadline)
        except WormError:
            pass


def _reused(writes: BallotWrites, offset: int) -> TokenReused | CaptureLost:
    """The error for a value that is another one, or may be, than was sent under the ballot.

    Where it only may be, the capture is as good as lost: it is of no use here any more, and what
    was written under it has an unknown outcome.
    """
    space, number = writes.segment_name
    where = f"{space}/{number}/{offset}"
    what, way_on = "token", "capture the register again"
    if writes.ballot == UNSAFE:
        what, way_on = "unsafe ballot", "settle the register"
    if writes.is_refused:
        return CaptureLost(
            f"{where}: what this client wrote there under this {what} was so long ago that it does "
            f"not remember it, and the outcome may be unknown; nothing was sent: {way_on}"
        )
    return TokenReused(
        f"{where}: another value was issued under this {what}; only that very value may be sent "
        "again"
    )
