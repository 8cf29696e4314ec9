"""Layer 4: what a client's operations send: the rest of *one value*.

A `WriteOperation` sends what it was given, and that again, and tells of a register that it is
written only when a quorum accepted it.  Captors, readers that help, and those who trim hand it what
they met, under the ballot under which they may.

Offsets are numbers here (3 and 5, which stand for any two); values, ballots and the sets of servers
that answered are not known.
"""

from __future__ import annotations

from typing import Any

import z3

from verification import theory as th
from verification.issuing import ARRAY, I, truth, word
from verification.loops import Claims, Engine
from verification.procedures import Done, Thing, choose, procedure
from verification.symex import SymBallot, SymBool, SymWord
from wormspace.errors import CaptureLost, WormError
from wormspace.paxos.accept import Tally
from wormspace.paxos.messages import Row, Write, Written
from wormspace.paxos.reading import Found

OFFSETS = (3, 5)


class Value(SymWord):
    """A value of which only the length is known."""

    __slots__ = ()

    def __len__(self) -> int:
        return 1


def any_ballot(stem: str) -> Any:
    """Any ballot."""
    return SymBallot(th.fresh(stem, th.Ballot))


class Future:
    """What a caller waits for: told of an outcome at most once."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def done(self) -> bool:
        """Whether it was told."""
        return bool(self.told)

    def set_result(self, result: None) -> None:
        """It is written."""
        self.told.append(result)

    def set_exception(self, error: Exception) -> None:
        """It is not, or nobody knows."""
        self.told.append(error)


# ------------------------------------------------------------------ a write's operation


def _operation(module: Any, met: Thing) -> Any:
    it = module.WriteOperation.__new__(module.WriteOperation)
    issued = Thing(
        decide=lambda spans: met.settled.extend(spans),
        give_up=lambda offset: met.doubts.append(offset),
    )
    it.__dict__.update(
        segment_name=ARRAY, ballot=met.ballot, issued=issued, over=False, what="write", failures={},
        values={}, size=0, waiting={}, joined={}, deadlines={}, machine=None, deadline=0,
        loop=Thing(create_future=Future, time=lambda: 0),
        owner=Thing(on_gone=lambda segment_name: None, on_refused=lambda ballot: None),
        post=met.posted.extend, arm=lambda: None, leave=lambda: None, _patience=0,
        partition=Thing(
            size=3, send_marks=lambda: None,
            mark=lambda *mark: met.marks.append(mark),
        ),
    )  # fmt: skip
    return it


def sending(e: Engine) -> None:
    """What is added is sent, and nothing else, however often."""
    module = e.core.modules["registers.paxos.operations"]

    def sends() -> Any:
        met = Thing(settled=[], doubts=[], posted=[], marks=[], ballot=any_ballot("ballot"))
        it = _operation(module, met)
        met.values = {offset: Value(th.fresh("value", I)) for offset in OFFSETS}
        met.added = [o for o in OFFSETS if choose("another")]
        again = [o for o in met.added if choose("once more")]

        async def work() -> Any:
            for offset in (*met.added, *again):
                it.add(offset, met.values[offset], 0)
            it.begin()
            it.post(it.unanswered())

        met.it = it
        return work(), met

    def right(done: Done) -> Claims:
        met = done.met
        messages = [send.message for send in met.posted]
        same = [
            z3.And(
                z3.BoolVal(type(m) is Write and m.offsets == met.added and m.ballot is met.ballot),
                z3.BoolVal((m.space, m.segment) == ARRAY and len(m.values) == len(met.added)),
                *[v.z == met.values[o].z for o, v in zip(met.added, m.values, strict=False)],
            )
            for m in messages
        ]
        callers = sum(1 + len(met.it.joined.get(o, ())) for o in met.it.waiting)
        return {
            "every message: what was added, each register once": z3.And(*same),
            "sent to every server, and again": z3.BoolVal(
                [send.server for send in met.posted] == [0, 1, 2, 0, 1, 2]
            ),
            "every caller waits": z3.BoolVal(
                met.it.waiting.keys() == set(met.added) and callers >= len(met.added)
            ),
        }

    title = "one value: WriteOperation: sends what it was given, and that again (up to two)"
    procedure(e, title, sends, right)


def deciding(e: Engine) -> None:
    """An answer comes in: a register counts as written iff its verdict says so.

    What the verdicts are, and that `lost` and `contested` are all that are not decided, is proved
    in layer 1.
    """
    module = e.core.modules["registers.paxos.operations"]

    def hears() -> Any:
        met = Thing(settled=[], doubts=[], posted=[], marks=[], ballot=any_ballot("ballot"))
        it = _operation(module, met)
        it.partition.up = 0 if choose("all were heard") else 1
        met.futures = {offset: Future() for offset in OFFSETS if choose("waits")}
        met.verdicts = {offset: _verdict() for offset in OFFSETS}
        met.enough = choose("a quorum has answered")
        it.waiting, it.joined = dict(met.futures), {}
        machine = Thing(answered=0, servers=3, refusals=())

        def of(kind: str) -> tuple[Any, ...]:
            return tuple(
                Tally(o, 0, any_ballot("promised")) for o, v in met.verdicts.items() if v == kind
            )

        module.__dict__["is_quorum"] = lambda mask, servers: met.enough
        module.__dict__["accept"] = Thing(
            on_written=lambda m, server, refused: machine,
            lost=lambda m: of("lost"),
            contested=lambda m: of("open"),
            finished=lambda m: met.enough and not of("open"),
        )
        it.machine = Thing()

        async def work() -> Any:
            it.on_reply(1, Written([]))
            return it

        return work(), met

    def right(done: Done) -> Claims:
        met = done.met
        claims: Claims = {}
        marked = [o for *_, spans in met.marks for lo, hi in spans for o in range(lo, hi)]
        settled = [o for lo, hi in met.settled for o in range(lo, hi)]
        for offset, future in met.futures.items():
            decided = met.enough and met.verdicts[offset] == "decided"
            failed = bool(future.told) and isinstance(future.told[0], WormError)
            told = [decided, offset in settled, offset in marked, future.told == [None]]
            claims[f"{offset}: settled, marked and told so iff a quorum accepted it"] = z3.BoolVal(
                all(told) or not any(told)
            )
            claims[f"{offset}: a failure is a doubt"] = z3.BoolVal(failed == (offset in met.doubts))
            waits = offset in done.result.waiting
            claims[f"{offset}: told, or it waits"] = z3.BoolVal(bool(future.told) != waits)
        nobody = [o for o in (*settled, *met.doubts) if o not in met.futures]
        ballots = all(ballot is met.ballot for *_, ballot, _ in met.marks)
        return claims | {"nothing else, under its ballot": z3.BoolVal(not nobody and ballots)}

    title = "one value: WriteOperation.on_reply: told written iff a quorum accepted (up to two)"
    procedure(e, title, hears, right)


def _verdict() -> str:
    if choose("decided"):
        return "decided"
    return "lost" if choose("lost") else "open"


# ------------------------------------------------------------------ what is met is written as it is


def passing_on(e: Engine) -> None:
    """Captors and readers write the very values that they met, under the very ballot."""
    module = e.core.modules["registers.paxos.client"]
    shipped = module.PaxosRegisters

    def writes() -> Any:
        met = Thing(operations=[], added=[], rows={}, ballot=any_ballot("ballot"), results={})
        met.rows = {o: word("value") for o in OFFSETS if choose("row")}

        def operation(
            partition: Any, segment_name: Any, ballot: Any, issued: Any, owner: Any
        ) -> Thing:
            met.operations.append((segment_name, ballot))
            at = len(met.operations) - 1

            async def outcome(offset: Any) -> None:
                if choose("lost"):
                    met.results[offset] = CaptureLost("taken")
                    raise met.results[offset]

            def add(offset: Any, value: Any, deadline: Any) -> Any:
                met.added.append((at, offset, value))
                return outcome(offset)

            return Thing(add=add, is_full=SymBool(truth("full")), begin=lambda: None)

        module.__dict__["WriteOperation"] = operation
        module.__dict__["asyncio"] = Thing(gather=_gather)
        began: list[Any] = []
        me = Thing(_at=lambda segment_name: Thing(), _loop=Thing(call_soon=began.append))

        async def work() -> Any:
            return await shipped._write_rows(me, ARRAY, met.ballot, met.rows, 0)

        met.began = began
        return work(), met

    def right(done: Done) -> Claims:
        met = done.met
        pairs = [(o, v) for _, o, v in met.added]
        return {
            "each register once, with the value that was met": z3.BoolVal(
                len(pairs) == len(met.rows) and all(met.rows[o] is v for o, v in pairs)
            ),
            "under the very ballot": z3.BoolVal(
                all(
                    segment_name == ARRAY and ballot is met.ballot
                    for segment_name, ballot in met.operations
                )
            ),
            "every operation begins": z3.BoolVal(len(met.began) == len(met.operations)),
            "each is told its own outcome": z3.BoolVal(
                done.result == {o: met.results.get(o) for o in met.rows}
            ),
        }

    title = "one value: PaxosRegisters._write_rows: what was met, as it was met (up to two)"
    procedure(e, title, writes, right)


def helping(e: Engine) -> None:
    """A reader writes what is half-written as it met it; it captures only where that is refused."""
    module = e.core.modules["registers.paxos.client"]
    shipped = module.PaxosRegisters

    def concludes() -> Any:
        met = Thing(wrote=[], captured=[], known=[], marks=[], after={})
        ballots = b"one", b"two"  # they are keys
        found = [
            Found(Row(o, ballots[choose("another ballot")], word("value"), choose("decided")), 1)
            for o in OFFSETS
            if choose("found")
        ]
        met.rows = {f.row.offset: f.row for f in found}

        def is_known(one: Found, servers: int) -> bool:
            if choose("known"):
                met.known.append(one.row.offset)
            return one.row.offset in met.known

        async def write_rows(
            segment_name: Any, ballot: Any, rows: Any, deadline: Any
        ) -> dict[int, Any]:
            met.wrote += [(segment_name, o, ballot, value) for o, value in rows.items()]
            return {o: CaptureLost("taken") if choose("lost") else None for o in rows}

        async def capture(segment_name: Any, start: Any, stop: Any, deadline: Any) -> Thing:
            met.captured.append((segment_name, start, stop))
            met.after[start] = word("what was captured")
            return Thing(written={start: met.after[start]})

        module.__dict__["reading"] = Thing(is_known=is_known)
        partition = Thing(mark=lambda *mark: met.marks.append(mark))
        me = Thing(_at=lambda segment_name: partition, _write_rows=write_rows, capture=capture)
        me._help = lambda *args: shipped._help(me, *args)
        machine = Thing(found=found, servers=3)

        async def work() -> Any:
            return await shipped._conclude(me, ARRAY, machine, 0)

        return work(), met

    def right(done: Done) -> Claims:
        met, values = done.met, done.result
        left = {o for o, row in met.rows.items() if not row.decided}
        half = left - set(met.known)
        lost = {start for _, start, _ in met.captured}
        marked = [(o, m[2]) for m in met.marks for lo, hi in m[3] for o in range(lo, hi)]
        return {
            "written: what is half-written, once, as it was met": z3.BoolVal(
                sorted(o for _, o, *_ in met.wrote) == sorted(half)
                and all(
                    (segment_name, ballot) == (ARRAY, met.rows[o].ballot)
                    and value is met.rows[o].value
                    for segment_name, o, ballot, value in met.wrote
                )
            ),
            "captured: only where that was refused": z3.BoolVal(
                lost <= half and all(c == (ARRAY, c[1], c[1] + 1) for c in met.captured)
            ),
            "marked: what a quorum reported, at its ballot": z3.BoolVal(
                sorted(marked) == sorted((o, met.rows[o].ballot) for o in left & set(met.known))
            ),
            "told: what is known, what was written, and what the capture met": z3.BoolVal(
                values.keys() == left
                and all(
                    value is (met.after[o] if o in lost else met.rows[o].value)
                    for o, value in values.items()
                )
            ),
        }

    title = "one value: PaxosRegisters._conclude: helps with what it met (up to two registers)"
    procedure(e, title, concludes, right)


async def _gather(*work: Any, return_exceptions: bool) -> list[Any]:
    out: list[Any] = []
    for one in work:
        try:
            out.append(await one)
        except WormError as error:
            out.append(error)
    return out


def prove(e: Engine) -> None:
    """What is sent, and when."""
    sending(e)
    deciding(e)
    passing_on(e)
    helping(e)
