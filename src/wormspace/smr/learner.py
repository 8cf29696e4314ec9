"""From registers to the state machine, in the order of addresses.

Registers come from whoever brings them: the space's listener, the leader's own writes, the captures
of somebody who takes over.  Each is applied once, when everything before it has been.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
from collections.abc import Callable

from wormspace.errors import Closed, NotAllocated, Trimmed, WormError, WrongIdentity
from wormspace.runtime.retrying import FOLLOW_RETRY_S
from wormspace.runtime.tasks import Tasks
from wormspace.smr.engine import Applied, Engine
from wormspace.smr.errors import OtherStrategy
from wormspace.smr.records import (
    Batch,
    Member,
    SegmentMetadata,
    decode_segment_metadata,
    identity_told,
)
from wormspace.space import Address, Allocated, SegmentsTrimmed, Space, Written

log = logging.getLogger("wormspace.smr")


class Learner:
    """Feeds an engine.

    Args:
        strategy: how it is decided who proposes, as this replica was told.
        on_applied: called with what became of a register's packets, and the batch, if it was one.
        on_missing: called when registers that were not applied yet have been trimmed away.
        on_failed: called when the engine cannot go on.

    Attributes:
        highest: the highest segment known, -1 if none.  What was applied may lead past it, so its
            metadata need not be known.
        told: the highest segment known that tells the space's identity, None if none.
        heard_at: the loop's time at which the last register was learned.
        on_change: called after a register or segment was learned, if set.
        on_leader: called when another segment is the highest, if set.
    """

    def __init__(
        self,
        space: Space,
        engine: Engine,
        strategy: str,
        on_applied: Callable[[list[Applied], Batch | None], None],
        on_missing: Callable[[], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        self.space = space
        self.engine = engine
        self.strategy = strategy
        self.highest = engine.position.segment - 1
        self.told: int | None = None
        self.heard_at = 0.0
        self.on_change: Callable[[], None] | None = None
        self.on_leader: Callable[[], None] | None = None
        self._on_applied = on_applied
        self._on_missing = on_missing
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self._sizes: dict[int, int] = {}
        self._segments_metadata: dict[int, SegmentMetadata] = {}
        self._pending: dict[int, dict[int, bytes]] = {}
        self._waiting: list[tuple[Address, int, asyncio.Future[None]]] = []
        self._given_up = 0  # of those who wait, at most
        self._count = itertools.count()
        self._tasks = Tasks(f"smr/{space.name}: listening")
        self._listening: asyncio.Task[None] | None = None
        self._failed = False

    @property
    def position(self) -> Address:
        """The next register to apply."""
        return self.engine.position

    @property
    def leader(self) -> Member | None:
        """Whom the highest segment names."""
        segment_metadata = self._segments_metadata.get(self.highest)
        return None if segment_metadata is None else segment_metadata.leader

    def segment_metadata(self, number: int) -> SegmentMetadata | None:
        """A segment's metadata, if the segment is known and not yet behind."""
        return self._segments_metadata.get(number)

    async def require_strategy(self) -> None:
        """Refuse to take part in a space of another kind, strategy, version or shape.

        Raises:
            WrongKind: the space is something else than a replicated object.
            OtherStrategy: it was begun with another leadership strategy.
            UpdateNeeded, ShapeChanged: this replica's class is not the object's.
            NewerFormat, Unavailable.
        """
        while True:
            try:
                raw = await self.space.check(await self.space.head())
            except NotAllocated:
                return  # the first segment tells, once it is there
            except Trimmed:
                continue
            self._check_strategy(decode_segment_metadata(raw, self.space.name))
            break
        await self._require_version()

    async def _require_version(self) -> None:
        """Refuse to take part with a class that is older than the object, or not its class.

        Raises:
            UpdateNeeded, ShapeChanged, Unavailable.
        """
        tail = await self.space.tail()
        if tail > await self.space.head():
            newest = decode_segment_metadata(await self.space.check(tail - 1), self.space.name)
            self._check_class(newest)

    def _check_class(self, segment_metadata: SegmentMetadata) -> None:
        what = f"{self.space.name!r} (a {segment_metadata.machine})"
        self.engine.lineage.at(segment_metadata.version, segment_metadata.shape, what)

    def require_ours(self, metadata: bytes) -> SegmentMetadata:
        """A segment's metadata; nothing is written into a segment before this was asked.

        Raises:
            WrongKind: the segment belongs to something else.
            NewerFormat, ProtocolViolation.
        """
        return decode_segment_metadata(metadata, self.space.name)

    async def identify(self) -> bytes:
        """The space's identity; b"" if nothing that is left there tells it.

        Raises:
            WrongKind, NewerFormat, Unavailable.
        """
        if self.engine.identity:
            return self.engine.identity
        for number in range(await self.space.head(), await self.space.tail()):
            with contextlib.suppress(Trimmed):
                segment_metadata = decode_segment_metadata(
                    await self.space.check(number), self.space.name
                )
                self._recognise(number, segment_metadata)
                if self.engine.identity:
                    break
        return self.engine.identity

    def _recognise(self, number: int, segment_metadata: SegmentMetadata) -> None:
        """
        Raises:
            WrongIdentity: the segment is in another space than those before.
        """
        identity, known = identity_told(number, segment_metadata), self.engine.identity
        if not identity:
            return
        if known and identity != known:
            raise WrongIdentity(
                f"segment {number} of {self.space.name!r} is of another space "
                f"({identity.hex()}) than what this replica has applied ({known.hex()}): the "
                "space was made anew, and has lost what it had"
            )
        self.engine.identity = identity
        self.told = number if self.told is None else max(self.told, number)

    def _begin(self, segment_metadata: SegmentMetadata) -> None:
        """The object is what its first segment says, up to the first upgrade."""
        if self.engine.position == Address(0, 0):
            what = f"{self.space.name!r} (a {segment_metadata.machine})"
            self.engine.begin(segment_metadata.version, segment_metadata.shape, what)

    def _check_strategy(self, segment_metadata: SegmentMetadata) -> None:
        if segment_metadata.strategy != self.strategy:
            raise OtherStrategy(
                f"{self.space.name!r} was begun by {segment_metadata.leader} with the leadership "
                f"{segment_metadata.strategy!r}, and this replica was told {self.strategy!r}: "
                "pass the same to all replicas, or use another name"
            )

    # ------------------------------------------------------------ what comes in

    def allocated(self, number: int, size: int, metadata: bytes) -> None:
        """A segment is there."""
        if number in self._sizes:
            return
        try:
            segment_metadata = self.require_ours(metadata)
            if number == 0:
                self._check_strategy(segment_metadata)
                self._begin(segment_metadata)
            self._recognise(number, segment_metadata)
        except WormError as e:
            self._fail(e)
            return
        self._segments_metadata[number] = segment_metadata
        self._sizes[number] = size
        if number >= self.highest:
            self._rise(number)
            self.heard_at = self._loop.time()
        self.advance()
        if self.on_change is not None:
            self.on_change()

    def _rise(self, number: int) -> None:
        """Another segment is the highest, or it has become known whose it is."""
        behind, self.highest = self.highest, number
        if behind < self.position.segment:
            self._forget(behind)
        if self.on_leader is not None:
            self.on_leader()

    async def recall(self) -> None:
        """Look up whose the highest segment is.

        No event tells of one that a snapshot was taken at the end of.

        Raises:
            Trimmed, Unavailable.
        """
        number = self.highest
        segment = await self.space.segment(number)
        if number == self.highest:
            self.allocated(number, segment.size, segment.metadata)

    def learn(self, address: Address, raw: bytes) -> None:
        """A register is decided."""
        position = self.engine.position
        if address < position:
            return
        self.heard_at = self._loop.time()
        self._pending.setdefault(address.segment, {})[address.offset] = raw
        if address == position:
            self.advance()
        if self.on_change is not None:
            self.on_change()

    def holds(self, address: Address) -> bool:
        """Whether the register is known, applied or not."""
        return address < self.position or address.offset in self._pending.get(address.segment, ())

    def ahead(self, number: int) -> list[int]:
        """The offsets of a segment that are known and wait for others before them."""
        return list(self._pending.get(number, ()))

    def advance(self) -> None:
        """Apply what can be."""
        engine = self.engine
        try:
            while not self._failed:
                number, offset = engine.position
                size = self._sizes.get(number)
                if size is None:
                    break
                raw = self._pending.get(number, {}).pop(offset, None)
                if raw is None:
                    break
                turns = len(self._segments_metadata[number].owners) or 1
                applied, batch = engine.apply(raw, size, turns)
                if engine.position.segment > number:
                    self._forget(number)
                self._on_applied(applied, batch)
        except Exception as e:  # noqa: BLE001 - whatever it is, the state cannot be trusted further
            self._fail(e)
        self._wake()

    def _fail(self, error: Exception) -> None:
        self._failed = True
        self._on_failed(error)

    def _forget(self, number: int) -> None:
        self._pending.pop(number, None)
        if number != self.highest:
            self._sizes.pop(number, None)
            self._segments_metadata.pop(number, None)

    # ------------------------------------------------------------ waiting

    async def reached(self, address: Address) -> None:
        """Wait until everything before `address` was applied."""
        if self.engine.position < address:
            future: asyncio.Future[None] = self._loop.create_future()
            waiting = (address, next(self._count), future)
            heapq.heappush(self._waiting, waiting)
            try:
                await future
            except asyncio.CancelledError:
                self._given_up += 1
                if 2 * self._given_up > len(self._waiting):  # so that each costs a constant
                    self._waiting = [one for one in self._waiting if not one[2].done()]
                    heapq.heapify(self._waiting)
                    self._given_up = 0
                raise

    def _wake(self) -> None:
        position = self.engine.position
        while self._waiting and self._waiting[0][0] <= position:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    # ------------------------------------------------------------ listening

    def listen(self) -> None:
        """Follow the space from the position on."""
        if self._listening is None:
            self._listening = self._tasks.spawn(self._listen())

    def stop_listening(self) -> None:
        """Stop following: a leader learns from its own writes."""
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None

    def install(self, engine: Engine) -> None:
        """Go on from a snapshot."""
        listening = self._listening is not None
        self.stop_listening()
        self.engine = engine
        for number in [n for n in self._pending if n < engine.position.segment]:
            self._forget(number)
        rest = self._pending.get(engine.position.segment, {})
        for offset in [o for o in rest if o < engine.position.offset]:
            del rest[offset]
        if engine.position.segment - 1 > self.highest:
            self._rise(engine.position.segment - 1)
        self.advance()
        if listening:
            self.listen()

    async def _listen(self) -> None:
        while True:
            try:
                async for event in self.space.listen(self.position):
                    if isinstance(event, Written):
                        self.learn(event.address, event.value)
                    elif isinstance(event, Allocated):
                        self.allocated(event.segment, event.size, event.metadata)
                    elif isinstance(event, SegmentsTrimmed) and event.stop > self.position.segment:
                        self._on_missing()
            except Closed:
                return
            except WormError as e:
                log.warning("following %s: %s", self.space.name, e)
                await asyncio.sleep(FOLLOW_RETRY_S)
            except Exception as e:  # noqa: BLE001 - whatever it is, nothing more would be heard
                self._fail(e)
                return
