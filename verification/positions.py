"""Layer 4: a log's positions, as against its slots.  The model; the code is in `numbering`.

A slot is a register: what it holds is decided once.  What it holds is a batch, which says which
positions it has, or a hole.  That no position is ever in two batches is a matter of
all who ever handed out slots: this is the history of all of them, in any number, in any order.

Of a slot's token nothing is assumed.  What was handed out for a slot may be decided there at any
time, however late, by whoever completes what an appender left half written; so a holder may only
go on where nothing like that can come any more.  A seal's token is what makes two holders of one
segment impossible, so captures of seals are told apart by who was last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import z3

from verification.system import (
    I,
    K,
    Lemma,
    Rel,
    Step,
    System,
    W,
    Who,
    gains,
    i,
    j,
    one_value,
    w,
    w1,
    write_once,
)

BatchRecord = z3.DeclareSort("BatchRecord")
HOLE, P = z3.Consts("HOLE P", BatchRecord)
p, q = z3.Consts("p q", BatchRecord)
first, end = z3.Function("first", BatchRecord, I), z3.Function("end", BatchRecord, I)
base, seg = z3.Function("base", I, I), z3.Function("seg", I, I)
S, F, E, T, G, J = z3.Ints("S F E T G J")
s0, s1, f0, f1, e0, e1 = z3.Ints("s0 s1 f0 f1 e0 e1")
X = z3.Int("X")

SLOTS = [
    z3.ForAll([i], z3.Implies(i >= 0, z3.And(seg(i) >= 0, base(i) >= 0))),
    z3.ForAll(
        [i, j],
        z3.Implies(z3.And(i >= 0, j >= 0), (base(j) <= i) == (j <= seg(i))),
        patterns=[z3.MultiPattern(base(j), seg(i))],
    ),
    z3.ForAll(
        [i, j],
        z3.Implies(z3.And(i >= 0, i <= j), seg(i) <= seg(j)),
        patterns=[z3.MultiPattern(seg(i), seg(j))],
    ),
    base(0) == 0,
]
"""Slots are counted through the segments: slot i is in segment seg(i), which begins at base(..)."""

PACKS = [z3.ForAll([p], z3.Implies(p != HOLE, first(p) < end(p)))]

HANDS_OUT, TAKES_OVER = "a holder hands out its next slot", "a holder begins above a floor"
ENTERS, CAPTURES = "a holder enters the next segment", "somebody captures a seal"
FIRST_EVER = "who allocated segment 0 holds it"
ABOVE_LAST, AT_PACK, ABOVE_FLOOR = (
    "a floor: above the last batch, all between being holes",
    "a floor: at a batch, no higher than it begins",
    "a floor: above another, all between being holes",
)
TELLS, TELLS_HOLE = "a reader tells an entry", "a reader tells a hole"


OWN = "a segment's slots are handed out by who entered it"
ONE_HOLDER, ONE_TENURE = "one holder of a segment", "a term begins once"
SINCE, BEGAN = "who entered a segment entered all since it began", "who entered began"
ON_A_FLOOR, FROM = (
    "a term begins above a floor",
    "nothing is handed out from below where it began",
)
UPWARDS, HANDED = "a holder counts upwards", "a batch is one that was handed out"
PASSED = "what is open below a floor has been passed"
BELOW = "nothing below a floor is at its position or above"
SEEN = "what was told to be a hole was seen to be one"
LOWER = "a lower slot is one's own, or below where one began"
ASCENDING = "of two batches, the higher has the higher positions"
THE_SAME = "what is in a slot is what it was handed out for"


def decided(s: Rel, slot: z3.ExprRef, batch: z3.ExprRef) -> z3.BoolRef:
    """The slot holds this batch, which is no hole."""
    return z3.And(s["at"](slot, batch), batch != HOLE)


def possible(s: Rel, slot: z3.ExprRef, f: z3.ExprRef, e: z3.ExprRef) -> z3.BoolRef:
    """A batch of positions [f, e), handed out by w, is in the slot, or may still come there."""
    return z3.And(s["handed"](w, slot, f, e), z3.Not(s["at"](slot, HOLE)))


def holes(s: Rel, low: z3.ExprRef, high: z3.ExprRef) -> z3.BoolRef:
    """All slots in [low, high) are holes."""
    return z3.ForAll([i], z3.Implies(z3.And(low <= i, i < high), s["at"](i, HOLE)))


def passed(s: Rel, slot: z3.ExprRef) -> z3.BoolRef:
    """Who alone might hand this slot out has handed out this one or a later one."""
    there = z3.And(s["entered"](w, seg(slot)), slot <= s1, s["handed"](w, s1, f1, e1))
    return z3.Exists([w, s1, f1, e1], there)


def is_hole(s: Rel, x: z3.ExprRef, f: z3.ExprRef, slot: z3.ExprRef, batch: Any) -> z3.BoolRef:
    """Below this slot nothing is at position x, and its batch begins above."""
    return z3.And(s["floor"](slot, f), f <= x, decided(s, slot, batch), x < first(batch))


def _always(s: Rel) -> dict[str, z3.BoolRef]:
    at, handed, entered, began, floor = (
        s[name] for name in ("at", "handed", "entered", "began", "floor")
    )
    return {
        "one value": one_value(at),
        HANDED: z3.ForAll(
            [s0, p],
            z3.Implies(
                decided(s, s0, p),
                z3.And(s0 >= 0, z3.Exists([w], handed(w, s0, first(p), end(p)))),
            ),
        ),
        OWN: z3.ForAll(
            [w, s0, f0, e0],
            z3.Implies(handed(w, s0, f0, e0), z3.And(s0 >= 0, f0 < e0, entered(w, seg(s0)))),
        ),
        "one captured a seal last": z3.ForAll(
            [i, w, w1], z3.Implies(z3.And(s["taken"](i, w), s["taken"](i, w1)), w == w1)
        ),
        "a segment has one allocator": one_value(s["alloc"]),
        "who found a seal empty and lost it is not the next": z3.ForAll(
            [i, w, w1],
            z3.Implies(
                z3.And(i >= 1, entered(w, i), s["taken"](i - 1, w1), s["empty"](i - 1, w1)),
                w == w1,
            ),
        ),
        "a segment was entered through its seal": z3.ForAll(
            [w, i],
            z3.Implies(
                entered(w, i),
                z3.And(i >= 0, z3.If(i == 0, s["alloc"](0, w), s["sealed"](i - 1))),
            ),
        ),
        ONE_HOLDER: z3.ForAll(
            [w, w1, i], z3.Implies(z3.And(entered(w, i), entered(w1, i)), w == w1)
        ),
        ONE_TENURE: z3.ForAll(
            [w, i, j, f0, f1],
            z3.Implies(z3.And(began(w, i, f0), began(w, j, f1)), z3.And(i == j, f0 == f1)),
        ),
        ON_A_FLOOR: z3.ForAll(
            [w, j, f0],
            z3.Implies(began(w, j, f0), z3.And(j >= 0, z3.Or(j == 0, floor(base(j), f0)))),
        ),
        SINCE: z3.ForAll(
            [w, i, j, f0, s0],
            z3.Implies(
                z3.And(entered(w, i), began(w, j, f0)),
                z3.And(
                    j <= i,
                    z3.Implies(z3.And(s0 >= 0, j <= seg(s0), seg(s0) <= i), entered(w, seg(s0))),
                ),
            ),
            patterns=[z3.MultiPattern(entered(w, i), began(w, j, f0), seg(s0))],
        ),
        BEGAN: z3.ForAll([w, i], z3.Implies(entered(w, i), z3.Exists([j, f0], began(w, j, f0)))),
        FROM: z3.ForAll(
            [w, s0, f0, e0, j, f1],
            z3.Implies(z3.And(handed(w, s0, f0, e0), began(w, j, f1)), f1 <= f0),
        ),
        UPWARDS: z3.ForAll(
            [w, s0, f0, e0, s1, f1, e1],
            z3.Implies(
                z3.And(handed(w, s0, f0, e0), handed(w, s1, f1, e1)),
                z3.And(
                    z3.Implies(s0 < s1, e0 <= f1),
                    z3.Implies(s0 == s1, z3.And(f0 == f1, e0 == e1)),
                ),
            ),
        ),
        "without gaps": z3.ForAll(
            [w, s0, f0, e0],
            z3.Implies(
                handed(w, s0, f0, e0),
                z3.Or(
                    z3.Exists([j], began(w, j, f0)),
                    z3.Exists([s1, f1], z3.And(s1 < s0, handed(w, s1, f1, f0))),
                ),
            ),
        ),
        PASSED: z3.ForAll(
            [i, f0, s0],
            z3.Implies(z3.And(floor(i, f0), s0 >= 0, s0 < i, z3.Not(at(s0, HOLE))), passed(s, s0)),
        ),
        BELOW: z3.ForAll(
            [i, f0, w, s0, f1, e1],
            z3.Implies(z3.And(floor(i, f0), s0 < i, possible(s, s0, f1, e1)), e1 <= f0),
        ),
        "what was told is there": z3.ForAll(
            [i, p],
            z3.Implies(
                s["told"](i, p),
                z3.Exists([s0], z3.And(decided(s, s0, p), first(p) <= i, i < end(p))),
            ),
        ),
        SEEN: z3.ForAll(
            [i, f0, s0, p], z3.Implies(s["hole"](i, f0, s0, p), is_hole(s, i, f0, s0, p))
        ),
    }


def ascending(s: Rel) -> z3.BoolRef:
    """Of two batches, the one in the higher slot has the higher positions."""
    one, other = possible(s, s0, f0, e0), z3.substitute(possible(s, s1, f1, e1), (w, w1))
    return z3.ForAll(
        [w, w1, s0, s1, f0, e0, f1, e1], z3.Implies(z3.And(s0 < s1, one, other), e0 <= f1)
    )


def _lemmas(s: Rel) -> dict[str, Lemma]:
    handed, began = s["handed"], s["began"]
    two = z3.And(handed(w, s0, f0, e0), handed(w1, s1, f1, e1), s0 < s1)
    x = z3.Int("x")
    return {
        LOWER: (
            z3.ForAll(
                [w, w1, s0, s1, f0, e0, f1, e1, j, i],
                z3.Implies(z3.And(two, began(w1, j, i)), z3.Or(w == w1, s0 < base(j))),
            ),
            [OWN, ONE_HOLDER, SINCE],
        ),
        ASCENDING: (ascending(s), [LOWER, OWN, BEGAN, ON_A_FLOOR, FROM, UPWARDS, BELOW]),
        "what is open below a slot that was handed out has been passed": (
            z3.ForAll(
                [w1, s0, i, f0, e0],
                z3.Implies(
                    z3.And(handed(w1, i, f0, e0), s0 >= 0, s0 < i, z3.Not(s["at"](s0, HOLE))),
                    passed(s, s0),
                ),
            ),
            [OWN, SINCE, BEGAN, ON_A_FLOOR, PASSED],
        ),
        THE_SAME: (
            z3.ForAll(
                [w, s0, f0, e0, p],
                z3.Implies(
                    z3.And(handed(w, s0, f0, e0), decided(s, s0, p)),
                    z3.And(first(p) == f0, end(p) == e0),
                ),
            ),
            [HANDED, OWN, ONE_HOLDER, UPWARDS],
        ),
        "what was told to be a hole can never be anything else": (
            z3.ForAll(
                [x, f1, s1, p, w, s0, f0, e0],
                z3.Implies(
                    z3.And(s["hole"](x, f1, s1, p), possible(s, s0, f0, e0)),
                    z3.Not(z3.And(f0 <= x, x < e0)),
                ),
            ),
            ["one value", SEEN, BELOW, ASCENDING, HANDED, THE_SAME],
        ),
    }


def _captures(s: Rel, t: Rel) -> Sequence[z3.BoolRef]:
    return [
        z3.ForAll([i, w], t["taken"](i, w) == z3.If(i == K, w == W, s["taken"](i, w))),
        z3.ForAll(
            [i, w],
            t["empty"](i, w)
            == z3.If(z3.And(i == K, w == W), z3.Not(s["sealed"](K)), s["empty"](i, w)),
        ),
    ]


def _enters(s: Rel, t: Rel) -> Sequence[z3.BoolRef]:
    return [
        K >= 0,
        s["taken"](K, W),
        s["empty"](K, W),
        s["sealed"](K),
        z3.Or(s["entered"](W, K), z3.Exists([f0], s["began"](W, K + 1, f0))),
        gains(s, t, "entered", W, K + 1),
    ]


def _first_ever(s: Rel, t: Rel) -> Sequence[z3.BoolRef]:
    return [
        s["alloc"](0, W),
        z3.ForAll([j, f0], z3.Not(s["began"](W, j, f0))),
        gains(s, t, "began", W, z3.IntVal(0), F),
        gains(s, t, "entered", W, z3.IntVal(0)),
    ]


def _takes_over(s: Rel, t: Rel) -> Sequence[z3.BoolRef]:
    return [
        z3.ForAll([j, f0], z3.Not(s["began"](W, j, f0))),
        K >= 1,
        s["floor"](base(K), F),
        gains(s, t, "began", W, K, F),
    ]


def _hands_out(s: Rel, t: Rel) -> Sequence[z3.BoolRef]:
    return [
        S >= 0,
        F < E,
        s["entered"](W, seg(S)),
        s["began"](W, J, G),
        z3.ForAll([s0, f0, e0], z3.Implies(s["handed"](W, s0, f0, e0), z3.And(s0 < S, e0 <= F))),
        z3.Or(F == G, z3.Exists([s0, f0], s["handed"](W, s0, f0, F))),
        gains(s, t, "handed", W, S, F, E),
    ]


A = z3.Const("A", Who)
P0, P2 = z3.Consts("P0 P2", BatchRecord)
UNUSED: dict[str, list[tuple[Any, ...]]] = {"alloc": [(0, A)], "floor": [(0, 0)]}
IN_USE: dict[str, list[tuple[Any, ...]]] = {
    "at": [(0, P0), (1, HOLE), (2, P2), *[(k, HOLE) for k in range(3, 8)]],
    "handed": [(A, 0, 0, 2), (A, 1, 2, 3), (A, 2, 3, 4), (A, 8, 4, 5)],
    "alloc": [(0, A)],
    "taken": [(0, A), (1, A)],
    "empty": [(0, A), (1, A)],
    "sealed": [(0,), (1,)],
    "entered": [(A, 0), (A, 1)],
    "began": [(A, 0, 0)],
    "floor": [(0, 0), (2, 2), (8, 4)],
}
"""Two logs in segments of eight slots: one that was just made, and one in use."""


class Positions(System):
    """The model, with examples in which its actions are seen to be possible."""

    def shown(self, action: str, given: list[z3.BoolRef]) -> list[z3.BoolRef]:
        """With one of the examples in place of the state."""
        rows = UNUSED if action == FIRST_EVER else IN_USE
        slot = z3.Var(0, I)
        example = [(base, 8 * slot), (seg, slot / 8)]
        for name, relation in self.state("").items():
            xs = [z3.Var(k, relation.domain(k)) for k in range(relation.arity())]
            those = [
                z3.And(*[x == value for x, value in zip(xs, row, strict=True)])
                for row in rows.get(name, [])
            ]
            example.append((relation, z3.Or(*those)))
        batches = [
            P0 != HOLE,
            P2 != HOLE,
            first(P0) == 0,
            end(P0) == 2,
            first(P2) == 3,
            end(P2) == 4,
        ]
        return [*batches, *[z3.substitute_funs(part, *example) for part in given]]


def positions() -> System:
    """`handed(w, s, f, e)`: holder w gave slot s for positions [f, e); a term is one holder.

    `floor(b, f)`: below slot b there is nothing at f or above, for ever: where a successor may
    begin, or the log after a trim.  `taken(k, w)`: w captured the seal of k last; `empty(k, w)`:
    w found it empty when it captured it last.  `told` and `hole` are what readers say.
    """

    def floor(*guard: Callable[[Rel], z3.BoolRef]) -> tuple[set[str], Step]:
        return {"floor"}, lambda s, t: [*[g(s) for g in guard], gains(s, t, "floor", S, F)]

    return Positions(
        "positions",
        {
            "at": [I, BatchRecord],
            "handed": [Who, I, I, I],
            "alloc": [I, Who],
            "taken": [I, Who],
            "empty": [I, Who],
            "sealed": [I],
            "entered": [Who, I],
            "began": [Who, I, I],
            "floor": [I, I],
            "told": [I, BatchRecord],
            "hole": [I, I, I, BatchRecord],
        },
        _start,
        _always,
        {
            "a segment is allocated": (
                {"alloc"},
                lambda s, t: [write_once(s["alloc"], t["alloc"], K, W)],
            ),
            CAPTURES: ({"taken", "empty"}, _captures),
            "a seal is written, by anybody": ({"sealed"}, lambda s, t: [gains(s, t, "sealed", K)]),
            ENTERS: ({"entered"}, _enters),
            FIRST_EVER: ({"began", "entered"}, _first_ever),
            TAKES_OVER: ({"began"}, _takes_over),
            HANDS_OUT: ({"handed"}, _hands_out),
            "what was handed out is decided, however late": (
                {"at"},
                lambda s, t: [
                    z3.Exists([w], s["handed"](w, S, first(P), end(P))),
                    write_once(s["at"], t["at"], S, P),
                ],
            ),
            "anybody fills a slot": (
                {"at"},
                lambda s, t: [write_once(s["at"], t["at"], S, HOLE)],
            ),
            ABOVE_LAST: floor(
                lambda s: z3.And(decided(s, T, P), T < S, end(P) <= F),
                lambda s: holes(s, T + 1, S),
            ),
            AT_PACK: floor(lambda s: z3.And(decided(s, S, P), first(P) <= F)),
            ABOVE_FLOOR: floor(
                lambda s: z3.And(s["floor"](T, G), T >= 0, G <= F),
                lambda s: holes(s, T, S),
            ),
            TELLS: (
                {"told"},
                lambda s, t: [
                    decided(s, S, P),
                    first(P) <= X,
                    end(P) > X,
                    gains(s, t, "told", X, P),
                ],
            ),
            TELLS_HOLE: (
                {"hole"},
                lambda s, t: [is_hole(s, X, G, S, P), gains(s, t, "hole", X, G, S, P)],
            ),
        },
        _theorems,
        facts=[*SLOTS, *PACKS],
        code=frozenset({HANDS_OUT, ENTERS, ABOVE_LAST, AT_PACK, ABOVE_FLOOR, TELLS, TELLS_HOLE}),
        lemmas=_lemmas,
    )


def _start(s: Rel) -> z3.BoolRef:
    parts = []
    for name, relation in s.items():
        xs = [z3.Const(f"x{k}", relation.domain(k)) for k in range(relation.arity())]
        there = z3.BoolVal(False) if name != "floor" else z3.And(xs[0] == 0, xs[1] == 0)
        parts.append(z3.ForAll(xs, relation(*xs) == there))
    return z3.And(*parts)


def _theorems(s: Rel) -> dict[str, z3.BoolRef]:
    both = z3.And(decided(s, s0, p), decided(s, s1, q), first(p) <= i, i < end(p),
                  first(q) <= i, i < end(q))  # fmt: skip
    return {
        "of two batches, the higher has the higher positions, now and for ever": ascending(s),
        "no position is in two batches": z3.ForAll(
            [s0, s1, p, q, i], z3.Implies(both, z3.And(s0 == s1, p == q))
        ),
        "readers agree on every position": z3.ForAll(
            [i, p, q, f0, s0],
            z3.And(
                z3.Implies(z3.And(s["told"](i, p), s["told"](i, q)), p == q),
                z3.Implies(s["told"](i, p), z3.Not(s["hole"](i, f0, s0, q))),
            ),
        ),
    }
