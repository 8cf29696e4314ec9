"""Who uses the registers of a small world: the shipped proposer machines, fed with replies.

A proposer captures a span, completes what it meets, and writes a value of its own to what is free,
as `PaxosRegisters` does, with the very machines of `paxos.prepare` and `paxos.accept`; a reader
reads, helps and, where it must, captures (`paxos.reading`); a trimmer decides the trim register
and then tells everybody (`paxos.broadcast`).  Each attempt of a proposer has a ballot and a value
of its own, and may be given up at any moment: by a crash, a time-out or a preemption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

from explorer.steps import ACCEPTORS, Move, Replies
from wormspace.addresses import TRIM
from wormspace.paxos import accept, broadcast, prepare, reading
from wormspace.paxos.accept import Accept
from wormspace.paxos.ballot import NOTHING, UNSAFE, above, round_of, show
from wormspace.paxos.broadcast import Broadcast
from wormspace.paxos.messages import COMPLETE, Promise, RefusedWrite, Report, Row, Trim
from wormspace.paxos.prepare import ClashingReports, Prepare
from wormspace.paxos.quorum import is_quorum
from wormspace.paxos.reading import Reading
from wormspace.registers.paxos.client import TRIM_VALUE

SPACE, SEGMENT = "s", 0

_M = TypeVar("_M")


class Wish(NamedTuple):
    """A request: messages are not hashable, for their lists, but this is."""

    kind: str
    ballot: bytes = NOTHING
    start: int = 0
    stop: int = 0
    values: tuple[tuple[int, bytes], ...] = ()

    def __str__(self) -> str:
        if self.kind == "trim":
            return self.kind
        what = ", ".join(map(show_fact, self.values))
        where = what or f"[{self.start}, {self.stop})"
        at = "" if self.kind == "read" else f" at {show_ballot(self.ballot)}"
        return f"{self.kind} {where}{at}"


class Answer(NamedTuple):
    """A reply, hashable."""

    kind: str
    ballot: bytes = NOTHING
    rows: tuple[Row, ...] = ()
    refused: tuple[RefusedWrite, ...] = ()

    def __str__(self) -> str:
        rows = ", ".join(show_row(row) for row in self.rows) or "nothing"
        if self.kind == "reject":
            return f"rejected, {show_ballot(self.ballot)} is promised"
        if self.kind == "written":
            no = ", ".join(f"{r.offset} for {show_ballot(r.promised)}" for r in self.refused)
            return f"refused {no}" if no else "accepted"
        if self.kind in ("done", "gone"):
            return self.kind
        return f"{self.kind}: {rows}"


def show_ballot(ballot: bytes) -> str:
    """Round and name, for people."""
    if ballot in (NOTHING, UNSAFE):
        return show(ballot)
    return f"{round_of(ballot)}.{ballot[-1:].decode()}"


def show_fact(fact: tuple[int, bytes]) -> str:
    """An offset and its value, for people."""
    offset, value = fact
    return f"{'trim register' if offset == TRIM else offset}={value.decode()}"


def show_row(row: Row) -> str:
    """An accepted value, for people."""
    mark = ", decided" if row.decided else ""
    return f"{show_fact((row.offset, row.value))} at {show_ballot(row.ballot)}{mark}"


@dataclass(frozen=True)
class Plan:
    """Who is in a small world.

    Attributes:
        spans: what each proposer captures.
        attempts: how often each proposer may try, with a higher ballot each time.
        unsafe: the registers that somebody writes unsafely, once.
        trims: whether somebody trims the segment, at any time.
        reader: the span that a reader reads, once, at any time.
        marks: whether writers tell the servers what is decided.
    """

    spans: tuple[tuple[int, int], ...] = ((0, 1), (0, 1))
    attempts: int = 2
    unsafe: tuple[int, ...] = ()
    trims: bool = False
    reader: tuple[int, int] | None = (0, 1)
    marks: bool = True


# ------------------------------------------------------------------ the machines, fed


def _reached(
    first: Iterable[_M],
    replies: Replies,
    feed: Callable[[_M, int, Any], _M],
) -> list[_M]:
    """Every state of a machine that some sequence of the replies leads to."""
    seen = dict.fromkeys(first)
    todo = list(seen)
    while todo:
        machine = todo.pop()
        for server, reply in enumerate(replies):
            if reply is not None:
                after = feed(machine, server, reply)
                if after not in seen:
                    seen[after] = None
                    todo.append(after)
    return list(seen)


def _feed_capture(machine: Prepare, server: int, reply: Answer) -> Prepare:
    if reply.kind == "promise":
        promise = Promise(list(reply.rows), COMPLETE)
        return prepare.on_promise(machine, server, promise)[0]
    return prepare.on_reject(machine, server, reply.ballot)


def _feed_write(machine: Accept, server: int, reply: Answer) -> Accept:
    return accept.on_written(machine, server, list(reply.refused))


def _feed_telling(machine: Broadcast, server: int, reply: Answer) -> Broadcast:
    return broadcast.on_done(machine, server)


Fact: TypeAlias = tuple[int, bytes]
"""That a register (by offset) is decided, as this value."""

Facts: TypeAlias = frozenset[Fact]

TRIM_DECIDED: Facts = frozenset({(TRIM, TRIM_VALUE)})
TRIM_RETURNED: Facts = frozenset({(-1, b"trimmed")})
"""Not a register's value, but as true for ever."""


