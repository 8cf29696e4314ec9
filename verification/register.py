"""Layer 2, part 3, and layer 3: reads, trims, and the refinement of the register's specification.

A register's value is *chosen* when a quorum has accepted it under one ballot.  Layer 3 says that
the protocol, looked at through one register, is the state machine of
`wormspace.registers.spec`: its `capture`, `write` and `read` are executed symbolically, and the
moments at which they take effect are given here.  The specification knows no ballots: it has an
order of its own, of fences, with NOBODY below all.  `fence_of` a ballot is the ballot itself, and
NOBODY of the ballot zero, which no capture has; it keeps the order.


* `write(cell, b, v)`: when v becomes chosen under b, by whoever's doing;
* `capture(cell, b)`: when a captor has completed what it met; what it found free is then safe from
  every lower ballot;
* `read(cell)`: any moment between call and return (below: at the call for "empty", at the return
  for a value).
"""

from __future__ import annotations

import ast
import types
from pathlib import Path
from typing import Any

import z3

from verification import theory as th
from verification.acceptor import value_term
from verification.goals import BOTH, CODE, MODEL, Goal
from verification.loops import Engine
from verification.protocol import MB, VAL, Action, N, Q, all_actions
from verification.source import PAXOS
from verification.state import State, agreement, b, b1, invariant, n, q, r, v, v1
from verification.symex import SymBallot, SymBool, SymValue, ballot_term, bool_term, explore

SPEC = PAXOS.parent / "registers" / "spec.py"
X = z3.Const("X", th.Offset)
"""An arbitrary register."""
BAL = z3.Const("BAL", th.Ballot)


def chosen_by(s: State, at: Any, ballot: Any, value: Any, quorum: Any) -> z3.BoolRef:
    """All of the quorum have accepted the value under the ballot."""
    return z3.ForAll([n], z3.Implies(th.member(n, quorum), s.vote(n, at, ballot, value)))


def chosen(s: State, at: Any, value: Any) -> z3.BoolRef:
    """The value is chosen for the register."""
    return z3.Exists([b, q], chosen_by(s, at, b, value, q))


def is_chosen(s: State, at: Any) -> z3.BoolRef:
    """Some value is chosen for the register."""
    return z3.Exists([b, q, v], chosen_by(s, at, b, v, q))


def trimmed(s: State) -> z3.BoolRef:
    """A quorum has tombstones: the trim has returned."""
    return z3.Exists([q], z3.ForAll([n], z3.Implies(th.member(n, q), s.gone(n))))


def _between(s: State, t: State) -> list[z3.BoolRef]:
    """t is later than s: votes, tombstones, decisions and free registers only accumulate."""
    out = []
    for name in ("vote", "gone", "dec", "free", "prop"):
        variables = {"vote": [n, r, b, v], "gone": [n], "free": [r, b]}.get(name, [r, b, v])
        out.append(z3.ForAll(variables, z3.Implies(s.holds(name), t.holds(name))))
    return out


# ------------------------------------------------------------------ reads


class Reports:
    """What every node of a quorum Q reported of X, each at a moment of its own between s and t."""

    def __init__(self, s: State, t: State) -> None:
        self.ballot = z3.Function("reported_ballot", th.Node, th.Ballot)
        self.value = z3.Function("reported_value", th.Node, th.Value)
        then = z3.Function("vote_then", th.Node, th.Ballot, th.Value, th.Bool)
        here, inside = th.member(n, Q), z3.And(th.member(n, Q), self.ballot(n) != th.NOTHING)
        self.facts = [
            *_between(s, t),
            z3.ForAll([n, b, v], z3.Implies(s.vote(n, X, b, v), then(n, b, v))),
            z3.ForAll([n, b, v], z3.Implies(then(n, b, v), t.vote(n, X, b, v))),
            # the row is the last vote, of a node that had no tombstone yet
            z3.ForAll([n], z3.Implies(inside, then(n, self.ballot(n), self.value(n)))),
            z3.ForAll([n, b, v], z3.Implies(z3.And(here, then(n, b, v)),
                                            th.ble(b, self.ballot(n)))),
            z3.ForAll([n], z3.Implies(here, z3.Not(s.gone(n)))),
        ]  # fmt: skip


