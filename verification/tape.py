"""Layer 4: segments and the log, by the code that allocates, fills, settles and hands out.

The models take any number of allocators, sequencers, appenders and fillers.  What allocators and
appenders conclude from their calls (`Space._try_alloc`, `Tape.settle`, `Tape._fill_piece`) is
executed as it ships: what it returns true of stands.  How the right to hand out slots passes on
(`Tenure`) is executed as well: each step of it, not the history of all sequencers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import z3

from verification import theory as th
from verification.loops import Claims, Engine
from verification.procedures import (
    Again,
    Done,
    Pairs,
    Register,
    Thing,
    choose,
    clock,
    fails,
    focus_range,
    paced,
    procedure,
    replying,
)
from verification.symex import SymCount, SymInt, SymWord, bool_term, current, int_term, word_term
from verification.system import (
    I,
    K,
    Rel,
    Step,
    System,
    W,
    Who,
    empty_at_first,
    gains,
    i,
    j,
    one_value,
    w,
    w1,
    write_once,
    written,
)
from wormspace.errors import CaptureLost, Trimmed, Unavailable
from wormspace.register.contract import METADATA


def segments() -> System:
    """`meta` is the metadata register, which carries its allocator; `gone` are the trimmed."""

    def always(s: Rel) -> dict[str, z3.BoolRef]:
        below = z3.And(i >= 0, i < j, written(s["meta"], j))
        return {
            "one value": one_value(s["meta"]),
            "a winner's name is in the register": z3.ForAll(
                [i, w], z3.Implies(s["won"](i, w), s["meta"](i, w))
            ),
            "the allocated are a prefix": z3.ForAll(
                [i, j], z3.Implies(below, written(s["meta"], i))
            ),
            "only the allocated are trimmed": z3.ForAll(
                [i], z3.Implies(s["gone"](i), written(s["meta"], i))
            ),
            "no negative numbers": z3.ForAll([i], z3.Implies(written(s["meta"], i), i >= 0)),
        }

    def alloc(s: Rel, t: Rel) -> Sequence[z3.BoolRef]:
        seen = z3.Or(K == 0, z3.And(K > 0, written(s["meta"], K - 1)))
        return [seen, write_once(s["meta"], t["meta"], K, W)]

    return System(
        "segments",
        {"meta": [I, Who], "won": [I, Who], "gone": [I]},
        empty_at_first("meta", "won", "gone"),
        always,
        {
            "alloc: write the first free number's metadata": ({"meta"}, alloc),
            "the metadata read back is one's own": (
                {"won"},
                lambda s, t: [s["meta"](K, W), gains(s, t, "won", K, W)],
            ),
            "trim an allocated segment": (
                {"gone"},
                lambda s, t: [written(s["meta"], K), gains(s, t, "gone", K)],
            ),
        },
        lambda s: {
            "one winner": z3.ForAll(
                [i, w, w1], z3.Implies(z3.And(s["won"](i, w), s["won"](i, w1)), w == w1)
            ),
            "the allocated are a prefix, trimmed ones included": always(s)[
                "the allocated are a prefix"
            ],
        },
    )


# ------------------------------------------------------------------ the log

Entry = z3.DeclareSort("Entry")
JUNK = z3.Const("JUNK", Entry)
E, E1 = z3.Consts("E E1", Entry)
e, e1 = z3.Consts("e e1", Entry)


def log() -> System:
    """`at` are the positions; `acked(e, i)`: the append of e was answered with position i.

    Nothing is assumed of sequencers: any number of them hand out any position, to several at once.
    An entry stands for one append: two appends of equal bytes are two entries.
    """

    def always(s: Rel) -> dict[str, z3.BoolRef]:
        return {
            "one value": one_value(s["at"]),
            "an acknowledged append is there": z3.ForAll(
                [e, i], z3.Implies(s["acked"](e, i), z3.And(s["at"](i, e), e != JUNK))
            ),
            "a filled position is junk": z3.ForAll(
                [i], z3.Implies(s["filled"](i), s["at"](i, JUNK))
            ),
            "what a reader saw is there": z3.ForAll(
                [w, i, e], z3.Implies(s["saw"](w, i, e), s["at"](i, e))
            ),
        }

    def write(what: Any) -> Step:
        return lambda s, t: [write_once(s["at"], t["at"], K, what)]

    return System(
        "log",
        {"at": [I, Entry], "acked": [Entry, I], "filled": [I], "saw": [Who, I, Entry]},
        empty_at_first("at", "acked", "filled", "saw"),
        always,
        {
            "an appender writes where any sequencer said": ({"at"}, write(E)),
            "an append is acknowledged": (
                {"acked"},
                lambda s, t: [E != JUNK, s["at"](K, E), gains(s, t, "acked", E, K)],
            ),
            "anybody fills a position": ({"at"}, write(JUNK)),
            "a fill took": (
                {"filled"},
                lambda s, t: [s["at"](K, JUNK), gains(s, t, "filled", K)],
            ),
            "somebody reads a position": (
                {"saw"},
                lambda s, t: [s["at"](K, E), gains(s, t, "saw", W, K, E)],
            ),
        },
        lambda s: {
            "no position twice": z3.ForAll(
                [e, e1, i], z3.Implies(z3.And(s["acked"](e, i), s["acked"](e1, i)), e == e1)
            ),
            "all readers see the same, and what was acknowledged": z3.ForAll(
                [w, w1, i, e, e1],
                z3.Implies(
                    z3.And(s["saw"](w, i, e), z3.Or(s["saw"](w1, i, e1), s["acked"](e1, i))),
                    e == e1,
                ),
            ),
            "filling is safe: a filled position was never acknowledged": z3.ForAll(
                [e, i], z3.Not(z3.And(s["filled"](i), s["acked"](e, i)))
            ),
        },
    )


# ------------------------------------------------------------------ allocating, filling, settling


def _word(name: str) -> SymWord:
    return SymWord(th.fresh(name, z3.IntSort()))


def _ends(done: Done, *errors: type[Exception]) -> Claims:
    """It fails only in the ways that it documents."""
    if done.error is None:
        return {}
    return {"fails as documented": z3.BoolVal(isinstance(done.error, (Again, *errors)))}


def allocating(e: Engine) -> None:
    """Segments: one winner."""
    space = e.core.modules["space.space"]
    space.__dict__["asyncio"] = clock()

    def tries() -> Any:
        register = Register(METADATA, (CaptureLost("taken"), Trimmed("trimmed")))
        raw = _word("raw")
        registers = Thing(
            capture=lambda array, start, stop, deadline: register.capture(start, stop),
            write=lambda array, token, offset, value, deadline: register.write(offset, value),
        )
        me = Thing(name="s", client=Thing(registers=registers, rng=paced().rng))
        return space.Space._try_alloc(me, 0, raw, 1), Thing(register=register, raw=raw)

    def won(done: Done) -> Claims:
        register, raw = done.met.register, done.met.raw
        claims = _ends(done, Unavailable)
        claims["writes only its own metadata"] = z3.And(*[a == raw.z for a in register.attempts])
        claims["and only where there is none"] = z3.BoolVal(all(register.after_capture))
        if done.error is None:
            mine = bool_term(done.result)
            claims["true: the segment is its own"] = z3.Implies(mine, register.stands(raw))
            other = z3.And(register.written, register.held.z != raw.z)
            gone = z3.BoolVal(register.trimmed)
            claims["false: it is another's, or trimmed"] = z3.Or(mine, other, gone)
        return claims

    procedure(e, "space.Space._try_alloc: true iff the metadata read back is one's own", tries, won)


def filling(e: Engine) -> None:
    """Holes, and whether an entry stands."""
    tape = e.core.modules["log.tape"]
    tape.__dict__["asyncio"] = clock()
    hole = word_term(tape.HOLE)

    def fills() -> Any:
        register = Register(SymInt(th.fresh("at", I)))
        me = Thing(space=Thing(client=paced()))
        return tape.Tape._fill_piece(me, register, 2, 8), register

    def filled(done: Done) -> Claims:
        register = done.met
        claims = _ends(done, Unavailable)
        claims["writes only holes"] = z3.And(*[a == hole for a in register.attempts])
        claims["and only where nothing is"] = z3.BoolVal(all(register.after_capture))
        if done.error is None:
            asked = z3.And(int_term(register.at) >= 2, int_term(register.at) < 8)
            claims["true: every register of the piece is decided"] = z3.Implies(
                z3.And(bool_term(done.result), asked), register.written
            )
        return claims

    procedure(e, "log.Tape._fill_piece: decides every register, by holes only", fills, filled)

    def settles() -> Any:
        register, mine = Register(0), _word("mine")
        current().facts.append(mine.z != hole)
        me = Thing(size=8, segment=lambda number: register, space=Thing(client=paced()))
        me.pieces = lambda start, stop: [(0, start, stop)] if start < stop else []
        me._fill_piece = lambda *args: tape.Tape._fill_piece(me, *args)
        me.fill = lambda *args: tape.Tape.fill(me, *args)
        return tape.Tape.settle(me, 0, mine), Thing(register=register, mine=mine)

    def settled(done: Done) -> Claims:
        register, mine = done.met.register, done.met.mine
        claims = _ends(done, Unavailable)
        claims["writes only holes"] = z3.And(*[a == hole for a in register.attempts])
        if done.error is None:
            claims["the slot is decided"] = register.written
            claims["true iff it holds mine"] = bool_term(done.result) == register.stands(mine)
        return claims

    procedure(e, "log.Tape.settle: true iff the slot holds one's own for ever", settles, settled)


# ------------------------------------------------------------------ the right to hand out


def _any_stretch(tenure: Any, number: int) -> tuple[Any, z3.ExprRef, z3.ExprRef]:
    at, stop = SymCount(th.fresh("at", I)), SymCount(th.fresh("stop", I))
    current().facts.append(at.z <= stop.z)
    return tenure._Stretch(number, at, stop, b"ballot"), at.z, stop.z


def handing_out(e: Engine) -> None:
    """The right to hand out slots: taken, used, passed on."""
    tenure = e.core.modules["log.tenure"]

    def takes() -> Any:
        me = tenure.Tenure.__new__(tenure.Tenure)
        me._now, *now = _any_stretch(tenure, 0)
        me._next, *following = _any_stretch(tenure, 1) if choose("next") else (None, None, None)
        count = SymCount(th.fresh("count", I))
        current().facts.append(count.z > 0)

        async def take() -> Any:
            return me.take(count)

        return take(), Thing(me=me, count=count.z, bounds=(now, following))

    def taken(done: Done) -> Claims:
        runs, me = done.result, done.met.me
        bounds = done.met.bounds
        claims = {}
        given = z3.Sum(z3.IntVal(0), *[r.stop.z - r.start.z for r in runs])
        for k, r in enumerate(runs):
            at, stop = bounds[r.segment]
            claims[f"run {k} is of what was left"] = z3.And(
                at <= r.start.z, r.start.z < r.stop.z, r.stop.z <= stop
            )
            later = [s for s in (me._now, me._next) if s is not None and s.number == r.segment]
            claims[f"run {k} is never handed out again"] = z3.And(
                *[r.stop.z <= s.at.z for s in later],
                z3.BoolVal(bool(later) or me._now.number > r.segment),
            )
        numbers = [r.segment for r in runs]
        claims["a run per segment, ascending"] = z3.BoolVal(numbers == sorted(set(numbers)))
        left = z3.Sum(
            z3.IntVal(0), *[s.stop.z - s.at.z for s in (me._now, me._next) if s is not None]
        )
        claims["as many as asked for, or all there are"] = z3.And(
            given <= done.met.count, z3.Or(given == done.met.count, left == 0)
        )
        return claims

    procedure(e, "log.Tenure.take: no register is handed out twice", takes, taken)
    _taking_over(e, tenure)
    _moving_on(e, tenure)


class Size(SymInt):
    """How many slots a segment has: slots are counted in segments."""

    __slots__ = ()

    def __rmul__(self, number: int) -> SymInt:
        return SymInt(number * self.z)


def _taking_over(e: Engine, tenure: Any) -> None:
    tenure.__dict__["asyncio"] = clock()
    fresh: dict[str, SymInt] = {}

    def takes_over() -> Any:
        low, at = (SymInt(th.fresh(name, I)) for name in ("low", "offset"))
        size = Size(th.fresh("size", I))
        fresh["at"] = at
        met = Thing(captured=None, saw=[], allocated=[], number=0 if choose("first") else 3)
        offsets = [SymInt(th.fresh("written", I)) for _ in range(2) if choose("another")]
        current().facts += [low.z >= 0, low.z <= size.z, size.z > 0]
        current().facts += [z3.And(low.z <= o.z, o.z <= size.z) for o in offsets]
        filled: list[Any] = []
        token = Thing(ballot=b"captured")

        def capture(start: Any, stop: Any) -> Thing:
            fails(Trimmed("trimmed"))
            met.captured = z3.And(start.z == low.z, stop.z == size.z + 1)
            return Thing(written=Pairs([(o, b"entry") for o in offsets]), token=token)

        tape = Thing(
            size=size,
            written_offset=replying(lambda number: low),
            segment=lambda number: Thing(capture=replying(capture)),
            saw=lambda slot: met.saw.append(slot.z),
        )
        me = Thing(
            _tape=tape,
            _allocated=replying(lambda number: met.allocated.append(number)),
            _fill=replying(lambda segment, empty, token: filled.extend(empty)),
        )
        met.__dict__.update(low=low.z, size=size.z, at=at.z, offsets=offsets, filled=filled)
        return tenure.Tenure._take_over(me, met.number), met

    tenure.__dict__["range"] = lambda start, stop: focus_range(fresh["at"])(start, stop)

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
            return claims | {"trimmed: the tape goes on": z3.BoolVal(done.result is None)}
        claims |= {
            "it captures all that is left, with the seam": m.captured,
            "it notes the last written slot": z3.And(
                *[z3.Or(*[s == base + o.z for o in m.offsets]) for s in m.saw],
                *[z3.Or(o.z >= m.size, *[base + o.z <= s for s in m.saw]) for o in m.offsets],
                *[s < base + m.size for s in m.saw],
            ),
        }
        below = m.size if done.result is None else done.result.at.z
        claims["what was left empty below becomes holes"] = z3.Implies(
            z3.And(m.low <= m.at, m.at < below, z3.Not(here)), filled
        )
        if done.result is None:
            return claims | {"the tape goes on where it was closed": closed}
        s = done.result
        last = z3.Or(s.at.z == m.low, *[s.at.z == o.z + 1 for o in m.offsets])
        return claims | {
            "it holds what it captured": z3.BoolVal(s.ballot == b"captured"),
            "and that segment": z3.BoolVal(s.number == m.number),
            "not a segment that was closed": z3.Not(closed),
            "it goes on right above all that is written": z3.And(
                last, m.low <= s.at.z, *[o.z < s.at.z for o in m.offsets]
            ),
            "and up to the seam": s.stop.z == m.size,
        }

    title = "log.Tenure._take_over: goes on above what is written (up to two written registers)"
    procedure(e, title, takes_over, took)


def _moving_on(e: Engine, tenure: Any) -> None:
    """The next segment is used only when the seam of this one was written."""

    def moves() -> Any:
        seam = Register(8, (CaptureLost("taken"), Trimmed("trimmed")))
        met = Thing(seam=seam, mine=choose("mine"), empty=choose("empty"), unsafe=choose("unsafe"))

        def capture() -> Thing:
            written = {} if met.empty else {0: b"entry"}
            return Thing(written=written, token=Thing(ballot=b"captured"))

        segment = Thing(capture=replying(capture))
        me = tenure.Tenure.__new__(tenure.Tenure)
        me._tape = Thing(size=8, segment=lambda number: segment, space=Thing(name="s"))
        me._now, me._next = tenure._Stretch(0, 8, 8, b"ballot"), None
        me._unsafe = met.unsafe
        me._seal = replying(lambda: b"seam")
        me._allocated = replying(lambda number: met.mine)
        if choose("tried before"):
            me._now.seam = b"earlier"
        met.me, met.seal = me, me._now.seam or b"seam"
        met.runs = []

        def hold(tape: Any, run: Any) -> Register:
            right = (run.segment, run.start, run.stop, run.ballot) == (0, 8, 9, b"ballot")
            met.runs.append(right and tape is me._tape)
            return seam

        tenure.__dict__["Held"] = hold
        return tenure.Tenure._make_next(me), met

    def moved(done: Done) -> Claims:
        m = done.met
        moved_on = m.me._next is not None
        claims = {
            "writes nothing but the seam": z3.And(
                *[a == word_term(m.seal) for a in m.seam.attempts]
            ),
            "under the token of this segment": z3.BoolVal(all(m.runs)),
            "moves on iff it ends well": z3.BoolVal(moved_on == (done.error is None)),
        }
        if not moved_on:
            again = isinstance(done.error, Unavailable)
            deposed = isinstance(done.error, tenure.Deposed)
            taken = bool(m.seam.attempts) or not m.empty
            return claims | {
                "else it may try again, or somebody else has taken over": z3.BoolVal(
                    again or (deposed and taken)
                )
            }
        following = m.me._next
        unsafe = following.ballot == tenure.UNSAFE
        return claims | {
            "its seam stands": m.seam.stands(m.seal),
            "unsafe only in a segment of its own": z3.BoolVal(not unsafe or (m.mine and m.unsafe)),
            "else captured, and nothing was written there": z3.BoolVal(unsafe or m.empty),
            "from the next segment's first register on": z3.BoolVal(
                (following.number, following.at, following.stop) == (1, 0, 8)
            ),
        }

    title = "log.Tenure._make_next: uses the next segment only when its seam stands"
    procedure(e, title, moves, moved)


def prove(e: Engine) -> None:
    """Allocating, filling, settling, handing out."""
    allocating(e)
    filling(e)
    handing_out(e)


def systems() -> list[System]:
    """Both."""
    return [segments(), log()]
