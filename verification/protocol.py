"""Layer 2, part 2: every action of the protocol keeps the invariant.

What acceptors do is derived from the shipped `on_capture`, `on_write` and `on_decided`: each of
their paths is shown to be one of the actions below (`links`), on a node whose promises, row and
marks are what the relations say; the very formula that a link concludes is the one that has to
keep the invariant.  What proposers may do is what layer 1 proves of `merge`, `undecided` and the
capture's state machine, and the rule that a ballot stands for one value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import z3

from verification import theory as th
from verification.acceptor import Capture, Write, value_term
from verification.goals import BOTH, CODE, MODEL, Goal
from verification.loops import Engine
from verification.ranges import Ranges, inside, says
from verification.state import (
    SAFE,
    TRIM,
    TRIMMED,
    VARIABLES,
    State,
    agreement,
    b,
    b1,
    becomes,
    decided_is_final,
    initial,
    invariant,
    n,
    r,
    sufficient,
    v,
)
from verification.symex import SymBallot, SymInt, ballot_term

N = z3.Const("N", th.Node)
Q = z3.Const("Q", th.Quorum)
REG = z3.Const("REG", th.Offset)
BAL, RB, MB = z3.Consts("BAL RB MB", th.Ballot)
VAL = z3.Const("VAL", th.Value)
LO, HI = z3.Consts("LO HI", th.Offset)

Formulas = list[z3.BoolRef]


@dataclass
class Action:
    """One way for the state to change: `guard`, and what it does to s, giving t.

    Attributes:
        changes: the relations that it may change at all.
        links: for an action of the code: what a path of a handler, and the node's state before and
            after it, say.  Each implies guard and effect.
        touches: the relations that the handler might change, by its links.
        completes: whether it proposes what was reported, for its proof.
        example: a simpler guard that implies the guard, for showing that the action is possible.
    """

    name: str
    about: str
    guard: Callable[[State], Formulas]
    effect: Callable[[State, State], Formulas]
    changes: set[str] = field(default_factory=set)
    links: list[Callable[[State, State], Formulas]] = field(default_factory=list)
    touches: set[str] = field(default_factory=set)
    example: Callable[[State], Formulas] | None = None
    completes: bool = False

    def step(self, s: State, t: State) -> Formulas:
        """The transition."""
        return [*self.guard(s), *self.effect(s, t)]

    def conclusion(self, s: State, t: State) -> Formulas:
        """What a link has to imply: the transition, and that nothing else is changed."""
        same = [
            z3.ForAll(VARIABLES[name], t.holds(name) == s.holds(name))
            for name in sorted(self.touches - self.changes)
        ]
        return [*self.step(s, t), *same]


Link = Callable[[State, State], Formulas]


def promised(relation: Any) -> z3.BoolRef:
    """`left`, as a node's promises say it: the register r has promised more than b."""
    more = z3.Exists([b1], z3.And(relation(r, b1), th.blt(b, b1)))
    return z3.Or(th.blt(b, th.UNSAFE), more)


def _promises(s: State, relation: Any) -> Formulas:
    """The acting node is alive, and these are its promises."""
    return [z3.Not(s.gone(N)), z3.ForAll([r, b], s.left(N, r, b) == promised(relation))]


def _only(s: State, t: State, name: str, here: z3.BoolRef, new: z3.BoolRef) -> z3.BoolRef:
    """The relation changes to `new` where `here`."""
    return z3.ForAll(VARIABLES[name], t.holds(name) == z3.If(here, new, s.holds(name)))


def _stutter(s: State, t: State) -> Formulas:
    return []