class Begun(NamedTuple):
    """An actor's state: what it waits for, and what it needs to remember.

    Attributes:
        phase: idle, capturing, completing, writing, reading, helping, telling or over.
        wish: the request under way.
        rest: of a proposer: offsets that its capture found free; of a reader: rows to help later.
        known: what of its write under way is decided.
        required: what was so when a read began.
    """

    attempt: int = 0
    phase: str = "idle"
    wish: Wish | None = None
    rest: tuple[Any, ...] = ()
    known: Facts = frozenset()
    required: Facts = frozenset()


OVER = Begun(phase="over")


class Base:
    """What all actors have in common."""

    def __init__(self, name: str, plan: Plan) -> None:
        self.name = name
        self.plan = plan
        self.id = name.encode() * 8

    def initial(self) -> Begun:
        """Idle."""
        return Begun()

    def listens(self, state: Begun) -> Any:
        """The request under way is the operation."""
        return (self.name, state.wish) if state.wish is not None else None

    def sees_chosen(self, state: Begun) -> bool:
        """Only a read that begins does."""
        return False

    def ballot(self, attempt: int) -> bytes:
        """The ballot of an attempt, counted from 1."""
        ballot = UNSAFE
        for _ in range(attempt):
            ballot = above(ballot, self.id)
        return ballot

    # ------------------------------------------------------------ steps

    def moves(self, state: Begun, replies: Replies, chosen: Facts) -> list[Move]:
        """See `Actor`."""
        moves = self.begins(state, chosen)
        if state.wish is None:
            return moves
        if any(reply is not None and reply.kind == "gone" for reply in replies):
            moves += self.on_gone(state)
        a, b, c = (r if r is None or r.kind != "gone" else None for r in replies)
        try:
            return moves + self.on_replies(state, state.wish, (a, b, c))
        except ClashingReports:
            text = f"{self.name} was told of two values under one ballot, or two decided ones"
            return [Move(f"{self.name} met a contradiction", OVER, problem=text)]

    def begins(self, state: Begun, chosen: Facts) -> list[Move]:
        """What it may do without any reply."""
        raise NotImplementedError

    def on_replies(self, state: Begun, wish: Wish, replies: Replies) -> list[Move]:
        """What it may do with these replies to its request."""
        raise NotImplementedError

    def on_gone(self, state: Begun) -> list[Move]:
        """A server says that the segment is trimmed."""
        return [Move(f"{self.name} is told of the trim", OVER, claims=TRIM_DECIDED)]

    def ask(
        self,
        after: Begun,
        label: str,
        wish: Wish,
        sends: tuple[Any, ...] = (),
        claims: Facts = frozenset(),
    ) -> Move:
        """Send a request to everybody and wait for the answers."""
        sends = (*sends, ((self.name, wish), wish))
        return Move(f"{self.name} {label}: {wish}", after._replace(wish=wish), sends, claims=claims)

    def promises(self, wish: Wish, replies: Replies) -> list[Prepare]:
        """What a capture can have met, if it can be promised."""
        machine = Prepare(ACCEPTORS, SPACE, SEGMENT, wish.start, wish.stop, wish.ballot)
        reached = _reached([machine], replies, _feed_capture)
        return [m for m in reached if m.phase == prepare.PROMISED]

    def fates(self, wish: Wish, replies: Replies) -> list[tuple[Facts, frozenset[int]]]:
        """What a write can have come to: what of it is decided, offsets that are lost."""
        offsets = tuple(offset for offset, _ in wish.values)
        values = tuple(value for _, value in wish.values)
        machine = Accept(ACCEPTORS, SPACE, SEGMENT, wish.ballot, offsets, values)
        fates: dict[tuple[Facts, frozenset[int]], None] = {}
        for reached in _reached([machine], replies, _feed_write):
            if not is_quorum(reached.answered, ACCEPTORS):
                continue
            decided, lost = set(), set()
            refusals = {t.offset: t.by for t in reached.refusals}
            for offset, value in wish.values:
                fate = accept.verdict(ACCEPTORS, reached.answered, refusals.get(offset, 0))
                if fate == accept.DECIDED:
                    decided.add((offset, value))
                elif fate == accept.LOST:
                    lost.add(offset)
            fates[frozenset(decided), frozenset(lost)] = None
        return list(fates)

    def mark(self, wish: Wish, decided: Facts) -> tuple[Any, ...]:
        """Tell the servers what is decided."""
        if not self.plan.marks or not decided:
            return ()
        return ((None, Wish("decided", wish.ballot, 0, 0, tuple(sorted(decided)))),)