def _reads() -> list[Goal]:
    s, t = State("_call"), State("_return")
    here = [*th.AXIOMS, *invariant(s).values(), *invariant(t).values()]
    reports = Reports(s, t)
    given = [*here, *reports.facts]

    def every(f: z3.BoolRef) -> z3.BoolRef:
        return z3.ForAll([n], z3.Implies(th.member(n, Q), f))

    nothing = every(reports.ballot(n) == th.NOTHING)
    same = every(z3.And(reports.ballot(n) == MB, reports.value(n) == VAL))

    def goal(theorem: str, name: str, hypotheses: Any, claim: z3.BoolRef) -> Goal:
        return Goal(theorem, name, hypotheses, claim, MODEL, second=True)

    empty = 'reads are linearizable: "empty" was true at the call'
    mark = [
        *here,
        *_between(s, t),
        t.mark(N, X, MB),
        th.ble(MB, BAL),  # what `is_decided` says of the row, by layer 1
        t.vote(N, X, BAL, VAL),
    ]
    rows = [*here, t.vote(N, X, BAL, VAL), t.vote(z3.Const("M", th.Node), X, BAL, v1)]
    return [
        goal(empty, "no value was chosen", [*given, nothing], z3.Not(is_chosen(s, X))),
        goal(empty, "the segment was not trimmed", [*given, nothing], z3.Not(trimmed(s))),
        goal(
            "reads are linearizable: a value is chosen at the return",
            "one row from a quorum",
            [*given, MB != th.NOTHING, same],
            chosen(t, X, VAL),
        ),
        goal(
            "reads are linearizable: a value is chosen at the return",
            "a row that one server knows to be decided",
            mark,
            chosen(t, X, VAL),
        ),
        goal(
            "a chosen value is chosen for ever, and no other ever is",
            "from any moment to any later one",
            [*here, *_between(s, t), chosen(s, X, v), chosen(t, X, v1)],
            z3.And(v == v1, chosen(t, X, v)),
        ),
        goal(
            "validity: what is chosen was proposed by a client",
            "from the invariant",
            [*here, chosen(s, X, v)],
            z3.Exists([b], s.prop(X, b, v)),
        ),
        goal(
            'after a trim: GONE or the true value, never "empty", never another',
            "no quorum answers without a tombstone",
            [*given, trimmed(s)],
            z3.BoolVal(False),
        ),
        goal(
            'after a trim: GONE or the true value, never "empty", never another',
            "what one server still knows to be decided is the value",
            [one_value(t), chosen(t, X, v), chosen(t, X, VAL)],  # by the theorem on reads
            v == VAL,
        ),
        goal(
            "reports never clash",
            "two rows under one ballot",
            rows,
            v1 == VAL,
        ),
        Goal(
            "reads are possible",
            "a value is chosen, and a quorum reports it",
            [*th.AXIOMS, *invariant(s).values(), MB != th.NOTHING, chosen_by(s, X, MB, VAL, Q)],
            z3.BoolVal(True),
            MODEL,
            possible=True,
        ),
    ]


# ------------------------------------------------------------------ the specification


def load_spec(e: Engine, path: Path = SPEC, text: str | None = None) -> Any:
    """The pure part of the specification: `Cell` and the functions on it, as they ship."""

    def names(node: ast.Assign) -> set[str]:
        return {one.id for one in ast.walk(node.targets[0]) if isinstance(one, ast.Name)}

    tree = ast.parse(path.read_text() if text is None else text)
    wanted = {"Cell", "capture", "write", "read"}
    body: list[ast.stmt] = [
        node
        for node in tree.body
        if (isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in wanted)
        or (isinstance(node, ast.Assign) and names(node) & {"NOBODY", "WRITTEN"})
        or (isinstance(node, ast.ImportFrom) and node.module == "__future__")
    ]
    module = types.ModuleType("_proved_spec")
    import msgspec

    module.__dict__.update(msgspec=msgspec)
    exec(compile(ast.Module(body, []), str(path), "exec"), module.__dict__)
    return module