def captures(e: Engine) -> list[Action]:
    """N handles a capture."""
    call = Capture.any(e)
    lo, hi, ballot = call.lo.z, call.hi.z, call.ballot.z
    captured = inside(call.lo, call.hi, r)

    def guard(s: State) -> Formulas:
        below = z3.Implies(z3.And(captured, s.left(N, r, b)), th.blt(b, ballot))
        return [z3.Not(s.gone(N)), lo < hi, th.blt(th.UNSAFE, ballot), z3.ForAll([r, b], below)]

    def effect(s: State, t: State) -> Formulas:
        here = z3.And(n == N, captured)
        return [
            _only(s, t, "left", here, th.blt(b, ballot)),
            becomes(s, t, "granted", z3.And(here, b == ballot)),
        ]

    grant = Action("on_capture grants", CODE, guard, effect, {"left", "granted"})
    refuse = Action("on_capture refuses", CODE, lambda s: [], _stutter)
    grant.touches = refuse.touches = {"left", "granted"}
    for path in call.paths:
        out, _ = path.result
        granted = out is not call.promises  # how the server tells

        def link(
            s: State, t: State, path: Any = path, out: Any = out, granted: bool = granted
        ) -> Formulas:
            said = z3.And(n == N, captured, b == ballot) if granted else z3.BoolVal(False)
            return [
                *call.wellformed,
                *_promises(s, call.promises.says),
                *path.hypotheses,
                _only(s, t, "left", n == N, promised(says(out))),
                becomes(s, t, "granted", said),
            ]

        (grant if granted else refuse).links.append(link)
    return [grant, refuse]


def writes(e: Engine) -> list[Action]:
    """N handles a write that somebody proposed."""
    call = Write.any(e)
    at, ballot, value = call.offset.z, call.ballot.z, call.value.z
    here = z3.And(n == N, r == at)

    def guard(s: State) -> Formulas:
        return [
            z3.Not(s.gone(N)),
            s.prop(at, ballot, value),
            th.ble(th.UNSAFE, ballot),
            z3.ForAll([b], z3.Implies(s.left(N, at, b), th.blt(b, ballot))),
            z3.Exists([b, v], s.row(N, at, b, v)),
        ]

    def effect(s: State, t: State) -> Formulas:
        new = z3.And(b == ballot, v == value)
        return [
            _only(s, t, "left", here, th.blt(b, ballot)),
            _only(s, t, "row", here, new),
            becomes(s, t, "vote", z3.And(here, new)),
        ]

    accept = Action("on_write accepts", CODE, guard, effect, {"left", "row", "vote"})
    refuse = Action("on_write refuses", CODE, lambda s: [], _stutter)
    accept.touches = refuse.touches = {"left", "row", "vote"}
    for path in call.paths:
        out, row, verdict = path.result
        accepted = type(verdict) is bytes and verdict == e.core.acceptor.ACCEPTED

        def link(
            s: State,
            t: State,
            path: Any = path,
            out: Any = out,
            row: Any = row,
            accepted: bool = accepted,
        ) -> Formulas:
            now = z3.And(b == call.row.ballot.z, v == call.row.value.z)
            new = z3.And(b == ballot_term(row.ballot), v == value_term(row.value))
            voted = z3.And(here, b == ballot, v == value)
            return [
                th.ble(th.UNSAFE, ballot),
                s.prop(at, ballot, value),
                *_promises(s, call.promises.says),
                z3.ForAll([b, v], s.row(N, at, b, v) == now),
                *path.hypotheses,
                _only(s, t, "left", n == N, promised(says(out))),
                _only(s, t, "row", here, new),
                becomes(s, t, "vote", voted if accepted else z3.BoolVal(False)),
            ]

        (accept if accepted else refuse).links.append(link)
    return [accept, refuse]


def marks(e: Engine) -> list[Action]:
    """N handles Decided, which says so of registers that were decided at that ballot."""
    known = Ranges.any("marked")
    lo, hi = SymInt(LO), SymInt(HI)
    marked = inside(lo, hi, r)

    def guard(s: State) -> Formulas:
        true = z3.ForAll([r], z3.Implies(marked, z3.Exists([v], s.dec(r, BAL, v))))
        return [LO < HI, z3.Not(s.gone(N)), true]

    def effect(s: State, t: State) -> Formulas:
        here = z3.And(n == N, marked)
        return [_only(s, t, "mark", here, b == BAL)]

    action = Action("on_decided", CODE, guard, effect, {"mark"})
    action.touches = {"mark"}

    def example(s: State) -> Formulas:
        one = z3.ForAll([r], z3.Implies(marked, s.dec(r, BAL, VAL)))
        return [LO < HI, z3.Not(s.gone(N)), one]

    action.example = example
    for path in e.paths("acceptor.on_decided", known, lo, hi, SymBallot(BAL)):

        def link(s: State, t: State, path: Any = path) -> Formulas:
            return [
                *guard(s),
                z3.ForAll([r, b], s.mark(N, r, b) == known.says(r, b)),
                *path.hypotheses,
                _only(s, t, "mark", n == N, says(path.result)(r, b)),
            ]

        action.links.append(link)
    return [action]


