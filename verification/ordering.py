"""Layer 4: *pages first*: what a captor does, in which order, and which ballots it takes.

`PaxosRegisters.capture` sends nothing under its ballot before its capture is promised: no report is
counted after that (layer 1: a capture that is over does not change).  Then it writes what
`undecided` selects, under that very ballot; and the token that it returns calls nothing free that
anybody reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import z3

from verification import theory as th
from verification.issuing import ARRAY, I, number, word
from verification.loops import Claims, Engine
from verification.procedures import ATTEMPTS, Again, Done, Thing, choose, procedure, replying
from verification.sending import OFFSETS, any_ballot
from verification.symex import SymInt, ballot_term, current
from wormspace.errors import CaptureLost, ProtocolViolation, Unavailable
from wormspace.paxos import prepare
from wormspace.paxos.messages import Row
from wormspace.paxos.prepare import Prepare


def _attempts() -> Iterator[int]:
    yield from range(ATTEMPTS)
    raise Again


class Ballots:
    """The ballots of a client: each above all that it took and saw."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def take(self, floor: Any, segment_name: Any) -> Any:
        """The next one."""
        self.taken.append(any_ballot("next"))
        return self.taken[-1]


def capturing_first(e: Engine) -> None:
    """Nothing is sent under the ballot before the capture is promised."""
    module = e.core.modules["registers.paxos.client"]
    shipped = module.PaxosRegisters

    def captures() -> Any:
        met = Thing(captures=[], order=[], ballots=Ballots(), rows={}, results={})
        met.rows = {
            o: Row(o, any_ballot("accepted"), word("value"), choose("decided"))
            for o in OFFSETS
            if choose("reported")
        }

        def operation(partition: Any, machine: Prepare, deadline: Any) -> Thing:
            met.captures.append(machine)
            return Thing(run=lambda: run(machine), what="capture")

        async def run(machine: Prepare) -> Prepare:
            met.order.append("capture")
            if choose("unavailable"):
                raise Unavailable("no majority")
            promised = choose("promised")
            met.order.append("promised" if promised else "preempted")
            phase = prepare.PROMISED if promised else prepare.PREEMPTED
            return _after(machine, phase, tuple(met.rows.values()))

        async def write_rows(
            segment_name: Any, ballot: Any, rows: Any, deadline: Any
        ) -> dict[int, Any]:
            met.order.append("write")
            met.wrote = segment_name, ballot is met.captures[-1].ballot, rows
            ends = CaptureLost("taken"), Unavailable("no majority"), None
            met.results = {o: next(e for e in ends if e is None or choose("fails")) for o in rows}
            return dict(met.results)

        module.__dict__["CaptureOperation"] = operation
        module.__dict__["contended"] = lambda what, attempt: Unavailable(what)
        module.__dict__["itertools"] = Thing(count=_attempts)
        me = Thing(
            _seen=any_ballot("seen"),
            _contention=Thing(
                pause=replying(lambda *_: None), on_won=lambda: None, on_lost=lambda _: None
            ),
            _at=lambda segment_name: Thing(size=3),
            _next_ballot=met.ballots.take,
            _write_rows=write_rows,
            _loop=Thing(time=lambda: number("time")),
            on_refused=lambda ballot: None,
            on_gone=lambda segment_name: None,
        )
        me._complete = lambda machine, deadline: shipped._complete(me, machine, deadline)

        async def work() -> Any:
            return await shipped.capture(me, ARRAY, 2, 6, number("deadline"))

        return work(), met

    procedure(
        e,
        "pages first: PaxosRegisters.capture: writes when it is promised, and calls free what "
        "nobody reported (up to two attempts, two registers)",
        captures,
        _captured,
    )


def _after(m: Prepare, phase: str, rows: tuple[Row, ...]) -> Prepare:
    """The capture as it ends."""
    best = ((0, rows),) if rows else ()
    return Prepare(3, m.space, m.segment, m.start, m.stop, m.ballot, phase, top=any_ballot("top"),
                     best=best)  # fmt: skip