def _texts(facts: Iterable[Fact]) -> str:
    return ", ".join(show_fact(fact) for fact in sorted(facts))


class Proposer(Base):
    """Captures a span, completes what it meets, writes a value of its own to what is free."""

    def __init__(self, name: str, span: tuple[int, int], plan: Plan) -> None:
        super().__init__(name, plan)
        self.span = span

    def begins(self, state: Begun, chosen: Facts) -> list[Move]:
        """A new attempt, as after a crash: nothing of the one before is remembered."""
        if state.attempt == self.plan.attempts or state.phase == "over":
            return []
        attempt = state.attempt + 1
        wish = Wish("capture", self.ballot(attempt), *self.span)
        label = "begins" if attempt == 1 else "tries again"
        return [self.ask(Begun(attempt, "capturing"), label, wish)]

    def on_replies(self, state: Begun, wish: Wish, replies: Replies) -> list[Move]:
        """See `Base`."""
        if state.phase == "capturing":
            return [self._on_promised(state, m) for m in self.promises(wish, replies)]
        fates = self.fates(wish, replies)
        return [
            self._on_decided(state, wish, decided)
            for decided in dict.fromkeys(decided for decided, _ in fates)
            if not decided <= state.known
        ]

    def _on_promised(self, state: Begun, machine: Prepare) -> Move:
        half = prepare.undecided(machine)
        claims = frozenset((r.offset, r.value) for r in prepare.reported(machine) if r.decided)
        taken = {row.offset for row in prepare.reported(machine)}
        free = tuple(offset for offset in range(*self.span) if offset not in taken)
        after = Begun(state.attempt, "completing", rest=free)
        if not half:
            return self._write_own(after, machine.ballot, "has captured", (), claims)
        values = tuple((row.offset, row.value) for row in half)
        wish = Wish("write", machine.ballot, 0, 0, values)
        return self.ask(after, "is promised and completes", wish, claims=claims)

    def _write_own(
        self, state: Begun, ballot: bytes, label: str, sends: tuple[Any, ...], claims: Facts
    ) -> Move:
        """The capture is done: write what is free."""
        if not state.rest:
            return Move(f"{self.name} {label}; nothing is free", OVER, sends, claims=claims)
        value = f"{self.name}{state.attempt}".encode()
        wish = Wish("write", ballot, 0, 0, tuple((offset, value) for offset in state.rest))
        after = Begun(state.attempt, "writing")
        return self.ask(after, f"{label} and writes", wish, sends, claims)

    def _on_decided(self, state: Begun, wish: Wish, decided: Facts) -> Move:
        news = decided - state.known
        known = state.known | decided
        sends = self.mark(wish, news)
        text = _texts(news)
        if len(known) < len(wish.values):
            after = state._replace(known=known)
            label = f"{self.name} learns that {text}"
            return Move(label, after, sends, ends=False, claims=news)
        if state.phase == "writing":
            return Move(f"{self.name} has written {text}", OVER, sends, claims=news)
        return self._write_own(state, wish.ballot, f"has completed {text}", sends, news)


class UnsafeWriter(Base):
    """Writes some registers once, without a capture."""

    def begins(self, state: Begun, chosen: Facts) -> list[Move]:
        """See `Base`."""
        if state.phase != "idle":
            return []
        values = tuple((offset, b"U0") for offset in self.plan.unsafe)
        return [self.ask(Begun(phase="writing"), "begins", Wish("write", UNSAFE, 0, 0, values))]

    def on_replies(self, state: Begun, wish: Wish, replies: Replies) -> list[Move]:
        """See `Base`."""
        return [
            Move(f"{self.name} has written", OVER, self.mark(wish, decided), claims=decided)
            for decided, _ in self.fates(wish, replies)
            if len(decided) == len(wish.values)
        ]


class Trimmer(Base):
    """Writes the trim register, and when that is decided, tells everybody to delete."""

    def begins(self, state: Begun, chosen: Facts) -> list[Move]:
        """See `Base`."""
        if state.phase != "idle":
            return []
        wish = Wish("write", UNSAFE, 0, 0, tuple(TRIM_DECIDED))
        return [self.ask(Begun(phase="writing"), "begins", wish)]

    def on_replies(self, state: Begun, wish: Wish, replies: Replies) -> list[Move]:
        """See `Base`."""
        if state.phase == "telling":
            message = Trim(SPACE, SEGMENT, SEGMENT + 1)
            machines = _reached([Broadcast(ACCEPTORS, message)], replies, _feed_telling)
            if any(broadcast.finished(machine) for machine in machines):
                return [Move(f"{self.name} has trimmed", OVER, facts=TRIM_RETURNED)]
            return []
        return [
            self.ask(Begun(phase="telling"), "has decided the trim", Wish("trim"), claims=decided)
            for decided, _ in self.fates(wish, replies)
            if decided
        ]