def is_cell(s: State, cell: Any) -> z3.BoolRef:
    """The cell is what the protocol's state means for X."""
    holder, written = ballot_term(cell.holder), bool_term(cell.written)
    return z3.And(
        written == is_chosen(s, X),
        z3.Implies(written, chosen(s, X, value_term(cell.value))),
        z3.Implies(z3.Not(written), z3.Or(holder == th.NOTHING, s.free(X, holder))),
        is_fence(holder),
    )


def is_fence(fence: z3.ExprRef) -> z3.BoolRef:
    """NOBODY, or that of a capture."""
    return z3.Or(fence == th.NOTHING, th.blt(th.UNSAFE, fence))


def by_fence(spec: Any) -> list[tuple[Any, z3.BoolRef]]:
    """What the specification may know the ballot BAL as, and when: `fence_of`, case by case."""
    return [(SymBallot(BAL), th.blt(th.UNSAFE, BAL)), (spec.NOBODY, BAL == th.UNSAFE)]


def fence_of(ballot: z3.ExprRef) -> z3.ExprRef:
    """What the specification knows a ballot as."""
    return z3.If(ballot == th.UNSAFE, th.NOTHING, ballot)


def _cell(spec: Any) -> Any:
    return spec.Cell(
        SymBallot(z3.Const("HOLDER", th.Ballot)),
        SymBool(z3.Const("WRITTEN", th.Bool)),
        SymValue(z3.Const("HELD", th.Value)),
    )


def _refines(e: Engine, text: str | None) -> list[Goal]:
    spec = load_spec(e, text=text)
    cell = _cell(spec)
    goals: list[Goal] = []

    def goal(theorem: str, name: str, hypotheses: Any, claim: z3.BoolRef) -> None:
        goals.append(Goal(theorem, name, hypotheses, claim, CODE, second=True))

    s = State()
    inv = list(invariant(s).values())
    fresh = spec.Cell()
    start = "refinement: a new register is an empty cell"
    unvoted = z3.ForAll([n, r, b, v], z3.Not(s.vote(n, r, b, v)))
    blank = spec.Cell(fresh.holder, fresh.written, SymValue(z3.Const("HELD", th.Value)))
    goal(start, "at the start", [*th.AXIOMS, unvoted, chosen_is_not_vacuous()], is_cell(s, blank))
    for action in all_actions(e):
        t = s.after(action.changes)
        if "vote" not in action.changes:
            if not is_chosen(t, X).eq(is_chosen(s, X)):
                raise AssertionError(action.name)
            if t.free is not s.free:
                kept = [*th.AXIOMS, *inv, is_cell(s, cell), *action.step(s, t)]
                goal("refinement: every other step leaves the cell as it is", action.name, kept,
                     is_cell(t, cell))  # fmt: skip
            continue
        _writing(goal, spec, cell, action, s, t)
    two = [*th.BALLOTS, th.ble(th.UNSAFE, BAL), th.ble(th.UNSAFE, MB)]
    mine, other = fence_of(BAL), fence_of(MB)
    order = "refinement: fences are in the order of ballots, and NOBODY is below them"
    goal(order, "of any two", two, th.ble(BAL, MB) == th.ble(mine, other))
    goal(order, "two ballots are two fences", two, (BAL == MB) == (mine == other))
    goal(order, "NOBODY", two, z3.And(is_fence(mine), th.ble(ballot_term(spec.NOBODY), mine)))
    took = z3.Or(s.free(X, BAL), is_chosen(s, X))
    given = [*th.AXIOMS, *inv, is_cell(s, cell), took, th.ble(th.UNSAFE, BAL)]
    theorem = "refinement: a completed capture is spec.capture"
    for fence, case in by_fence(spec):
        for path in explore(spec.capture, cell, fence):
            new, _ = path.result
            goal(theorem, "the cell after it", [*given, case, *path.hypotheses], is_cell(s, new))
    for path in explore(spec.capture, cell, SymBallot(fence_of(BAL))):
        new, _ = path.result
        kept = z3.And(
            bool_term(new.written) == cell.written.z, value_term(new.value) == cell.value.z
        )
        goal(theorem, "nothing is written by it", path.hypotheses, kept)
    for path in explore(spec.read, cell):
        written, value = path.result
        claim = z3.And(
            bool_term(written) == is_chosen(s, X),
            z3.Implies(bool_term(written), chosen(s, X, value_term(value))),
        )
        goal("refinement: a read is spec.read", "of the same moment",
             [*th.AXIOMS, is_cell(s, cell), *path.hypotheses], claim)  # fmt: skip
    return goals


