"""Layer 4: how the right to hand out the slots of a log passes on, by the code: `log.term`.

Each step of a holder is executed: it hands out no register twice, takes over above all that is
written, and uses the next segment only when the seal of this one stands.  That is each step by
itself, not the history of all sequencers: the log's theorems do without (`segmented_log`).
"""

from __future__ import annotations

from typing import Any

import z3

from verification import theory as th
from verification.loops import Claims, Engine
from verification.procedures import (
    Done,
    Pairs,
    Register,
    Thing,
    choose,
    clock,
    fails,
    focus_range,
    procedure,
    replying,
)
from verification.symex import SymCount, SymInt, current, word_term
from verification.system import I
from wormspace.errors import CaptureLost, Trimmed, Unavailable


def _any_stretch(term: Any, number: int) -> tuple[Any, z3.ExprRef, z3.ExprRef]:
    at, stop = SymCount(th.fresh("at", I)), SymCount(th.fresh("stop", I))
    current().facts.append(at.z <= stop.z)
    return term._Unreserved(number, at, stop, b"fence"), at.z, stop.z


def handing_out(e: Engine) -> None:
    """The right to hand out slots: taken, used, passed on."""
    term = e.core.modules["log.term"]

    def takes() -> Any:
        me = term.Term.__new__(term.Term)
        me._now, *now = _any_stretch(term, 0)
        me._next, *following = _any_stretch(term, 1) if choose("next") else (None, None, None)
        count = SymCount(th.fresh("count", I))
        current().facts.append(count.z > 0)

        async def take() -> Any:
            return me.take(count)

        return take(), Thing(me=me, count=count.z, bounds=(now, following))

    def taken(done: Done) -> Claims:
        ranges, me = done.result, done.met.me
        bounds = done.met.bounds
        claims = {}
        given = z3.Sum(z3.IntVal(0), *[r.stop.z - r.start.z for r in ranges])
        for k, r in enumerate(ranges):
            at, stop = bounds[r.segment]
            claims[f"run {k} is of what was left"] = z3.And(
                at <= r.start.z, r.start.z < r.stop.z, r.stop.z <= stop
            )
            later = [s for s in (me._now, me._next) if s is not None and s.number == r.segment]
            claims[f"run {k} is never handed out again"] = z3.And(
                *[r.stop.z <= s.at.z for s in later],
                z3.BoolVal(bool(later) or me._now.number > r.segment),
            )
        numbers = [r.segment for r in ranges]
        claims["a run per segment, ascending"] = z3.BoolVal(numbers == sorted(set(numbers)))
        left = z3.Sum(
            z3.IntVal(0), *[s.stop.z - s.at.z for s in (me._now, me._next) if s is not None]
        )
        claims["as many as asked for, or all there are"] = z3.And(
            given <= done.met.count, z3.Or(given == done.met.count, left == 0)
        )
        return claims

    procedure(e, "log.Term.take: no register is handed out twice", takes, taken)
    _taking_over(e, term)
    _moving_on(e, term)


class Size(SymInt):
    """How many slots a segment has: slots are counted in segments."""

    __slots__ = ()

    def __rmul__(self, number: int) -> SymInt:
        return SymInt(number * self.z)


