"""The vote store: votes cast, read, refused and followed, in the registers of a space.

A resource manager's process captures its vote segments ahead, whole, so that casting a vote is one
round trip.  Whoever gives up waiting for a vote captures its one register, which takes it from the
voter, and writes "no" there if it is empty.  Either way there is one vote in the end, and `cast`
and `refuse` both return the one that stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from wormspace.errors import (
    AlreadyWritten,
    CaptureLost,
    NotAllocated,
    PartialWrite,
    TokenReused,
    Trimmed,
    Unavailable,
    UsageError,
    WormError,
)
from wormspace.knobs import KNOBS
from wormspace.runtime.batching import Batcher
from wormspace.runtime.deadlines import left, within
from wormspace.runtime.tasks import Tasks
from wormspace.space import Address, Client, Segment, Written
from wormspace.tx.deciding import Vote, decode, encode
from wormspace.tx.names import TxId
from wormspace.tx.space import TransactionSpace, find_space, open_space
from wormspace.writer.segments import CapturedSegment, find_or_allocate

log = logging.getLogger("wormspace.tx")

OnVote = Callable[[TxId, str, Vote], None]

CAPTURE_S = 10.0
"""How long a segment's capture may take, which many votes may wait for."""

OPEN_S = 60.0
"""How long it may take to open the space, which goes on for who comes next."""


OnStands = Callable[[Vote | None, WormError | None], None]
"""Told the vote that stands, or why nobody knows which."""


class _Ballot(NamedTuple):
    """A vote on its way into its register."""

    offset: int
    manager: str
    txid: TxId
    vote: Vote
    deadline: float
    on_stands: OnStands


_offset = attrgetter("offset")


