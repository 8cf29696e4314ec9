"""Layer 4: segments and the log, by the code that allocates, fills and settles.

The models take any number of allocators, sequencers, appenders and fillers.  What allocators and
appenders conclude from their calls (`Space.alloc`, `Segment.settle`, `SegmentedLog.settle`,
`settle_range`) is executed as it ships: what it returns true of stands.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import z3

from verification import theory as th
from verification.loops import Claims, Engine
from verification.procedures import (
    ATTEMPTS,
    Again,
    Done,
    Register,
    Thing,
    choose,
    clock,
    fails,
    paced,
    procedure,
    replying,
    retrying,
)
from verification.symex import SymBool, SymInt, SymWord, bool_term, current, int_term, word_term
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
from wormspace.addresses import METADATA
from wormspace.errors import CaptureLost, Trimmed, Unavailable, UsageError

ALLOCATES, WINS = "write the first free number's metadata", "the metadata read back is one's own"
FILLS, ACKNOWLEDGES = "anybody fills a position", "an append is acknowledged"


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
            ALLOCATES: ({"meta"}, alloc),
            WINS: (
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
        code=frozenset({ALLOCATES, WINS}),
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
            ACKNOWLEDGES: (
                {"acked"},
                lambda s, t: [E != JUNK, s["at"](K, E), gains(s, t, "acked", E, K)],
            ),
            FILLS: ({"at"}, write(JUNK)),
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
        code=frozenset({FILLS, ACKNOWLEDGES}),
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
    space.__dict__["Race"] = retrying

    def tries() -> Any:
        register = Register(METADATA, (CaptureLost("taken"), Trimmed("trimmed")))
        raw = _word("raw")
        its: list[bool] = []

        def capture(segment_name: Any, start: Any, stop: Any, deadline: Any) -> Any:
            its.append(segment_name == ("s", 7))
            return register.capture(start, stop)

        def write(segment_name: Any, token: Any, offset: Any, value: Any, deadline: Any) -> Any:
            its.append(segment_name == ("s", 7) and token is register.token)
            return register.write(offset, value)

        registers = Thing(capture=capture, write=write)
        me = Thing(name="s", client=Thing(registers=registers, rng=paced().rng))
        return space.Space._try_alloc(me, 7, raw, 1), Thing(register=register, raw=raw, its=its)

    def won(done: Done) -> Claims:
        register, raw = done.met.register, done.met.raw
        claims = _ends(done, Unavailable)
        claims["writes only its own metadata"] = z3.And(*[a == raw.z for a in register.attempts])
        claims["and only where there is none"] = z3.BoolVal(all(register.after_capture))
        claims["of this number, under its own capture"] = z3.BoolVal(all(done.met.its))
        if done.error is None:
            mine = bool_term(done.result)
            claims["true: the segment is its own"] = z3.Implies(mine, register.stands(raw))
            other = z3.And(register.written, register.held.z != raw.z)
            gone = z3.BoolVal(register.trimmed)
            claims["false: it is another's, or trimmed"] = z3.Or(mine, other, gone)
        return claims

    procedure(e, "space.Space._try_alloc: true iff the metadata read back is one's own", tries, won)
    _in_order(e, space)


class Size(SymInt):
    """A number that people are told of."""

    def __format__(self, how: str) -> str:
        return "?"


def _in_order(e: Engine, space: Any) -> None:
    """`alloc` tries the tail, and looks for it anew when another got that."""
    space.__dict__["Segment"] = lambda *its: its
    space.__dict__["as_int"] = lambda number, what: number  # a symbol has no type

    def allocates() -> Any:
        size = Size(th.fresh("size", I))
        length = 999 if choose("short") else 1000 if choose("longest") else 1001
        payload = b"payload" if choose("bytes") else "payload"
        raw = bytes(length)
        met = Thing(tails=[], tried=[], won=[], known=SymInt(th.fresh("known", I)), right=[])
        short = z3.BoolVal(length <= 1000 and payload == b"payload")
        met.fits = z3.And(size.z >= 1, size.z <= space.MAX_OFFSETS, short)

        def tries(number: Any, its: bytes, deadline: float) -> bool:
            if len(met.tried) == ATTEMPTS:
                raise Again
            met.tried.append(number.z)
            met.right.append(its is raw and deadline == 1.0)
            met.won.append(mine := choose("mine"))
            return mine

        def record(*its: Any) -> Thing:
            met.right.append(its == (size, payload, b"nonce"))
            return Thing(size=size, payload=payload, encode=lambda: raw)

        space.__dict__["Metadata"] = record
        client = Thing(
            deadline=lambda timeout: 1.0, nonce=lambda: b"nonce", registers=Thing(max_value=1000)
        )

        def tail(deadline: float) -> SymInt:
            found = SymInt(th.fresh("tail", I))
            met.tails.append(found.z)
            return found

        me = Thing(client=client, _known_tail=met.known, _find_tail=replying(tail))
        me._try_alloc = replying(tries)
        met.me, met.segment = me, [size, payload]
        return space.Space.alloc(me, payload, size), met

    def allocated(done: Done) -> Claims:
        m = done.met
        claims = {
            "the tail, found anew for each attempt": z3.And(
                *[number == m.tails[k] for k, number in enumerate(m.tried)]
            ),
            "with what it was given, and a nonce": z3.BoolVal(all(m.right)),
        } | _ends(done, UsageError)
        if isinstance(done.error, UsageError):
            claims["refuses only what cannot be one"] = z3.Not(m.fits)
            claims["before anything is tried"] = z3.BoolVal(not m.tried)
        else:
            claims["and all that"] = m.fits
        if done.error is None:
            known, (me, number, *its) = int_term(m.me._known_tail), done.result
            claims["the one it has is the last it tried"] = int_term(number) == m.tried[-1]
            claims["it is its own, and none before it was"] = z3.BoolVal(
                m.won == [False] * (len(m.tried) - 1) + [True]
            )
            claims["of that size, for that"] = z3.BoolVal(me is m.me and its == m.segment)
            claims["what it knows to be allocated is"] = z3.Or(
                known == m.known.z, *[known == number + 1 for number in m.tried]
            )
        return claims

    procedure(e, "space.Space.alloc: tries only what was found to be the tail", allocates,
              allocated)  # fmt: skip


# ------------------------------------------------------------------ the tail of a space


class Steps(SymInt):
    """A number that code doubles."""

    __slots__ = ()

    def __mul__(self, other: int) -> Steps:
        return Steps(self.z * other)


class Growing:
    """Allocated segments: a prefix that grows while it is looked at, and is never looked at twice.

    Attributes:
        tails: how many were allocated, moment by moment.
        asked: what the caller carried from turn to turn, when it asked again.
    """

    def __init__(self) -> None:
        self.tails: list[z3.ExprRef] = [th.fresh("tail", I)]
        self.asked: dict[str, z3.ExprRef] = {}

    @property
    def now(self) -> z3.ExprRef:
        """How many are allocated now."""
        return self.tails[-1]

    def later(self) -> None:
        """Others allocate."""
        self.tails.append(th.fresh("tail", I))
        current().facts.append(self.tails[-2] <= self.tails[-1])

    async def holds(self, number: Any) -> bool:
        """Whether a segment is allocated; asked once, then it would go on like that."""
        if len(self.tails) > 1:
            names = ("low", "high", "probe", "step")
            carried = sys._getframe(1).f_locals
            self.asked = {name: int_term(carried[name]) for name in names if name in carried}
            raise Again
        self.later()
        return bool(SymBool(int_term(number) < self.now))


def finding(e: Engine) -> None:
    """The tail of a space: each loop by induction over its turns, from any state."""
    space = e.core.modules["space.space"]
    title = "space.Space.tail: all below are allocated, itself was not, at a moment of the call"

    def climbs() -> Any:
        segments, step = Growing(), Steps(th.fresh("step", I))
        low, probe = SymInt(th.fresh("low", I)), SymInt(th.fresh("probe", I))
        current().facts += [low.z <= segments.now, low.z <= probe.z, step.z >= 1]
        return space._climb(low, probe, step, segments.holds), segments

    def climbed(done: Done) -> Claims:
        m = done.met
        if m.asked:
            low, probe, step = (m.asked[name] for name in ("low", "probe", "step"))
            return {"climbing goes on": z3.And(low <= m.now, low <= probe, step >= 1)}
        low, high = (int_term(x) for x in done.result)
        return {"between what is and what was not": z3.And(low <= m.now, m.now <= high)}

    procedure(e, title, climbs, climbed)

    def narrows() -> Any:
        segments, then = Growing(), th.fresh("then", I)
        low, high = SymInt(th.fresh("low", I)), SymInt(th.fresh("high", I))
        met = Thing(segments=segments, then=then)
        current().facts += [low.z <= segments.now, then <= segments.now, then <= high.z]
        current().facts.append(low.z <= high.z)
        return space._narrow(low, high, segments.holds), met

    def narrowed(done: Done) -> Claims:
        m, asked = done.met, done.met.segments.asked
        now = m.segments.now
        low = asked["low"] if asked else int_term(done.result)
        high = asked["high"] if asked else low
        return {
            "all below are": low <= now,
            "the upper end was not, at one of the moments": z3.Or(m.then <= high, now <= high),
            "and in order": low <= high,
        }

    procedure(e, title, narrows, narrowed)

    def finds() -> Any:
        segments, known = Growing(), SymInt(th.fresh("known", I))
        current().facts.append(known.z <= segments.now)
        number, met = SymInt(th.fresh("number", I)), Thing(segments=segments, known=known.z)
        met.number = number.z

        def reads(segment_name: Any, offset: Any, deadline: float) -> Any:
            segments.later()
            met.right = segment_name[0] == "s" and segment_name[1] is number and offset == METADATA
            if not bool(SymBool(number.z < segments.now)):
                return None
            fails(Trimmed("trimmed"))
            return b"metadata"

        async def climb(low: Any, probe: Any, step: Any, holds: Any) -> Any:
            met.climb = z3.And(low.z == known.z, probe.z == known.z, z3.BoolVal(step == 1))
            met.said = await holds(number)
            met.between = SymInt(th.fresh("low", I)), SymInt(th.fresh("high", I))
            return met.between

        async def narrow(low: Any, high: Any, holds: Any) -> Any:
            segments.later()
            met.narrow = (low, high) == met.between
            met.tail = SymInt(th.fresh("tail", I))
            current().facts.append(met.tail.z <= segments.now)
            return met.tail

        space.__dict__.update(_climb=climb, _narrow=narrow)
        registers = Thing(read_one=replying(reads))
        me = space.Space.__new__(space.Space)
        me.name, me._known_tail = "s", known
        me.client = Thing(deadline=lambda timeout: 1.0, registers=registers)
        met.me = me
        return space.Space.tail(me), met

    def found(done: Done) -> Claims:
        m = done.met
        asked = m.segments.tails[1]
        return {
            "begins where all below are known to be": m.climb,
            "and ends between the two": z3.BoolVal(m.narrow is True and done.result is m.tail),
            "asks for the metadata": z3.BoolVal(m.right),
            "allocated: it says so, trimmed ones included": z3.BoolVal(m.said)
            == (m.number < asked),
            "what it knows to be allocated is": int_term(m.me._known_tail) <= m.segments.now,
        }

    real = space._climb, space._narrow
    procedure(e, title, finds, found)
    space.__dict__.update(_climb=real[0], _narrow=real[1])


def deciding(e: Engine) -> None:
    """Registers are decided, one or many."""
    segment, settling = e.core.modules["space.segment"], e.core.modules["writer.settling"]
    segment.__dict__["as_bytes"] = lambda value, what: value  # a symbol has no type
    settling.__dict__.update(asyncio=clock(), left=lambda deadline: deadline)
    for module in (segment, settling):
        module.__dict__["Race"] = retrying

    def decides() -> Any:
        register, mine = Register(5, (CaptureLost("taken"), Trimmed("trimmed"))), _word("mine")
        its: list[bool] = []

        def capture(segment_name: Any, start: Any, stop: Any, deadline: Any) -> Any:
            its.append(segment_name == ("s", 7) and deadline == 1.0)
            return register.capture(start, stop)

        def write(segment_name: Any, token: Any, offset: Any, value: Any, deadline: Any) -> Any:
            its.append(segment_name == ("s", 7) and token is register.token and deadline == 1.0)
            return register.write(offset, value)

        me = Thing(space=Thing(name="s", client=paced()), number=7, _segment_name=("s", 7))
        me._check_one = lambda offset: its.append(offset == 5)
        me._deadline = lambda timeout: 1.0
        me._registers = Thing(capture=capture, write=write)
        met = Thing(register=register, mine=mine, its=its)
        return segment.Segment.settle(me, 5, mine), met

    def decided(done: Done) -> Claims:
        m = done.met
        claims = _ends(done, Unavailable, Trimmed)
        claims["writes only what it was given"] = z3.And(
            *[a == m.mine.z for a in m.register.attempts]
        )
        claims["and only where nothing is"] = z3.BoolVal(all(m.register.after_capture))
        claims["in that register, under its own capture"] = z3.BoolVal(all(m.its))
        if done.error is None:
            claims["what it returns stands"] = m.register.stands(done.result)
        return claims

    title = "space.Segment.settle: what it returns stands; it writes only where nothing is"
    procedure(e, title, decides, decided)

    def settles() -> Any:
        register, mine = Register(SymInt(th.fresh("at", I))), _word("mine")
        asked: list[z3.BoolRef] = []

        def otherwise(offset: Any) -> Any:
            asked.append(int_term(offset) == int_term(register.at))
            return mine

        client = Thing(rng=paced().rng, deadline=lambda timeout: 1.0)
        register.__dict__.update(space=Thing(name="s", client=client), number=7)
        met = Thing(register=register, mine=mine, asked=asked)
        return settling.settle_range(register, 2, 8, otherwise), met

    def settled(done: Done) -> Claims:
        register = done.met.register
        claims = _ends(done, Unavailable)
        claims["writes only what it was given"] = z3.And(
            *[a == done.met.mine.z for a in register.attempts]
        )
        claims["for that register"] = z3.And(*done.met.asked)
        claims["and only where nothing is"] = z3.BoolVal(all(register.after_capture))
        if done.error is None:
            asked = z3.And(int_term(register.at) >= 2, int_term(register.at) < 8)
            claims["every register of the range is decided"] = z3.Implies(asked, register.written)
        return claims

    title = "writer.settle_range: every register of it is decided; it writes only where nothing is"
    procedure(e, title, settles, settled)


def filling(e: Engine) -> None:
    """Holes, and whether an entry stands."""
    segmented_log = e.core.modules["log.segmented_log"]
    hole = word_term(segmented_log.HOLE)

    def fills() -> Any:
        pieces = [(3, 5, 8), (4, 0, 2)]
        filled: list[Any] = []
        me = Thing(segment=lambda number: ("segment", number))
        me.pieces = lambda start, stop: pieces if (start, stop) == (29, 34) else []

        def settle_range(segment: Any, start: Any, stop: Any, otherwise: Any) -> None:
            fails(Unavailable("no majority"))
            filled.append((segment[1], start, stop, otherwise(start)))

        segmented_log.__dict__["settle_range"] = replying(settle_range)
        return segmented_log.SegmentedLog.fill(me, 29, 34), Thing(pieces=pieces, filled=filled)

    def filled(done: Done) -> Claims:
        m, claims = done.met, _ends(done, Unavailable)
        junk = [(*piece, segmented_log.HOLE) for piece in m.pieces]
        claims["fills its pieces, with holes"] = z3.BoolVal(m.filled == junk[: len(m.filled)])
        if done.error is None:
            claims["all of them"] = z3.BoolVal(len(m.filled) == len(junk))
        return claims

    procedure(e, "log.SegmentedLog.fill: decides all of its pieces, by holes only", fills, filled)

    def settles() -> Any:
        register, mine = Register(0), _word("mine")
        current().facts.append(mine.z != hole)
        me = Thing(size=8, segment=lambda number: register)
        return segmented_log.SegmentedLog.settle(me, 0, mine), Thing(register=register, mine=mine)

    def settled(done: Done) -> Claims:
        register, mine = done.met.register, done.met.mine
        claims = _ends(done, Unavailable)
        claims["writes only holes"] = z3.And(*[a == hole for a in register.attempts])
        if done.error is None:
            claims["the slot is decided"] = register.written
            claims["true iff it holds mine"] = bool_term(done.result) == register.stands(mine)
        return claims

    procedure(
        e, "log.SegmentedLog.settle: true iff the slot holds one's own for ever", settles, settled
    )


def prove(e: Engine) -> None:
    """Allocating, settling, filling."""
    allocating(e)
    finding(e)
    deciding(e)
    filling(e)


def systems() -> list[System]:
    """Both."""
    return [segments(), log()]
