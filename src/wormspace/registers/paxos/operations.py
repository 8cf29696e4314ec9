"""The proposer machines of `wormspace.paxos` under asyncio: timers, deadlines, futures.

Each class here feeds one machine with what comes in, sends what it wants sent, and ends with a
future.  Nothing here decides anything about registers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from wormspace.addresses import SegmentName
from wormspace.errors import (
    CaptureLost,
    Closed,
    ProtocolViolation,
    Refused,
    ServerFull,
    TokenReused,
    Trimmed,
    UsageError,
    ValueTooLarge,
    WormError,
)
from wormspace.knobs import KNOBS
from wormspace.paxos import accept, broadcast, reading
from wormspace.paxos.accept import Accept
from wormspace.paxos.ballot import UNSAFE
from wormspace.paxos.broadcast import Broadcast
from wormspace.paxos.effects import Send
from wormspace.paxos.messages import COMPLETE, Done, Report, SegmentTrimmed, Written
from wormspace.paxos.prepare import ClashingReports
from wormspace.paxos.quorum import is_quorum, out_of_reach
from wormspace.paxos.reading import Reading
from wormspace.registers.paxos.issued import Issued
from wormspace.registers.paxos.partition import Partition
from wormspace.registers.spans import as_spans
from wormspace.wire.messages import BAD_REQUEST, FULL, TOO_LARGE, Failed, ServerMessage

T = TypeVar("T")

RETRY_S = 0.5
RETRY_MAX_S = 4.0
"""How long the servers may stay silent before those that have not answered are sent the same again:
at first, and at most, since each silence doubles it."""

SAME_TIME_S = 0.001
"""Deadlines that differ by less are one."""


def gone(segment_name: SegmentName) -> Trimmed:
    """The error for an access to a trimmed segment."""
    return Trimmed(f"segment {segment_name[1]} of space {segment_name[0]!r} was trimmed")


class Base:
    """An operation's place in its partition, its retry timer and its deadline."""

    def __init__(self, partition: Partition, what: str, deadline: float) -> None:
        self.partition = partition
        self.what = what
        self.deadline = deadline
        self.loop = asyncio.get_running_loop()
        self.id = partition.enter(self)
        self.failures: dict[int, Failed] = {}
        self.over = False
        self._patience = RETRY_S
        self._progressed = False
        self._timer: asyncio.TimerHandle | None = None

    # What a subclass provides.

    def unanswered(self) -> Iterable[Send]:
        """What has not been answered."""
        raise NotImplementedError

    def on_reply(self, server: int, message: ServerMessage) -> None:
        """Feed the machine."""
        raise NotImplementedError

    def heard(self) -> int:
        """The mask of servers that have answered."""
        raise NotImplementedError

    def give_up(self) -> None:
        """A server is silent or down: end what a refusal has made hopeless without it."""

    def cancel(self, error: Exception) -> None:
        """End with this error."""
        raise NotImplementedError

    # What it gets.

    @property
    def is_everyone_heard(self) -> bool:
        """Whether nobody is left to wait for, but for servers that are down."""
        return not self.partition.up & ~self.heard()

    def begin(self) -> None:
        """Send for the first time, and start the clock."""
        self.post(self.unanswered())
        self.arm()

    def post(self, sends: Iterable[Send]) -> None:
        """Send."""
        self.partition.post(self.id, sends)

    def arm(self) -> None:
        """Wait for the next retry or the deadline."""
        at = min(self.loop.time() + self._patience, self.deadline)
        self._timer = self.loop.call_at(at, self._on_timer)

    def leave(self) -> None:
        """It is over."""
        self.over = True
        if self._timer:
            self._timer.cancel()
        self.partition.leave(self.id)

    def _on_timer(self) -> None:
        refusal = self.partition.refusal()
        if refusal:
            self.cancel(Refused(str(refusal), refusal.code))
        elif self.loop.time() >= self.deadline:
            self.expire()
        elif self._progressed:
            self._progressed = False
            self._patience = RETRY_S
            self.arm()
        else:
            self.failures.clear()
            self.give_up()
            if not self.over:
                self.on_silence()
            if not self.over:
                self._patience = min(RETRY_MAX_S, 2 * self._patience)
                self.arm()

    def on_silence(self) -> None:
        """Nobody has answered for a while: ask again."""
        self.post(self.unanswered())

    def expire(self) -> None:
        """The deadline has passed."""
        self.cancel(self.partition.unavailable(self.what, self.heard(), self.failures))

    def on_up(self, server: int) -> None:
        self.post(send for send in self.unanswered() if send.server == server)

    def on_down(self, server: int) -> None:
        """What was under way is sent again when the link is up."""
        if self.is_everyone_heard:
            self.give_up()

    def on_message(self, server: int, message: ServerMessage) -> None:
        if self.over:
            return
        if isinstance(message, Failed):
            self._on_failed(server, message)
            return
        self._progressed = True
        try:
            self.on_reply(server, message)
        except ClashingReports as e:
            self.cancel(self.clashing(e))

    def clashing(self, e: ClashingReports) -> ProtocolViolation:
        """The error for reports that contradict each other."""
        return ProtocolViolation(
            f"{self.what}: {e}: a capture token was used at two places at once, or two "
            "clients used the unsafe write on one register"
        )

    def _on_failed(self, server: int, failed: Failed) -> None:
        """A server could not do it, and changed nothing; others may yet make a majority."""
        self.failures[server] = failed
        same = sum(1 << s for s, other in self.failures.items() if other.code == failed.code)
        if not out_of_reach(same, self.partition.size):
            return
        text = f"{self.partition.links[server].name}: {failed.text}"
        if failed.code == TOO_LARGE:
            self.cancel(ValueTooLarge(f"{self.what}: {text}"))
        elif failed.code == BAD_REQUEST:
            self.cancel(UsageError(f"{self.what}: {text}"))
        elif failed.code == FULL:
            self.cancel(
                ServerFull(
                    f"{self.what}: too many servers have no room; {text}. "
                    "The outcome is unknown; the same call again is safe."
                )
            )