class VoteStore:
    """The votes of one transaction space, through one client.

    Args:
        client: the connection to the address space.
        space: the name of the transaction space.
        on_vote: told every vote that `follow` brings.
    """

    def __init__(self, client: Client, space: str, on_vote: OnVote) -> None:
        self.client = client
        self.space = space
        self._home: TransactionSpace | None = None
        self._opening: asyncio.Task[None] | None = None
        self._on_vote = on_vote
        self._held: OrderedDict[tuple[str, str, int], CapturedSegment] = OrderedDict()
        self._known: OrderedDict[tuple[str, str, int], Segment] = OrderedDict()
        self._capturing: dict[tuple[str, str, int], asyncio.Task[CapturedSegment]] = {}
        self._followed: OrderedDict[tuple[str, str], asyncio.Task[None]] = OrderedDict()
        self._tasks = Tasks(f"tx/{space}")
        self._loop = asyncio.get_running_loop()
        self._batcher = Batcher(self._send)

    @property
    def home(self) -> TransactionSpace:
        """The transaction space; whoever starts to work with it has opened it before.

        Raises:
            UsageError: it was not opened yet.
        """
        if self._home is None:
            raise UsageError(f"transaction space {self.space!r} is not open yet")
        return self._home

    @property
    def is_open(self) -> bool:
        """Whether `home` is known."""
        return self._home is not None

    async def open(self, deadline: float) -> TransactionSpace:
        """The transaction space; made if there is none.

        Raises:
            WrongKind, NewerFormat, Trimmed: it cannot be used.
            Unavailable.
        """
        while self._home is None:
            opening = self._opening
            if opening is None or opening.done():
                limit = max(deadline, within(OPEN_S))
                opening = self._opening = self._tasks.spawn(self._open(limit), _look_at)
            await asyncio.wait([opening], timeout=left(deadline))
            if not opening.done():
                raise Unavailable(f"transaction space {self.space!r} could not be opened in time")
            opening.result()
        return self._home

    async def _open(self, deadline: float) -> None:
        """Once for all who wait for it: they would be in each other's way."""
        self._home = await open_space(self.client, self.space, deadline)

    async def find(self, deadline: float) -> TransactionSpace | None:
        """As `open`, but None if there is none."""
        if self._home is None:
            self._home = await find_space(self.client, self.space, deadline)
        return self._home

    # ------------------------------------------------------------ voting

    def cast(
        self,
        manager: str,
        txid: TxId,
        vote: Vote,
        on_stands: OnStands,
        *,
        ahead: bool,
        deadline: float,
    ) -> None:
        """Vote in the manager's own register.

        Votes of one turn of the event loop that stand side by side are written together.

        Args:
            on_stands: told the vote that stands in the end, or the error: `Trimmed` if the
                transaction is over, which was not committed if this is the first vote;
                `Unavailable` if the vote may stand or not.
            ahead: write under the capture of the whole segment, made ahead; otherwise capture
                the register now, which costs another round trip.
        """
        number, offset = divmod(txid.number, self.home.segment_size)
        ballot = _Ballot(offset, manager, txid, vote, deadline, on_stands)
        held = self._held.get((manager, txid.initiator, number)) if ahead else None
        if held is None:
            self._tasks.spawn(self._cast_alone(ballot, ahead))
        else:
            self._put(held, ballot)

    def _put(self, held: CapturedSegment, ballot: _Ballot) -> None:
        """A vote that leaves at the end of this turn, if nobody was quicker."""
        if not held.token.is_free(ballot.offset):
            self._tasks.spawn(self._cast_alone(ballot, False))
            return
        if 2 * ballot.offset >= held.segment.size:
            initiator = ballot.txid.initiator
            self.prepare_segment(ballot.manager, initiator, held.segment.number + 1)
        self._batcher.add(held, ballot)

    async def _cast_alone(self, ballot: _Ballot, ahead: bool) -> None:
        """Vote where the segment is not captured (`ahead`: yet), or somebody was quicker."""
        _, manager, txid, vote, deadline, on_stands = ballot
        try:
            if ahead:
                number = txid.number // self.home.segment_size
                held = await self._capture((manager, txid.initiator, number), deadline)
                self._put(held, ballot)
                return
            stands = await self.refuse(manager, txid, vote, deadline=deadline)
        except WormError as e:
            on_stands(None, e)
        else:
            on_stands(stands, None)

    def _send(self, held: CapturedSegment, ballots: list[_Ballot]) -> None:
        """The turn of the loop is over: write what was cast, neighbours together."""
        run: list[_Ballot] = []
        for ballot in sorted(ballots, key=_offset):
            if run and ballot.offset != run[-1].offset + 1:
                self._tasks.spawn(self._write(held, run))
                run = []
            run.append(ballot)
        self._tasks.spawn(self._write(held, run))

    async def _write(self, held: CapturedSegment, run: list[_Ballot]) -> None:
        votes = [encode(ballot.vote) for ballot in run]
        deadline = max([ballot.deadline for ballot in run])
        failures: Sequence[WormError | None] = [None] * len(run)
        try:
            await held.segment.write_range(run[0].offset, votes, held.token, timeout=left(deadline))
        except PartialWrite as e:
            failures = e.results
        except WormError as e:
            failures = [e] * len(run)
        for ballot, failure in zip(run, failures, strict=True):
            if failure is None:
                ballot.on_stands(ballot.vote, None)
            elif isinstance(failure, CaptureLost | AlreadyWritten | TokenReused):
                # Somebody gave up waiting for it, or is about to; or it was cast before.
                self._tasks.spawn(self._cast_alone(ballot, False))
            else:
                ballot.on_stands(None, failure)

    async def refuse(self, manager: str, txid: TxId, vote: Vote, *, deadline: float) -> Vote:
        """Write `vote` if the register is empty; returns the vote that stands.

        Raises:
            Trimmed, Unavailable.
        """
        number, offset = txid.address((await self.open(deadline)).segment_size)
        segment = await self._segment(manager, txid.initiator, number, deadline)
        return decode(await segment.settle(offset, encode(vote), timeout=left(deadline)))

    async def read(self, manager: str, txid: TxId, *, deadline: float) -> Vote | None:
        """The vote that stands in a register, or None.

        Raises:
            Trimmed, Unavailable.
        """
        home = await self.find(deadline)
        if home is None:
            return None
        number, offset = txid.address(home.segment_size)
        try:
            segment = await self._segment(
                manager, txid.initiator, number, deadline, is_needed=False
            )
        except NotAllocated:
            return None
        raw = await segment.read(offset, timeout=left(deadline))
        return None if raw is None else decode(raw)

    # ------------------------------------------------------------ segments

    def prepare_segment(self, manager: str, initiator: str, number: int) -> None:
        """Begin to capture a vote segment, if that was not done yet."""
        key = (manager, initiator, number)
        if key not in self._held and key not in self._capturing:
            self._start_capture(key)

    def _start_capture(self, key: tuple[str, str, int]) -> asyncio.Task[CapturedSegment]:
        async def capture() -> CapturedSegment:
            try:
                deadline = within(CAPTURE_S)
                segment = await self._segment(*key, deadline)
                captured = await segment.capture(timeout=left(deadline))
                held = self._held[key] = CapturedSegment(segment, captured.token)
                while len(self._held) > KNOBS.tx_segments_held:
                    self._held.popitem(last=False)
                return held
            finally:
                del self._capturing[key]

        task = self._capturing[key] = self._tasks.spawn(capture(), _look_at)
        return task

    async def _capture(self, key: tuple[str, str, int], deadline: float) -> CapturedSegment:
        task = self._capturing.get(key) or self._start_capture(key)
        await asyncio.wait([task], timeout=left(deadline))
        if not task.done():
            raise Unavailable(f"{key[0]}'s vote segment could not be captured in time")
        return task.result()

    async def _segment(
        self, manager: str, initiator: str, number: int, deadline: float, *, is_needed: bool = True
    ) -> Segment:
        """The vote segment of that number, allocated by whoever needs it first.

        Raises:
            NotAllocated: it is not there yet, nor needed.
            WrongKind: the space is something else.
        """
        key, home = (manager, initiator, number), self.home
        segment = self._known.get(key)
        if segment is None:
            space, limit = self.client.space(home.vote_space(manager, initiator)), left(deadline)
            if is_needed:
                segment, _ = await find_or_allocate(
                    space, number, home.stamp, home.segment_size, limit
                )
            else:
                segment = await space.segment(number, timeout=limit)
            self._known[key] = home.check(segment)
            if len(self._known) > KNOBS.tx_segments_held:
                self._known.popitem(last=False)
        return segment

    def forget(self, manager: str, initiator: str, number: int) -> None:
        """A segment is not needed any more."""
        self._held.pop((manager, initiator, number), None)
        self._known.pop((manager, initiator, number), None)

    # ------------------------------------------------------------ listening

    def follow(self, manager: str, txid: TxId) -> None:
        """Hear of the manager's votes for the initiator, from this transaction's segment on."""
        key = (manager, txid.initiator)
        task = self._followed.get(key)
        if task is None or task.done():
            self._followed[key] = self._tasks.spawn(self._hear(*key, txid))
            if len(self._followed) > KNOBS.tx_spaces_followed:
                self._followed.popitem(last=False)[1].cancel()
        self._followed.move_to_end(key)

    async def _hear(self, manager: str, initiator: str, first: TxId) -> None:
        size = self.home.segment_size
        space = self.client.space(self.home.vote_space(manager, initiator))
        try:
            async for event in space.listen(Address(first.address(size).segment, 0)):
                if isinstance(event, Written):
                    txid = TxId(initiator, event.address.position(size))
                    self._on_vote(txid, manager, decode(event.value))
        except WormError as e:
            log.info("tx: no longer hears %s's votes: %s", manager, e)

    async def close(self) -> None:
        """Stop listening and capturing."""
        await self._tasks.close()


def _look_at(task: asyncio.Task[Any]) -> None:
    """What failed is done again when it is needed."""
    if not task.cancelled() and isinstance(task.exception(), Trimmed):
        log.info("tx: a vote segment was trimmed before it was used")