def safe(s: State) -> Formulas:
    """What a captor knows of REG when its capture is promised (proved in `promoting`).

    MB is the highest ballot reported, NOTHING if there is none, and VAL its value.
    """
    between = z3.And(th.member(n, Q), th.blt(MB, b), th.blt(b, BAL))
    return [
        th.blt(th.UNSAFE, BAL),
        th.blt(MB, BAL),
        z3.ForAll([n, b], z3.Implies(z3.And(th.member(n, Q), th.blt(b, BAL)), s.left(n, REG, b))),
        z3.Or(MB == th.NOTHING, z3.Exists([n], s.vote(n, REG, MB, VAL))),
        z3.ForAll([n, b, v], z3.Implies(between, z3.Not(s.vote(n, REG, b, v)))),
    ]


def _unproposed(s: State) -> z3.BoolRef:
    return z3.ForAll([v], z3.Not(s.prop(REG, BAL, v)))


def _proposes(ballot: z3.ExprRef) -> Callable[[State, State], Formulas]:
    def effect(s: State, t: State) -> Formulas:
        new = z3.And(r == REG, b == ballot, v == VAL)
        return [becomes(s, t, "prop", new)]

    return effect


def proposers() -> list[Action]:
    """What clients do."""

    def reporting(s: State) -> Formulas:
        return [
            z3.Not(s.gone(N)),
            s.granted(N, REG, BAL),
            s.row(N, REG, RB, VAL),
            th.ble(RB, BAL),  # `on_report` refuses a row above the captor's ballot
            _unproposed(s),  # pages are read before anything is written under the ballot
        ]

    def reported(s: State, t: State) -> Formulas:
        new = z3.And(n == N, r == REG, b == BAL, b1 == RB, v == VAL)
        return [becomes(s, t, "report", new)]

    def unsafe(s: State) -> Formulas:
        others = z3.ForAll([v], z3.Implies(s.prop(REG, th.UNSAFE, v), v == VAL))
        return [others]  # the assumption: one issuer, one value

    def freed(s: State, t: State) -> Formulas:
        new = z3.And(r == REG, b == BAL)
        return [becomes(s, t, "free", new)]

    def decided(s: State, t: State) -> Formulas:
        new = z3.And(r == REG, b == BAL, v == VAL)
        return [becomes(s, t, "dec", new)]

    def forgets(s: State, t: State) -> Formulas:
        return [
            becomes(s, t, "gone", n == N),
            z3.ForAll([n, r, b], t.left(n, r, b) == z3.Or(n == N, s.left(n, r, b))),
            z3.ForAll([n, r, b, v], z3.Implies(n != N, t.row(n, r, b, v) == s.row(n, r, b, v))),
            z3.ForAll([n, r, b], z3.Implies(n != N, t.mark(n, r, b) == s.mark(n, r, b))),
            z3.ForAll([r, b], z3.Implies(t.mark(N, r, b), s.mark(N, r, b))),
        ]

    return [
        Action("a node reports its row to the captor, at the promise or in a later page", MODEL,
               reporting, reported, {"report"}),
        Action("a captor completes what it met", MODEL,
               lambda s: [*safe(s), MB != th.NOTHING, _unproposed(s)], _proposes(BAL),
               {"prop"}, completes=True),
        Action("a captor learns that a register is free, and hands the token over", MODEL,
               lambda s: [*safe(s), MB == th.NOTHING], freed, {"free"}),
        Action("the token's holder writes a free register", MODEL,
               lambda s: [th.blt(th.UNSAFE, BAL), s.free(REG, BAL), _unproposed(s)],
               _proposes(BAL), {"prop"}),
        Action("an unsafe write", MODEL, unsafe, _proposes(th.UNSAFE), {"prop"}),
        Action("a reader helps: the same ballot and value again", MODEL,
               lambda s: [s.vote(N, REG, BAL, VAL)], _proposes(BAL), {"prop"}),
        Action("a quorum has accepted", MODEL,
               lambda s: [z3.ForAll([n], z3.Implies(th.member(n, Q), s.vote(n, REG, BAL, VAL)))],
               decided, {"dec"}),
        Action("a node deletes a trimmed segment", MODEL,
               lambda s: [s.dec(TRIM, th.UNSAFE, TRIMMED)], forgets,
               {"gone", "left", "row", "mark"}),
        Action("a crash and restart, a message lost, late or twice", MODEL,
               lambda s: [], lambda s, t: []),
    ]  # fmt: skip


