"""Who uses the registers of a small world: the shipped proposer machines, fed with every reply.

A proposer captures a span, completes what it meets, and writes a value of its own to what is free,
as `PaxosRegisters` does, with the very machines of `paxos.capturing` and `paxos.writing`; a reader
reads, helps and, where it must, captures (`paxos.reading`).  Each attempt of a proposer has a
ballot and a value of its own, and may be given up at any moment: by a crash, a time-out or a
preemption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from wormspace.paxos import capturing, reading, writing
from wormspace.paxos.ballot import NOTHING, UNSAFE, above, round_of, show
from wormspace.paxos.capturing import Capturing, ClashingReports
from wormspace.paxos.messages import COMPLETE, Promise, Refusal, Report, Row
from wormspace.paxos.quorum import is_quorum
from wormspace.paxos.reading import Reading
from wormspace.paxos.writing import Writing
from wormspace.sim.explore import ACCEPTORS, Move, Replies

SPACE, SEGMENT = "s", 0

_M = TypeVar("_M")


class Wish(NamedTuple):
    """A request: messages are not hashable, for their lists, but this is."""

    kind: str
    ballot: bytes
    start: int
    stop: int
    values: tuple[tuple[int, bytes], ...] = ()

    def __str__(self) -> str:
        what = ", ".join(f"{offset}={value.decode()}" for offset, value in self.values)
        where = what or f"[{self.start}, {self.stop})"
        at = "" if self.kind == "read" else f" at {show_ballot(self.ballot)}"
        return f"{self.kind} {where}{at}"


class Answer(NamedTuple):
    """A reply, hashable."""

    kind: str
    ballot: bytes = NOTHING
    rows: tuple[Row, ...] = ()
    refused: tuple[Refusal, ...] = ()

    def __str__(self) -> str:
        rows = ", ".join(show_row(row) for row in self.rows) or "nothing"
        if self.kind == "reject":
            return f"rejected, {show_ballot(self.ballot)} is promised"
        if self.kind == "written":
            no = ", ".join(f"{r.offset} for {show_ballot(r.promised)}" for r in self.refused)
            return f"refused {no}" if no else "accepted"
        return f"{self.kind}: {rows}"


def show_ballot(ballot: bytes) -> str:
    """Round and name, for people."""
    if ballot in (NOTHING, UNSAFE):
        return show(ballot)
    return f"{round_of(ballot)}.{ballot[-1:].decode()}"


def show_row(row: Row) -> str:
    """An accepted value, for people."""
    mark = ", decided" if row.decided else ""
    return f"{row.offset}={row.value.decode()} at {show_ballot(row.ballot)}{mark}"


@dataclass(frozen=True)
class Plan:
    """Who is in a small world.

    Attributes:
        spans: what each proposer captures.
        attempts: how often each proposer may try, with a higher ballot each time.
        unsafe: the registers that somebody writes unsafely, once.
        reader: the span that a reader reads, once, at any time.
        marks: whether writers tell the servers what is decided.
    """

    spans: tuple[tuple[int, int], ...] = ((0, 1), (0, 1))
    attempts: int = 2
    unsafe: tuple[int, ...] = ()
    reader: tuple[int, int] | None = (0, 1)
    marks: bool = True


# ------------------------------------------------------------------ the machines, fed


def _reached(
    first: Iterable[_M],
    replies: tuple[Replies, Replies, Replies],
    feed: Callable[[_M, int, Any], _M],
) -> list[_M]:
    """Every state of a machine that some sequence of the replies leads to."""
    seen = dict.fromkeys(first)
    todo = list(seen)
    while todo:
        machine = todo.pop()
        for server, given in enumerate(replies):
            for reply in given:
                after = feed(machine, server, reply)
                if after not in seen:
                    seen[after] = None
                    todo.append(after)
    return list(seen)


def _feed_capture(machine: Capturing, server: int, reply: Answer) -> Capturing:
    if reply.kind == "promise":
        promise = Promise(list(reply.rows), COMPLETE)
        return capturing.on_promise(machine, server, promise)[0]
    return capturing.on_reject(machine, server, reply.ballot)


def _feed_write(machine: Writing, server: int, reply: Answer) -> Writing:
    return writing.on_written(machine, server, list(reply.refused))


def _feed_read(machine: Reading, server: int, reply: Answer) -> Reading:
    return reading.on_report(machine, server, Report(list(reply.rows), COMPLETE))[0]


class Begun(NamedTuple):
    """An actor's state: what it waits for, and what it is certain of.

    Attributes:
        phase: idle, capturing, completing, writing, reading, helping, over, or clash.
        wish: the request under way.
        met: what its capture or read met and what it will make of it, by offset.
        claims: (offset, value): what it takes to be decided.
        empty: the registers that a reader found empty.
        required: what was decided when its read began.
    """

    attempt: int = 0
    phase: str = "idle"
    wish: Wish | None = None
    met: tuple[Row, ...] = ()
    claims: frozenset[tuple[int, bytes]] = frozenset()
    empty: tuple[int, ...] = ()
    required: frozenset[tuple[int, bytes]] = frozenset()


class Base:
    """What proposers and readers have in common: claims must be true."""

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

    def problem(self, state: Begun, chosen: frozenset[Any]) -> str:
        """What it is certain of must be so."""
        if state.phase == "clash":
            return f"{self.name} was told of two values under one ballot, or two decided ones"
        values = {(offset, value) for offset, _, value in chosen}
        for offset, value in sorted(state.claims):
            if (offset, value) not in values:
                return f"{self.name} takes {offset}={value.decode()} for decided: it is not"
        for offset in state.empty:
            for where, value in sorted(state.required):
                if where == offset:
                    return (
                        f"{self.name} read register {offset} as empty; when the read began, it "
                        f"was decided as {value.decode()}"
                    )
        return ""

    # ------------------------------------------------------------ steps

    def ask(self, state: Begun, label: str, phase: str, wish: Wish, **changes: Any) -> Move:
        """Send a request to everybody and wait for the answers."""
        after = state._replace(phase=phase, wish=wish, **changes)
        return Move(f"{self.name} {label}: {wish}", after, (((self.name, wish), wish),))

    def start_capture(self, state: Begun, span: tuple[int, int]) -> Move:
        """A new attempt, as after a crash: nothing of the one before is remembered."""
        attempt = state.attempt + 1
        wish = Wish("capture", self.ballot(attempt), *span)
        fresh = Begun(attempt, claims=state.claims, required=state.required)
        return self.ask(fresh, "begins" if attempt == 1 else "tries again", "capturing", wish)

    def promises(self, state: Begun, replies: tuple[Replies, Replies, Replies]) -> list[Any]:
        """What the capture under way can have met, if it can be promised."""
        wish = state.wish
        if wish is None:
            return []
        machine = Capturing(ACCEPTORS, SPACE, SEGMENT, wish.start, wish.stop, wish.ballot)
        reached = _reached([machine], replies, _feed_capture)
        return [m for m in reached if m.phase == capturing.PROMISED]

    def fates(
        self, state: Begun, replies: tuple[Replies, Replies, Replies]
    ) -> list[tuple[frozenset[tuple[int, bytes]], frozenset[int]]]:
        """What the write under way can have come to: registers decided, registers lost."""
        wish = state.wish
        if wish is None:
            return []
        offsets = tuple(offset for offset, _ in wish.values)
        values = tuple(value for _, value in wish.values)
        machine = Writing(ACCEPTORS, SPACE, SEGMENT, wish.ballot, offsets, values)
        fates: dict[tuple[frozenset[tuple[int, bytes]], frozenset[int]], None] = {}
        for reached in _reached([machine], replies, _feed_write):
            decided, lost = set(), set()
            refusals = {t.offset: t.by for t in reached.refusals}
            for offset, value in wish.values:
                if not is_quorum(reached.answered, ACCEPTORS):
                    continue
                by = refusals.get(offset, 0)
                fate = writing.verdict(ACCEPTORS, reached.answered, by)
                if fate == writing.DECIDED:
                    decided.add((offset, value))
                elif fate == writing.LOST:
                    lost.add(offset)
            fates[frozenset(decided), frozenset(lost)] = None
        return list(fates)

    def mark(self, wish: Wish, decided: frozenset[tuple[int, bytes]]) -> tuple[Any, ...]:
        """Tell the servers what is decided."""
        if not self.plan.marks or not decided:
            return ()
        values = tuple(sorted(decided))
        return ((None, Wish("decided", wish.ballot, 0, 0, values)),)


class Proposer(Base):
    """Captures a span, completes what it meets, writes a value of its own to what is free."""

    def __init__(self, name: str, span: tuple[int, int], plan: Plan) -> None:
        super().__init__(name, plan)
        self.span = span

    def moves(
        self, state: Begun, replies: tuple[Replies, Replies, Replies], chosen: frozenset[Any]
    ) -> list[Move]:
        """See `Actor`."""
        moves = []
        if state.attempt < self.plan.attempts and state.phase != "over":
            moves.append(self.start_capture(state, self.span))
        try:
            if state.phase == "capturing":
                moves.extend(self._on_promised(state, m) for m in self.promises(state, replies))
            elif state.phase in ("completing", "writing"):
                for decided, _ in self.fates(state, replies):
                    if not decided <= state.claims:
                        moves.append(self._on_decided(state, decided))
        except ClashingReports:
            return [Move(f"{self.name} met a contradiction", state._replace(phase="clash"))]
        return moves

    def _on_promised(self, state: Begun, machine: Capturing) -> Move:
        half = capturing.half(machine)
        claims = state.claims | {(r.offset, r.value) for r in machine.best if r.decided}
        state = state._replace(met=machine.best, claims=claims)
        if half:
            values = tuple((row.offset, row.value) for row in half)
            wish = Wish("write", machine.ballot, 0, 0, values)
            return self.ask(state, "is promised and completes", "completing", wish)
        return self._write_own(state, machine.ballot)

    def _write_own(self, state: Begun, ballot: bytes) -> Move:
        """The capture is done: write what is free."""
        taken = {row.offset for row in state.met}
        free = [offset for offset in range(*self.span) if offset not in taken]
        if not free:
            after = state._replace(phase="over", wish=None)
            return Move(f"{self.name} has captured; nothing is free", after)
        value = f"{self.name}{state.attempt}".encode()
        wish = Wish("write", ballot, 0, 0, tuple((offset, value) for offset in free))
        return self.ask(state, "has captured and writes", "writing", wish)

    def _on_decided(self, state: Begun, decided: frozenset[tuple[int, bytes]]) -> Move:
        wish = state.wish
        if wish is None:
            raise RuntimeError("no write is under way")
        claims = state.claims | decided
        after = state._replace(claims=claims)
        news = decided - state.claims
        sends = self.mark(wish, news)
        text = ", ".join(f"{o}={v.decode()}" for o, v in sorted(news))
        if len(decided) < len(wish.values):
            return Move(f"{self.name} learns that {text}", after, sends, ends=False)
        if state.phase == "writing":
            after = after._replace(phase="over", wish=None)
            return Move(f"{self.name} has written {text}", after, sends)
        move = self._write_own(after, wish.ballot)
        label = f"{self.name} completed {text}; {move.label}"
        return Move(label, move.after, (*sends, *move.sends))


class UnsafeWriter(Base):
    """Writes some registers once, without a capture."""

    def __init__(self, plan: Plan) -> None:
        super().__init__("U", plan)

    def moves(
        self, state: Begun, replies: tuple[Replies, Replies, Replies], chosen: frozenset[Any]
    ) -> list[Move]:
        """See `Actor`."""
        if state.phase == "idle":
            values = tuple((offset, b"U0") for offset in self.plan.unsafe)
            return [self.ask(state, "begins", "writing", Wish("write", UNSAFE, 0, 0, values))]
        moves = []
        if state.phase == "writing" and state.wish is not None:
            for decided, _ in self.fates(state, replies):
                if len(decided) == len(state.wish.values):
                    after = state._replace(phase="over", wish=None, claims=decided)
                    moves.append(
                        Move(f"{self.name} has written", after, self.mark(state.wish, decided))
                    )
        return moves


class Reader(Base):
    """Reads a span once; helps what is half-written, and captures it where that is refused."""

    def __init__(self, span: tuple[int, int], plan: Plan) -> None:
        super().__init__("R", plan)
        self.span = span

    def sees_chosen(self, state: Begun) -> bool:
        """What was decided when the read began must be seen."""
        return state.phase == "idle"

    def moves(
        self, state: Begun, replies: tuple[Replies, Replies, Replies], chosen: frozenset[Any]
    ) -> list[Move]:
        """See `Actor`."""
        if state.phase == "idle":
            required = frozenset((offset, value) for offset, _, value in chosen)
            state = state._replace(required=required)
            return [self.ask(state, "begins", "reading", Wish("read", NOTHING, *self.span))]
        try:
            if state.phase == "reading":
                return list(dict.fromkeys(self._answers(replies, state)))
            if state.phase == "helping":
                return [
                    self._on_fate(state, *fate) for fate in self.fates(state, replies) if any(fate)
                ]
            if state.phase == "capturing":
                return [self._on_promised(state, m) for m in self.promises(state, replies)]
        except ClashingReports:
            return [Move(f"{self.name} met a contradiction", state._replace(phase="clash"))]
        return []

    def _answers(self, replies: tuple[Replies, Replies, Replies], state: Begun) -> Iterable[Move]:
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
        return _feed_read(machine, server, reply)

    def _on_answered(self, state: Begun, machine: Reading) -> Move:
        known = {f.row.offset: f for f in machine.found}
        claims, half = set(), []
        for found in machine.found:
            if reading.is_known(found, machine.servers):
                claims.add((found.row.offset, found.row.value))
            else:
                half.append(found.row)
        empty = tuple(o for o in range(*self.span) if o not in known)
        state = state._replace(claims=frozenset(claims), empty=empty, met=tuple(half))
        return self._help_next(state)

    def _help_next(self, state: Begun) -> Move:
        """Help the half-written registers one by one."""
        if not state.met:
            values = ", ".join(f"{o}={v.decode()}" for o, v in sorted(state.claims))
            after = state._replace(phase="over", wish=None)
            return Move(f"{self.name} returns {values or 'empty'}", after)
        row = state.met[0]
        wish = Wish("write", row.ballot, 0, 0, ((row.offset, row.value),))
        return self.ask(state, "helps", "helping", wish)

    def _on_fate(
        self, state: Begun, decided: frozenset[tuple[int, bytes]], lost: frozenset[int]
    ) -> Move:
        if decided:
            met = state.met[1:]
            return self._help_next(state._replace(claims=state.claims | decided, met=met))
        offset = state.met[0].offset
        attempt = self.plan.attempts + 1 + state.attempt
        wish = Wish("capture", self.ballot(attempt), offset, offset + 1)
        state = state._replace(attempt=state.attempt + 1)
        return self.ask(state, "was refused and captures", "capturing", wish)

    def _on_promised(self, state: Begun, machine: Capturing) -> Move:
        half = capturing.half(machine)
        decided = frozenset((r.offset, r.value) for r in machine.best if r.decided)
        if half:
            wish = Wish("write", machine.ballot, 0, 0, ((half[0].offset, half[0].value),))
            met = (Row(half[0].offset, machine.ballot, half[0].value), *state.met[1:])
            return self.ask(state._replace(met=met), "is promised and completes", "helping", wish)
        state = state._replace(claims=state.claims | decided, met=state.met[1:])
        return self._help_next(state)