class Awaited(Base, Generic[T]):
    """An operation that one caller waits for, by `run` or by its future `done`."""

    def __init__(self, partition: Partition, what: str, deadline: float) -> None:
        super().__init__(partition, what, deadline)
        self.done: asyncio.Future[T] = self.loop.create_future()

    async def run(self) -> T:
        """Begin, and wait for the result; if the caller gives up, so does the operation."""
        self.begin()
        try:
            return await self.done
        except asyncio.CancelledError:
            self.cancel(Closed(f"{self.what} was cancelled"))
            raise

    def finish(self, result: T) -> None:
        """It is over, with this result."""
        self.leave()
        if not self.done.done():
            self.done.set_result(result)

    def cancel(self, error: Exception) -> None:
        self.leave()
        if not self.done.done():
            self.done.set_exception(error)


class ReadOperation(Awaited[Reading]):
    """Runs a `Reading` until it is answered, for as many registers as one report has.

    A server cuts a long report off.  What comes after the cut is not read here, so that each page
    has its own patience, and merging it costs what is in it (`end` says how far the reading went).
    """

    def __init__(self, partition: Partition, machine: Reading, deadline: float) -> None:
        super().__init__(partition, f"read of {machine.space}/{machine.segment}", deadline)
        self.machine = machine
        self.end = machine.spans[-1][1]

    def begin(self) -> None:
        self.machine, sends = reading.begin(self.machine)
        is_up = self.partition.links[self.machine.first].up
        self.post(sends if is_up else self.unanswered())
        self.arm()

    def unanswered(self) -> Iterable[Send]:
        self.machine, sends = reading.widen(self.machine)
        return sends

    def on_up(self, server: int) -> None:
        if self.machine.phase != reading.ASKING_ONE:
            super().on_up(server)

    def on_down(self, server: int) -> None:
        if self.machine.phase == reading.ASKING_ONE and server == self.machine.first:
            self.post(self.unanswered())

    def _on_failed(self, server: int, failed: Failed) -> None:
        super()._on_failed(server, failed)
        if not self.over and self.machine.phase == reading.ASKING_ONE:
            self.post(send for send in self.unanswered() if send.server != server)

    def heard(self) -> int:
        return self.machine.heard

    def on_reply(self, server: int, message: ServerMessage) -> None:
        if isinstance(message, SegmentTrimmed):
            self.cancel(gone((self.machine.space, self.machine.segment)))
        elif isinstance(message, Report):
            self._on_report(server, message)

    def _on_report(self, server: int, report: Report) -> None:
        if report.next != COMPLETE and report.next < self.end:
            if report.next <= self.machine.spans[0][0]:
                self.cancel(ProtocolViolation(f"{self.what}: a report that goes back"))
                return
            self.end = report.next
            self.machine = reading.narrow(self.machine, self.end)
        rows = report.rows
        if rows and rows[-1].offset >= self.end:
            rows = [row for row in rows if row.offset < self.end]
        whole = Report(rows, COMPLETE)
        self.machine, sends = reading.on_report(self.machine, server, whole)
        self.partition.post(self.id, sends)
        if self.machine.phase == reading.ANSWERED:
            self.finish(self.machine)