def _taking_over(e: Engine, term: Any) -> None:
    term.__dict__["asyncio"] = clock()
    fresh: dict[str, SymInt] = {}

    def takes_over() -> Any:
        low, at = (SymInt(th.fresh(name, I)) for name in ("low", "offset"))
        size = Size(th.fresh("size", I))
        fresh["at"] = at
        met = Thing(captured=None, saw=[], allocated=[], number=0 if choose("first") else 3)
        met.mixed, met.own = choose("mixed"), met.number == 0 and choose("own")
        offsets = [SymInt(th.fresh("written", I)) for _ in range(2) if choose("another")]
        current().facts += [low.z >= 0, low.z <= size.z, size.z > 0]
        current().facts += [z3.And(low.z <= o.z, o.z <= size.z) for o in offsets]
        if len(offsets) == 2:
            current().facts.append(offsets[0].z < offsets[1].z)
        filled: list[Any] = []
        token = Thing(fence=b"captured")

        def allocate(number: int) -> bool:
            met.allocated.append(number)
            return bool(met.own)

        def capture(start: Any, stop: Any) -> Thing:
            fails(Trimmed("trimmed"))
            met.captured = z3.And(start.z == low.z, stop.z == size.z + 1)
            return Thing(written=Pairs([(o, b"entry") for o in offsets]), token=token)

        segmented_log = Thing(
            size=size,
            allocated=replying(allocate),
            written_offset=replying(lambda number: low),
            segment=lambda number: Thing(capture=replying(capture)),
            saw=lambda slot: met.saw.append(slot.z),
        )
        me = Thing(
            _segmented_log=segmented_log,
            _mixed=met.mixed,
            _fill=replying(lambda segment, empty, token: filled.extend(empty)),
        )
        met.__dict__.update(low=low.z, size=size.z, at=at.z, offsets=offsets, filled=filled)
        return term.Term._take_over(me, met.number), met

    term.__dict__["range"] = lambda start, stop: focus_range(fresh["at"])(start, stop)

    def took(done: Done) -> Claims:
        m = done.met
        here = z3.Or(*[o.z == m.at for o in m.offsets])
        filled = z3.BoolVal(bool(m.filled))
        closed = z3.Or(*[o.z == m.size for o in m.offsets])
        base = m.number * m.size
        claims = {
            "never over what is written": z3.Not(z3.And(filled, here)),
            "the first segment is there": z3.BoolVal(m.allocated == [0][m.number :]),
        }
        if m.captured is None:
            return claims | {"trimmed: the segmented log goes on": z3.BoolVal(done.result is None)}
        below = m.size if done.result is None else done.result.at.z
        claims |= {
            "it captures all that is left, with the seal": m.captured,
            "nothing above is filled": z3.Implies(filled, m.at < below),
            "it notes the last written slot": z3.And(
                *[z3.Or(*[s == base + o.z for o in m.offsets]) for s in m.saw],
                *[z3.Or(o.z >= m.size, *[base + o.z <= s for s in m.saw]) for o in m.offsets],
                *[s < base + m.size for s in m.saw],
            ),
        }
        claims["what was left empty below becomes holes"] = z3.Implies(
            z3.And(m.low <= m.at, m.at < below, z3.Not(here)), filled
        )
        if done.result is None:
            return claims | {"the segmented log goes on where it was closed": closed}
        s = done.result
        last = z3.Or(s.at.z == m.low, *[s.at.z == o.z + 1 for o in m.offsets])
        slots = [o.z < m.size for o in m.offsets]
        unused = z3.And(z3.BoolVal(m.own), m.low == 0, z3.Not(z3.Or(*slots)))
        goes_on = z3.Or(z3.BoolVal(m.mixed), unused)
        return claims | {
            "it holds what it captured": z3.BoolVal(s.fence == b"captured"),
            "and that segment": z3.BoolVal(s.number == m.number),
            "not a segment that was closed": z3.Not(closed),
            "it goes on above all that is written": z3.And(
                m.low <= s.at.z, *[o.z < s.at.z for o in m.offsets]
            ),
            "right above, or in the next segment if others have handed out slots of this": z3.If(
                goes_on, last, s.at.z == m.size
            ),
            "and up to the seal": s.stop.z == m.size,
        }

    title = "log.Term._take_over: goes on above what is written (up to two written registers)"
    procedure(e, title, takes_over, took)


def _moving_on(e: Engine, term: Any) -> None:
    """The next segment is used only when the seal of this one was written."""

    def moves() -> Any:
        seal = Register(8, (CaptureLost("taken"), Trimmed("trimmed")))
        met = Thing(seal=seal, mine=choose("mine"), empty=choose("empty"), unsafe=choose("unsafe"))

        def capture() -> Thing:
            written = {} if met.empty else {0: b"entry"}
            return Thing(written=written, token=Thing(fence=b"captured"))

        segment = Thing(capture=replying(capture))
        me = term.Term.__new__(term.Term)
        allocated = replying(lambda number: met.mine)
        me._segmented_log = Thing(
            size=8, segment=lambda number: segment, space=Thing(name="s"), allocated=allocated
        )
        me._now, me._next = term._Unreserved(0, 8, 8, b"fence"), None
        me._unsafe = met.unsafe
        me._seal = replying(lambda: b"seal")
        if choose("tried before"):
            me._now.seal = b"earlier"
        met.me, met.content = me, me._now.seal or b"seal"
        met.ranges = []

        def hold(segmented_log: Any, reserved: Any) -> Register:
            right = (reserved.segment, reserved.start, reserved.stop, reserved.fence) == (
                0,
                8,
                9,
                b"fence",
            )
            met.ranges.append(right and segmented_log is me._segmented_log)
            return seal

        term.__dict__["ReservedWriter"] = hold
        return term.Term._make_next(me), met

    def moved(done: Done) -> Claims:
        m = done.met
        moved_on = m.me._next is not None
        claims = {
            "writes nothing but the seal": z3.And(
                *[a == word_term(m.content) for a in m.seal.attempts]
            ),
            "under the token of this segment": z3.BoolVal(all(m.ranges)),
            "moves on iff it ends well": z3.BoolVal(moved_on == (done.error is None)),
        }
        if not moved_on:
            again = isinstance(done.error, Unavailable)
            deposed = isinstance(done.error, term.Deposed)
            taken = bool(m.seal.attempts) or not m.empty
            return claims | {
                "else it may try again, or somebody else has taken over": z3.BoolVal(
                    again or (deposed and taken)
                )
            }
        following = m.me._next
        unsafe = following.fence == term.UNSAFE
        return claims | {
            "its seal stands": m.seal.stands(m.content),
            "unsafe only in a segment of its own": z3.BoolVal(not unsafe or (m.mine and m.unsafe)),
            "else captured, and nothing was written there": z3.BoolVal(unsafe or m.empty),
            "from the next segment's first register on": z3.BoolVal(
                (following.number, following.at, following.stop) == (1, 0, 8)
            ),
        }

    title = "log.Term._make_next: uses the next segment only when its seal stands"
    procedure(e, title, moves, moved)


def prove(e: Engine) -> None:
    """The right to hand out."""
    handing_out(e)
