"""Layer 4: systems above registers, from the register's specification alone.

No message, ballot or server occurs here.  The world is `at(x, v)`: the register x holds v.  That
it changes only by `spec.write` on an empty register is proved of the shipped specification first
(`contract`).  A system is as small as its argument: the state, its invariant, and every action that
anybody may take in any order.  The number of segments, participants, positions, replicas and
commands is not bounded.

What takes which action is the packages' own code: `commit`, `segmented_log` and `replicas` execute
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import z3

from verification import theory as th
from verification.acceptor import value_term
from verification.goals import CODE, MODEL, Goal
from verification.loops import Engine
from verification.register import load_spec
from verification.symex import SymBallot, SymBool, SymValue, bool_term, explore

Rel = Mapping[str, z3.FuncDeclRef]
Step = Callable[[Rel, Rel], Sequence[z3.BoolRef]]
Lemma = tuple[z3.BoolRef, Sequence[str]]
"""A claim, and the names of what it follows from."""


@dataclass
class System:
    """An application: relations by name, what is true of them at first and always, and actions.

    Attributes:
        code: the actions that are proved to be what shipped code does.
        lemmas: what follows from the invariant, each from the named parts and lemmas before.
    """

    name: str
    relations: Mapping[str, Sequence[z3.SortRef]]
    start: Callable[[Rel], z3.BoolRef]
    always: Callable[[Rel], dict[str, z3.BoolRef]]
    actions: Mapping[str, tuple[set[str], Step]]
    theorems: Callable[[Rel], dict[str, z3.BoolRef]]
    facts: Sequence[z3.BoolRef] = field(default_factory=list)
    code: frozenset[str] = frozenset()
    lemmas: Callable[[Rel], dict[str, Lemma]] = lambda s: {}

    def state(self, tag: str) -> dict[str, z3.FuncDeclRef]:
        """The relations at one moment."""
        return {k: z3.Function(f"{k}{tag}", *s, th.Bool) for k, s in self.relations.items()}

    def goals(self) -> list[Goal]:
        """Start, every action, and the theorems."""
        s = self.state("")
        here = [*self.facts, *self.always(s).values()]
        out = []

        def goal(theorem: str, name: str, given: Any, claim: z3.BoolRef, **more: Any) -> None:
            title = f"{self.name}: {theorem}"
            out.append(Goal(title, name, list(given), claim, MODEL, second=True, **more))

        for name, claim in self.always(s).items():
            goal("the invariant", f"at the start: {name}", [*self.facts, self.start(s)], claim)
        for action in self.actions:
            out += self.kept(action)
            given = self.shown(action, [*here, *self.step(action)[2]])
            goal("every action is possible", action, given, z3.BoolVal(True), possible=True)
        known = self.known(s)
        for name, (claim, needed) in self.lemmas(s).items():
            given = [*self.facts, *[known[part] for part in needed]]
            goal("the invariant", f"a lemma: {name}", given, claim)
        for name, claim in self.theorems(s).items():
            goal(name, "from the invariant", [*self.facts, *known.values()], claim)
        return out

    def known(self, s: Rel) -> dict[str, z3.BoolRef]:
        """The invariant, and what follows from it."""
        return self.always(s) | {name: claim for name, (claim, _) in self.lemmas(s).items()}

    def shown(self, action: str, given: list[z3.BoolRef]) -> list[z3.BoolRef]:
        """What to find a model of, to see that an action is possible; an example may narrow it."""
        return given

    def step(self, action: str) -> tuple[Rel, Rel, list[z3.BoolRef]]:
        """An action: before, after, and what it says of them."""
        changed, step = self.actions[action]
        s, after = self.state(""), self.state("_after")
        t = {k: (after[k] if k in changed else f) for k, f in s.items()}
        return s, t, list(step(s, t))

    def guards(self, action: str) -> list[int]:
        """Which parts of an action speak of the state before it only."""
        parts = self.step(action)[2]
        return [k for k, part in enumerate(parts) if "_after" not in part.sexpr()]

    def kept(self, action: str, without: int | None = None) -> list[Goal]:
        """That an action keeps the invariant; `without` one part of it, for mutation."""
        s, t, parts = self.step(action)
        here, after = self.always(s), self.always(t)
        given = [part for k, part in enumerate(parts) if k != without]
        about = CODE if action in self.code else MODEL
        return [
            Goal(
                f"{self.name}: kept by what the code does"
                if action in self.code
                else f"{self.name}: the invariant",
                f"kept by: {action}: {name}",
                [*self.facts, *self.known(s).values(), *given],
                claim,
                about,
                second=True,
            )
            for name, claim in after.items()
            if not claim.eq(here[name])  # else it speaks of nothing that changed
        ]


def write_once(at: z3.FuncDeclRef, at_: z3.FuncDeclRef, where: Any, what: Any) -> z3.BoolRef:
    """`spec.write` on one register: an empty one gets the value, a written one keeps its own."""
    x, v = z3.Const("x", at.domain(0)), z3.Const("v", at.domain(1))
    empty = z3.Not(z3.Exists([v], at(where, v)))
    new = z3.And(empty, x == where, v == what)
    return z3.ForAll([x, v], at_(x, v) == z3.Or(at(x, v), new))


def gains(s: Rel, t: Rel, name: str, *what: Any) -> z3.BoolRef:
    """One more tuple in a relation."""
    xs = [z3.Const(f"x{i}", s[name].domain(i)) for i in range(s[name].arity())]
    new = z3.And(*[x == w for x, w in zip(xs, what, strict=True)])
    return z3.ForAll(xs, t[name](*xs) == z3.Or(s[name](*xs), new))


def one_value(at: z3.FuncDeclRef) -> z3.BoolRef:
    """A register holds one value."""
    x = z3.Const("x", at.domain(0))
    v, u = z3.Const("v", at.domain(1)), z3.Const("u", at.domain(1))
    return z3.ForAll([x, v, u], z3.Implies(z3.And(at(x, v), at(x, u)), v == u))


def written(at: z3.FuncDeclRef, where: Any) -> z3.BoolRef:
    """The register is not empty."""
    v = z3.Const("v", at.domain(1))
    return z3.Exists([v], at(where, v))


def empty_at_first(*names: str) -> Callable[[Rel], z3.BoolRef]:
    """These relations hold of nothing at the start."""

    def start(s: Rel) -> z3.BoolRef:
        parts = []
        for name in names:
            xs = [z3.Const(f"x{i}", s[name].domain(i)) for i in range(s[name].arity())]
            parts.append(z3.ForAll(xs, z3.Not(s[name](*xs))))
        return z3.And(*parts)

    return start


def contract(text: str | None = None) -> list[Goal]:
    """Of the shipped specification: only a write changes a register, and only an empty one."""
    spec = load_spec(Engine({}), text=text)
    cell = spec.Cell(
        SymBallot(z3.Const("HOLDER", th.Ballot)),
        SymBool(z3.Const("WRITTEN", th.Bool)),
        SymValue(z3.Const("HELD", th.Value)),
    )
    ballot, value = SymBallot(z3.Const("BAL", th.Ballot)), SymValue(z3.Const("VAL", th.Value))
    out = []

    def goal(name: str, given: Any, claim: z3.BoolRef) -> None:
        theorem = "the specification is a write-once register"
        out.append(Goal(theorem, name, [*th.BALLOTS, *given], claim, CODE, second=True))

    for path in explore(spec.write, cell, ballot, value):
        new, outcome = path.result
        kept = z3.And(bool_term(new.written), value_term(new.value) == cell.value.z)
        goal("a written register stays", [*path.hypotheses, cell.written.z], kept)
        got = z3.And(bool_term(new.written), value_term(new.value) == value.z)
        said = outcome == spec.WRITTEN
        goal(
            "WRITTEN iff it now holds the value and nobody captured it since",
            path.hypotheses,
            z3.BoolVal(said) == z3.And(got, z3.Not(th.blt(ballot.z, cell.holder.z))),
        )
        same = z3.And(new.holder.z == cell.holder.z, bool_term(new.written) == cell.written.z)
        goal("no other outcome changes it", path.hypotheses, z3.Or(z3.BoolVal(said), same))
    for path in explore(spec.capture, cell, ballot):
        new, granted = path.result
        taken = z3.And(th.blt(cell.holder.z, ballot.z), new.holder.z == ballot.z)
        goal(
            "a capture is granted iff its fence is higher",
            path.hypotheses,
            z3.If(z3.BoolVal(granted), taken, th.ble(ballot.z, cell.holder.z)),
        )
        kept = z3.And(bool_term(new.written) == cell.written.z, new.value.z == cell.value.z)
        goal("a capture writes nothing", path.hypotheses, kept)
    return out  # fmt: skip


I = z3.IntSort()  # noqa: E741
K, J = z3.Ints("K J")
i, j = z3.Ints("i j")
Who = z3.DeclareSort("Who")
W, W1 = z3.Consts("W W1", Who)
w, w1 = z3.Consts("w w1", Who)