class Reader(Base):
    """Reads a span once; helps what is half-written, and captures it where that is refused."""

    def __init__(self, name: str, span: tuple[int, int], plan: Plan) -> None:
        super().__init__(name, plan)
        self.span = span

    def sees_chosen(self, state: Begun) -> bool:
        """What was decided when the read began must be seen."""
        return state.phase == "idle"

    def begins(self, state: Begun, chosen: Facts) -> list[Move]:
        """See `Base`."""
        if state.phase != "idle":
            return []
        after = Begun(phase="reading", required=chosen)
        return [self.ask(after, "begins", Wish("read", NOTHING, *self.span))]

    def on_replies(self, state: Begun, wish: Wish, replies: Replies) -> list[Move]:
        """See `Base`."""
        if state.phase == "reading":
            return list(dict.fromkeys(self._answers(state, replies)))
        if state.phase == "helping":
            fates = self.fates(wish, replies)
            return [self._on_fate(state, wish, *fate) for fate in fates if any(fate)]
        return [self._on_promised(state, m) for m in self.promises(wish, replies)]

    def _answers(self, state: Begun, replies: Replies) -> Iterable[Move]:
        """Whoever is asked first, and whether or not it is slow."""
        machines = []
        for first in range(ACCEPTORS):
            machine = Reading(ACCEPTORS, SPACE, SEGMENT, (self.span,), first)
            machine, _ = reading.begin(machine)
            machines += [machine, reading.widen(machine)[0]]
        for machine in _reached(machines, replies, self._hear):
            if machine.phase == reading.ANSWERED:
                yield self._on_answered(state, machine)

    @staticmethod
    def _hear(machine: Reading, server: int, reply: Answer) -> Reading:
        if machine.phase == reading.ASKING_ONE and server != machine.first:
            return machine
        return reading.on_report(machine, server, Report(list(reply.rows), COMPLETE))[0]

    def _on_answered(self, state: Begun, machine: Reading) -> Move:
        claims, half = set(), []
        for found in machine.found:
            if reading.is_known(found, machine.servers):
                claims.add((found.row.offset, found.row.value))
            else:
                half.append(found.row)
        met = {found.row.offset for found in machine.found}
        empty = [offset for offset in range(*self.span) if offset not in met]
        problem = self._missed(empty, state.required)
        move = self._help_next(tuple(half), 0, frozenset(claims))
        return replace(move, problem=problem) if problem else move

    def _missed(self, empty: list[int], required: Facts) -> str:
        for fact in sorted(required):
            if fact[0] in empty:
                what = f"{show_fact(fact)} was decided when the read began"
                return f"{self.name} read register {fact[0]} as empty; {what}"
        if empty and required >= TRIM_RETURNED:
            return f"{self.name} read register {empty[0]} as empty after the trim"
        return ""

    def _help_next(self, half: tuple[Row, ...], attempt: int, claims: Facts) -> Move:
        """Help the half-written registers one by one."""
        if not half:
            return Move(f"{self.name} returns; {_texts(claims) or 'empty'}", OVER, claims=claims)
        row, *later = half
        after = Begun(attempt, "helping", rest=tuple(later))
        wish = Wish("write", self.helping(row), 0, 0, ((row.offset, row.value),))
        return self.ask(after, "helps", wish, claims=claims)

    def helping(self, row: Row) -> bytes:
        """The ballot to help a half-written register with: its own."""
        return row.ballot

    def _on_fate(self, state: Begun, wish: Wish, decided: Facts, lost: frozenset[int]) -> Move:
        if decided:
            return self._help_next(state.rest, state.attempt, decided)
        offset = wish.values[0][0]
        attempt = state.attempt + 1
        after = Begun(attempt, "capturing", rest=state.rest)
        ballot = self.ballot(self.plan.attempts + attempt)
        wish = Wish("capture", ballot, offset, offset + 1)
        return self.ask(after, "was refused and captures", wish)

    def _on_promised(self, state: Begun, machine: Prepare) -> Move:
        half = prepare.undecided(machine)
        claims = frozenset((r.offset, r.value) for r in prepare.reported(machine) if r.decided)
        if not half:
            return self._help_next(state.rest, state.attempt, claims)
        wish = Wish("write", machine.ballot, 0, 0, ((half[0].offset, half[0].value),))
        after = Begun(state.attempt, "helping", rest=state.rest)
        return self.ask(after, "is promised and completes", wish)