class TellOperation(Awaited[None]):
    """Runs a `Broadcast` until a majority has it."""

    def __init__(
        self, partition: Partition, machine: Broadcast, what: str, deadline: float
    ) -> None:
        super().__init__(partition, what, deadline)
        self.machine = machine

    def unanswered(self) -> Iterable[Send]:
        return broadcast.begin(self.machine)

    def heard(self) -> int:
        return self.machine.heard

    def on_reply(self, server: int, message: ServerMessage) -> None:
        if isinstance(message, Done | SegmentTrimmed):
            self.machine = broadcast.on_done(self.machine, server)
            if broadcast.finished(self.machine):
                self.finish(None)


class Owner(Protocol):
    """What a write tells whoever issued it, beside each register's fate."""

    def on_gone(self, segment_name: SegmentName) -> None:
        """The segment is trimmed."""

    def on_refused(self, promised: bytes) -> None:
        """A server has promised this ballot to somebody."""


class WriteOperation(Base):
    """Runs an `Accept` for many callers at once, each waiting for a register of its own.

    Writes of one segment under one ballot that are issued in one turn of the event loop leave as
    one message; each still has a fate of its own.
    """

    def __init__(
        self,
        partition: Partition,
        segment_name: SegmentName,
        ballot: bytes,
        issued: Issued,
        owner: Owner,
    ) -> None:
        super().__init__(partition, f"write to {segment_name[0]}/{segment_name[1]}", 0.0)
        self.segment_name = segment_name
        self.ballot = ballot
        self.issued = issued
        self.owner = owner
        self.values: dict[int, bytes] = {}
        self.size = 0
        self._most, self._most_bytes = KNOBS.registers_batch, KNOBS.registers_batch_bytes
        self.waiting: dict[int, asyncio.Future[None]] = {}
        self.joined: dict[int, list[asyncio.Future[None]]] = {}
        self.deadlines: dict[int, float] = {}
        self.machine: Accept | None = None

    def add(self, offset: int, value: bytes, deadline: float) -> asyncio.Future[None]:
        """One more register, before it begins (or one more caller for the same value)."""
        future: asyncio.Future[None] = self.loop.create_future()
        if offset in self.waiting:
            joined, latest = self.joined.setdefault(offset, []), self.deadlines[offset]
            if abs(deadline - latest) > SAME_TIME_S:
                early = [future] if deadline < latest else [self.waiting[offset], *joined]
                for caller in early:
                    self._limit(caller, min(deadline, latest))
            joined.append(future)
            self.deadlines[offset] = max(latest, deadline)
            return future
        self.values[offset] = value
        self.size += len(value) + 16
        self.waiting[offset] = future
        self.deadlines[offset] = deadline
        return future

    def _limit(self, caller: asyncio.Future[None], deadline: float) -> None:
        """This caller waits no longer, though others wait longer for the same register."""

        def expire() -> None:
            error = self.partition.unavailable(self.what, self.heard(), self.failures)
            if not caller.done():
                caller.set_exception(error)

        timer = self.loop.call_at(deadline, expire)
        caller.add_done_callback(lambda _: timer.cancel())

    @property
    def is_full(self) -> bool:
        """Whether one more register should go into another message."""
        return len(self.values) >= self._most or self.size >= self._most_bytes

    def begin(self) -> None:
        if self.over:
            return
        self.machine = Accept(
            self.partition.size,
            self.segment_name[0],
            self.segment_name[1],
            self.ballot,
            tuple(self.values),
            tuple(self.values.values()),
        )
        self._set_deadline()
        self.partition.send_marks()
        super().begin()

    def unanswered(self) -> Iterable[Send]:
        return accept.begin(self.machine) if self.machine is not None else ()

    def heard(self) -> int:
        return self.machine.answered if self.machine else 0

    def on_reply(self, server: int, message: ServerMessage) -> None:
        if isinstance(message, SegmentTrimmed):
            self.owner.on_gone(self.segment_name)
            self.cancel(gone(self.segment_name))
            return
        if not isinstance(message, Written) or self.machine is None:
            return
        machine = self.machine = accept.on_written(self.machine, server, message.refused)
        if not is_quorum(machine.answered, machine.servers):
            return
        lost, still_open = accept.lost(machine), accept.contested(machine)
        if machine.refusals:
            self.owner.on_refused(accept.obstacle(machine))
        for tally in lost:
            self._lose(tally)
        self._decide({tally.offset for tally in (*lost, *still_open)})
        if still_open and self.is_everyone_heard:
            self.give_up()
        if accept.finished(machine):
            self.leave()

    def give_up(self) -> None:
        machine = self.machine
        if machine is None or not is_quorum(machine.answered, machine.servers):
            return
        for tally in accept.contested(machine):
            self._lose(tally)
        self.leave()  # what nobody of a majority refused is decided

    def _decide(self, undecided: set[int]) -> None:
        if undecided:
            decided = {o: w for o, w in self.waiting.items() if o not in undecided}
            self.waiting = {o: w for o, w in self.waiting.items() if o in undecided}
        else:
            decided, self.waiting = self.waiting, {}
        if not decided:
            return
        for future in decided.values():
            if not future.done():
                future.set_result(None)
        for offset in self.joined.keys() & decided.keys():
            for future in self.joined.pop(offset):
                if not future.done():
                    future.set_result(None)
        spans = as_spans(sorted(decided))
        self.issued.decide(spans)
        self.partition.mark(*self.segment_name, self.ballot, spans)

    def _lose(self, tally: accept.Tally) -> None:
        if tally.offset not in self.waiting:
            return
        where = f"{self.segment_name[0]}/{self.segment_name[1]}/{tally.offset}"
        if tally.promised == self.ballot and self.ballot != UNSAFE:
            error: WormError = TokenReused(
                f"{where}: another value was written under the same capture token: a token stands "
                "for one value per register; read what it holds"
            )
        elif tally.promised == self.ballot:
            error = ProtocolViolation(
                f"{where}: another value was written under the same unsafe ballot: two clients "
                "used the unsafe write on one register"
            )
        elif self.ballot == UNSAFE:
            error = CaptureLost(
                f"{where}: an unsafe write met a register that has been captured; the outcome "
                "is unknown: settle the register"
            )
        else:
            error = CaptureLost(
                f"{where} was captured by another client; the outcome is unknown: settle the "
                "register, or capture it again"
            )
        self._fail(tally.offset, error)

    def _fail(self, offset: int, error: Exception) -> None:
        """Whoever waits for the register learns that it is not written, or that nobody knows."""
        self.issued.give_up(offset)
        for future in (self.waiting.pop(offset), *self.joined.pop(offset, ())):
            if not future.done():
                future.set_exception(error)

    def _set_deadline(self) -> None:
        self.deadline = min((self.deadlines[offset] for offset in self.waiting), default=0.0)

    def expire(self) -> None:
        """Some callers' deadline has passed; the operation goes on for the others."""
        now = self.loop.time()
        late = [offset for offset in self.waiting if self.deadlines[offset] <= now]
        if late:
            error = self.partition.unavailable(self.what, self.heard(), self.failures)
            for offset in late:
                self._fail(offset, error)
        if self.waiting:
            self._set_deadline()
            self.arm()
        else:
            self.leave()

    def cancel(self, error: Exception) -> None:
        self.leave()
        for offset in list(self.waiting):
            self._fail(offset, error)