def _captured(done: Done) -> Claims:
    met, error = done.met, done.error
    ballots = [m.ballot for m in met.captures]
    claims: Claims = {
        "each attempt has a ballot of its own": z3.BoolVal(
            len(ballots) == len(met.ballots.taken)
            and all(a is b for a, b in zip(ballots, met.ballots.taken, strict=False))
        ),
        "each is of all that is asked for": z3.BoolVal(
            all((m.space, m.segment, m.start, m.stop) == (*ARRAY, 2, 6) for m in met.captures)
        ),
        "written only after it was promised": z3.BoolVal(
            all(met.order[k - 1] == "promised" for k, x in enumerate(met.order) if x == "write")
        ),
        "it ends as documented": z3.BoolVal(
            error is None or isinstance(error, Unavailable | Again)
        ),
    }
    half = {o: row.value for o, row in met.rows.items() if not row.decided}
    if "write" in met.order:
        segment_name, own, rows = met.wrote
        claims["written: what is half-written, as it was met, under the capture's ballot"] = z3.And(
            z3.BoolVal(segment_name == ARRAY and own and rows.keys() == half.keys()),
            *[rows[o].z == half[o].z for o in rows if o in half],
        )
    if error is not None:
        return claims
    token, written = done.result.token, done.result.written
    free = [o for o in range(2, 6) if token.is_free(o)]
    return claims | {
        "promised, and all that was half-written is decided": z3.BoolVal(
            met.order[-2:] == ["promised", "write"] and not any(met.results.values())
        ),
        "the token is of the last capture": z3.BoolVal(
            token.fence is ballots[-1]
            and (token.space, token.segment, token.start, token.stop) == (*ARRAY, 2, 6)
        ),
        "free: what nobody reported, and only that": z3.BoolVal(
            free == [o for o in range(2, 6) if o not in met.rows] and free == list(token.free())
        ),
        "written: what was reported": z3.And(
            z3.BoolVal(written.keys() == met.rows.keys()),
            *[written[o].z == met.rows[o].value.z for o in written if o in met.rows],
        ),
    }  # fmt: skip


def numbering(e: Engine) -> None:
    """A ballot is above all that the client took before, and above the floor."""
    module = e.core.modules["registers.paxos.client"]
    round_of = z3.Function("round_of", th.Ballot, I)

    def rounds(ballot: Any) -> SymInt:
        return SymInt(round_of(ballot_term(ballot)))

    def above(seen: Any, proposer: Any) -> Any:
        out = any_ballot("above")
        current().facts += [
            th.blt(seen.z, out.z),
            round_of(out.z) == round_of(seen.z) + 1,
        ]
        return out

    def takes() -> Any:
        module.__dict__.update(round_of=rounds, above=above)
        me = Thing(_seen=any_ballot("seen"), _taken=any_ballot("taken"), _proposer=b"me")
        me.on_refused = lambda ballot: module.PaxosRegisters.on_refused(me, ballot)
        floor, last = any_ballot("floor"), any_ballot("last")
        low, high = z3.Consts("low high", th.Ballot)
        current().facts += [
            z3.ForAll([low, high], z3.Implies(th.ble(low, high), round_of(low) <= round_of(high))),
            *remembered(me, last),
        ]

        async def work() -> Any:
            return module.PaxosRegisters._next_ballot(me, floor, ARRAY)

        return work(), (me, floor, last)

    def remembered(me: Any, ballot: Any) -> list[z3.BoolRef]:
        """Of a ballot that was taken: it is known, and those that are carried on are seen."""
        carried = round_of(ballot.z) < module.ABSURD_ROUND
        return [
            th.ble(ballot.z, me._taken.z),
            z3.Implies(carried, th.ble(ballot.z, me._seen.z)),
            round_of(me._seen.z) < module.ABSURD_ROUND,
        ]

    def right(done: Done) -> Claims:
        me, floor, last = done.met
        kept = {"what was taken stays remembered": z3.And(*remembered(me, last))}
        if done.error is not None:
            return {"it ends as documented": z3.BoolVal(isinstance(done.error, ProtocolViolation))}
        new = done.result
        return kept | {
            "above the floor": th.blt(floor.z, new.z),
            "another than any that it took": new.z != last.z,
            "it is remembered": z3.And(*remembered(me, new)),
        }

    title = "ballots: PaxosRegisters._next_ballot: a client takes none twice"
    procedure(e, title, takes, right)


def prove(e: Engine) -> None:
    """The order of a captor's steps."""
    capturing_first(e)
    numbering(e)