def all_actions(e: Engine) -> list[Action]:
    """Everything that can happen."""
    return [*captures(e), *writes(e), *marks(e), *proposers()]


def goals(e: Engine) -> list[Goal]:
    """All of layer 2's invariant."""
    s = State()
    inv = invariant(s)
    here = [*th.AXIOMS, *inv.values()]
    start = [*th.AXIOMS, *initial(s)]
    first = "the invariant holds at the start"
    out = [Goal(first, k, start, f, MODEL, second=True) for k, f in inv.items()]
    for theorem, claim in (
        ("agreement: no register has two decided values", agreement(s)),
        ("immutability: from a decision on, nothing else can be proposed", decided_is_final(s)),
    ):
        out.append(Goal(theorem, "from the invariant", here, claim, BOTH, second=True))
    for action in all_actions(e):
        out += _linked(action, s, here)
        t = s.after(action.changes)
        out += kept(action)
        possible = "every action is possible"
        simpler = action.example(s) if action.example else action.guard(s)
        out += [
            Goal(possible, f"{action.name}: example", [*here, *simpler], guard, second=True)
            for guard in (action.guard(s) if action.example else ())
        ]
        given = [*here, *simpler, *action.effect(s, t)]
        out.append(Goal(possible, action.name, given, z3.BoolVal(True), possible=True))
    return out


def kept(action: Action, without: int | None = None) -> list[Goal]:
    """That an action keeps the invariant; `without` one part of its guard, for mutation."""
    s = State()
    t = s.after(action.changes)
    inv = invariant(s)
    guard = [part for k, part in enumerate(action.guard(s)) if k != without]
    given = [*th.AXIOMS, *guard, *action.effect(s, t)]
    theorem = f"{action.name}: keeps the invariant"
    goals = []
    for name, formula in invariant(t).items():
        if formula.eq(inv[name]):  # it speaks of nothing that changed
            continue
        known = [*given, *sufficient(s, name)]
        if name == SAFE and "prop" in action.changes:
            goals += _by_cases(theorem, action, s, formula, known)
        else:
            goals.append(Goal(theorem, name, known, formula, action.about, second=True))
    return goals


def _by_cases(
    theorem: str, action: Action, s: State, formula: z3.QuantifierRef, known: Formulas
) -> list[Goal]:
    """The clause about a new proposal, for arbitrary constants: solvers get lost in it whole.

    Cases: the proposal is an old one; or it is the new one, and the ballot below it is below, at
    or above the highest that was reported.
    """
    sorts = [formula.var_sort(k) for k in range(formula.num_vars())]
    constants = [z3.Const(f"any_{formula.var_name(k)}", sort) for k, sort in enumerate(sorts)]
    body = z3.substitute_vars(formula.body(), *reversed(constants))
    premise, conclusion = body.children()
    at, low, high, _, value, _ = constants
    old = s.prop(at, high, value)
    cases = {"an old proposal": old}
    if action.completes:
        new = z3.And(z3.Not(old), s.prop(REG, MB, VAL))
        cases |= {
            "below the highest report": z3.And(new, th.blt(low, MB)),
            "at the highest report": z3.And(new, low == MB),
            "above the highest report": z3.And(new, th.blt(MB, low)),
        }
    else:
        cases["a new proposal"] = z3.Not(old)
    every = [*known, premise]
    goals = [
        Goal(theorem, f"{SAFE}: {case}", [*every, formula_], conclusion, action.about, second=True)
        for case, formula_ in cases.items()
    ]
    complete = z3.Or(*cases.values())
    name = f"{SAFE}: no other case"
    return [*goals, Goal(theorem, name, every, complete, action.about, second=True)]


def _linked(action: Action, s: State, here: Formulas) -> list[Goal]:
    t = s.after(action.touches)
    theorem = f"{action.name}: each such path of the handler is this action"
    return [
        Goal(theorem, f"path {i}, part {j}", [*here, *link(s, t)], part, second=True)
        for i, link in enumerate(action.links)
        for j, part in enumerate(action.conclusion(s, t))
    ]