def one_value(s: State) -> z3.BoolRef:
    """Agreement, of what is chosen: a theorem, used as a lemma."""
    return z3.ForAll([v, v1], z3.Implies(z3.And(chosen(s, X, v), chosen(s, X, v1)), v == v1))


def chosen_is_not_vacuous() -> z3.BoolRef:
    """Quorums are not empty (from the axiom that any two share a node)."""
    return z3.ForAll([q], z3.Exists([n], th.member(n, q)))


def _writing(goal: Any, spec: Any, cell: Any, action: Action, s: State, t: State) -> None:
    """The only action that can make a value chosen."""
    inv = [*invariant(s).values(), *invariant(t).values()]
    step = [*th.AXIOMS, *inv, *action.step(s, t), is_cell(s, cell)]
    by = chosen_by(t, X, BAL, VAL, Q)
    first = [*step, z3.Not(is_chosen(s, X)), by]
    grown = [z3.ForAll([n, r, b, v], z3.Implies(s.vote(n, r, b, v), t.vote(n, r, b, v)))]
    goal("votes only accumulate", action.name, action.step(s, t), grown[0])
    theorem = "refinement: a value that becomes chosen is spec.write, and WRITTEN"
    theorem2 = "refinement: a value chosen again is the same, and changes nothing"
    held = z3.And(cell.written.z, cell.value.z == VAL)
    before = [*th.BALLOTS, is_cell(s, cell), is_chosen(s, X)]
    goal(theorem2, "the cell holds a chosen value", before, chosen(s, X, cell.value.z))
    kept = [*grown, chosen(s, X, cell.value.z)]
    goal(theorem2, "which stays chosen", kept, chosen(t, X, cell.value.z))
    goal(theorem2, "what a quorum accepted is chosen", [by], chosen(t, X, VAL))
    both = [one_value(t), chosen(t, X, cell.value.z), chosen(t, X, VAL)]
    goal(theorem2, "so it is the same", both, cell.value.z == VAL)
    goal(theorem, "a capture's ballot, or zero", first, th.ble(th.UNSAFE, BAL))
    for fence, case in by_fence(spec):
        for path in explore(spec.write, cell, fence, SymValue(VAL)):
            new, outcome = path.result
            now = [*first, case, *path.hypotheses]
            said = z3.BoolVal(outcome == spec.WRITTEN)
            goal(theorem, "the outcome", now, said)
            goal(theorem, "the cell after it", now, is_cell(t, new))
            late = z3.And(
                z3.BoolVal(outcome == spec.LOST), th.blt(ballot_term(fence), cell.holder.z)
            )
            again = [*th.BALLOTS, held, case, *path.hypotheses]
            goal(theorem2, "the outcome", again, z3.Or(said, late))
            same = z3.And(bool_term(new.written), value_term(new.value) == VAL)
            same = z3.And(same, ballot_term(new.holder) == cell.holder.z)
            goal(theorem2, "the cell after it", again, same)
    goal(
        "refinement: every other step leaves the cell as it is",
        f"{action.name}, and nothing becomes chosen",
        [*grown, is_cell(s, cell), is_chosen(s, X) == is_chosen(t, X)],
        is_cell(t, cell),
    )


def goals(e: Engine, spec_text: str | None = None) -> list[Goal]:
    """Reads, trims and the refinement."""
    s = State()
    here = [*th.AXIOMS, *invariant(s).values()]
    out = _reads()
    out.append(Goal("agreement: no register has two decided values", "of what is chosen",
                    here, one_value(s), BOTH, second=True))  # fmt: skip
    return [*out, *_refines(e, spec_text)]


__all__ = ["SPEC", "agreement", "b1", "goals", "load_spec"]
