"""Small worlds to explore: the shipped acceptors on a store in memory, and their users (`actors`).

An acceptor here is what the server has in its store for one segment; each message is handled as
the server does, as one batch, by `server.acceptors`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from explorer.actors import (
    SEGMENT,
    SPACE,
    Answer,
    Plan,
    Proposer,
    Reader,
    Trimmer,
    UnsafeWriter,
    Wish,
    show_ballot,
    show_fact,
    show_row,
)
from explorer.steps import Actor
from wormspace.paxos.messages import (
    Capture,
    Decided,
    Done,
    Promise,
    Read,
    RefusedWrite,
    Reject,
    Report,
    Trim,
    Write,
    Written,
)
from wormspace.registers.spans import as_spans
from wormspace.server import acceptors, tables
from wormspace.server.marks import Marks
from wormspace.store.engine import Batch
from wormspace.store.memory_engine import MemoryEngine

__all__ = ["Paxos", "Plan", "Store"]

Store: TypeAlias = tuple[tuple[str, bytes, bytes], ...]
"""An acceptor's state: table, key and value of all it holds, in order."""

TABLES = (
    tables.DECIDED,
    tables.GARBAGE,
    tables.PROMISES,
    tables.ROWS,
    tables.SPACES,
    tables.TRIMMED,
)
EVERYTHING = (b"", b"\xff" * 32)
SWEEP_KEYS = 64


class Paxos:
    """A `SmallWorld` of the plan."""

    def __init__(self, plan: Plan) -> None:
        self.actors: list[Actor] = []
        for i, span in enumerate(plan.spans):
            self.actors.append(Proposer(chr(ord("A") + i), span, plan))
        if plan.unsafe:
            self.actors.append(UnsafeWriter("U", plan))
        if plan.trims:
            self.actors.append(Trimmer("T", plan))
        if plan.reader is not None:
            self.actors.append(Reader("R", plan.reader, plan))

    def acceptor(self) -> Store:
        """One that knows the space and nothing else."""
        batch = _opened(())
        tables.intern_space(batch, SPACE)
        return _held(batch)

    def handle(self, store: Store, wish: Wish) -> tuple[Store, Answer | None]:
        """See `Acceptors`."""
        batch = _opened(store)
        answer = self._handle(batch, wish)
        return _held(batch), answer

    def _handle(self, batch: Batch, wish: Wish) -> Answer | None:
        marks = Marks()
        reply: object
        if wish.kind == "capture":
            message = Capture(SPACE, SEGMENT, wish.start, wish.stop, wish.ballot)
            reply = acceptors.capture(batch, marks, message)
        elif wish.kind == "write":
            offsets = [offset for offset, _ in wish.values]
            values = [value for _, value in wish.values]
            reply, _ = acceptors.write(batch, Write(SPACE, SEGMENT, wish.ballot, offsets, values))
        elif wish.kind == "read":
            reply = acceptors.read(batch, marks, Read(SPACE, SEGMENT, [(wish.start, wish.stop)]))
        elif wish.kind == "trim":
            reply, _ = acceptors.trim(batch, Trim(SPACE, SEGMENT, SEGMENT + 1))
            acceptors.sweep(batch, SWEEP_KEYS)
        else:
            spans = list(as_spans([offset for offset, _ in wish.values]))
            marks.learn(batch, Decided(SPACE, SEGMENT, wish.ballot, spans))
            marks.save(batch, len(marks))
            return None
        return _answer(reply)

    def restart(self, store: Store) -> Store:
        """Decided marks are in memory until the server finds the time to save them."""
        return tuple(item for item in store if item[0] != tables.DECIDED)

    rest = restart

    def heard(self, wish: Wish, answer: Answer) -> Answer | None:
        """A rejected capture is given up, as it may be at any time; why a write is refused does
        not matter here."""
        if answer.kind == "reject":
            return None
        refused = tuple(RefusedWrite(r.offset, b"") for r in answer.refused)
        return answer._replace(refused=refused)

    def votes(self, wish: Wish, answer: Answer) -> list[tuple[int, bytes, bytes]]:
        """Offset, ballot and value of what was accepted."""
        if answer.kind != "written":
            return []
        refused = {r.offset for r in answer.refused}
        return [(o, wish.ballot, v) for o, v in wish.values if o not in refused]

    def decides(self, vote: tuple[int, bytes, bytes]) -> tuple[int, bytes]:
        """Offset and value."""
        offset, _, value = vote
        return offset, value

    def conflict(self, chosen: frozenset[Any]) -> str:
        """Immutability: one value per register."""
        values: dict[int, bytes] = {}
        for offset, value in sorted(chosen):
            if values.setdefault(offset, value) != value:
                one, other = show_fact((offset, values[offset])), show_fact((offset, value))
                return f"immutability: {one} is decided, and {other}"
        return ""

    def refute(self, claims: frozenset[Any]) -> str:
        """See `SmallWorld`."""
        return f"{show_fact(min(claims))} is taken for decided: it is not"

    def show(self, store: Store) -> str:
        """For transcripts."""
        view = _opened(store)
        space = tables.intern_space(view, SPACE)
        if tables.is_trimmed(view, space, SEGMENT):
            return "has trimmed it"
        prefix = tables.segment_key(space, SEGMENT)
        held = tables.load_slice(view, tables.PROMISES, prefix, 0, tables.MAX_OFFSET)
        promises = ", ".join(f"[{r.lo}, {r.hi}) {show_ballot(r.ballot)}" for r in held)
        whole = Read(SPACE, SEGMENT, [(0, tables.MAX_OFFSET)])
        report = acceptors.read(view, Marks(), whole)
        kept = report.rows if isinstance(report, Report) else []
        rows = ", ".join(show_row(row) for row in kept)
        return f"has promised {promises or 'nothing'}, accepted {rows or 'nothing'}"


def _opened(store: Store) -> Batch:
    batch = MemoryEngine().begin()
    for item in store:
        batch.put(*item)
    return batch


def _held(batch: Batch) -> Store:
    return tuple((table, *item) for table in TABLES for item in batch.scan(table, *EVERYTHING))


def _answer(reply: object) -> Answer:
    """A reply, hashable."""
    if isinstance(reply, Promise):
        return Answer("promise", rows=tuple(reply.rows))
    if isinstance(reply, Reject):
        return Answer("reject", reply.promised)
    if isinstance(reply, Written):
        return Answer("written", refused=tuple(reply.refused))
    if isinstance(reply, Report):
        return Answer("report", rows=tuple(reply.rows))
    return Answer("done" if isinstance(reply, Done) else "gone")
