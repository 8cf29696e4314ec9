"""Layer 4: what stands above registers, from the register's specification alone.

No message, ballot or server occurs here.  The world is `at(x, v)`: the register x holds v.  That
it changes only by `spec.write` on an empty register is proved of the shipped specification first
(`contract`).  Each application is a model, as small as its argument: the state, its invariant, and
every action that anybody may take in any order.  The number of segments, participants, positions,
replicas and commands is not bounded.

The models are to be replaced by the packages' own decision functions as those come to be: an
action's guard and effect are formulas, which `Engine.paths` can supply.
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


@dataclass
class System:
    """An application: relations by name, what is true of them at first and always, and actions."""

    name: str
    relations: Mapping[str, Sequence[z3.SortRef]]
    start: Callable[[Rel], z3.BoolRef]
    always: Callable[[Rel], dict[str, z3.BoolRef]]
    actions: Mapping[str, tuple[set[str], Step]]
    theorems: Callable[[Rel], dict[str, z3.BoolRef]]
    facts: Sequence[z3.BoolRef] = field(default_factory=list)

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
            given = [*here, *self.step(action)[2]]
            goal("every action is possible", action, given, z3.BoolVal(True), possible=True)
        for name, claim in self.theorems(s).items():
            goal(name, "from the invariant", here, claim)
        return out

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
        return [
            Goal(
                f"{self.name}: the invariant",
                f"kept by: {action}: {name}",
                [*self.facts, *here.values(), *given],
                claim,
                MODEL,
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
            "a capture is granted iff its ballot is higher",
            path.hypotheses,
            z3.If(z3.BoolVal(granted), taken, th.ble(ballot.z, cell.holder.z)),
        )
        kept = z3.And(bool_term(new.written) == cell.written.z, new.value.z == cell.value.z)
        goal("a capture writes nothing", path.hypotheses, kept)
    return out  # fmt: skip


# ------------------------------------------------------------------ segments

I = z3.IntSort()  # noqa: E741
K, J = z3.Ints("K J")
i, j = z3.Ints("i j")
Who = z3.DeclareSort("Who")
W, W1 = z3.Consts("W W1", Who)
w, w1 = z3.Consts("w w1", Who)


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


# ------------------------------------------------------------------ atomic commit

Party = z3.DeclareSort("Party")
Vote, (YES, NO) = z3.EnumSort("Vote", ["yes", "no"])
P = z3.Const("P", Party)
p = z3.Const("p", Party)
x = z3.Const("x", Vote)
VARIANTS = {
    "A8": ({"vote when asked"}, {"told", "tm"}),
    "B6": ({"vote when asked"}, {"told", "tm"}),
    "C5": ({"vote when asked"}, {"listen", "tm"}),
    "D4": ({"vote when asked"}, {"listen", "everybody"}),
    "E3": ({"vote when asked"}, {"listen", "everybody"}),
    "F2": ({"vote unasked"}, {"listen", "everybody"}),
}
"""Who votes when, and who learns how: what differs between the variants, and is safe in any mix.
B6 differs from A8, and E3 from D4, in when captures are made and who starts: not in safety."""


def atomic_commit(variant: str) -> System:
    """Each party votes in a register of its own; `knows(w, p, x)`: w has learned p's vote."""
    voting, learning = VARIANTS[variant]

    def always(s: Rel) -> dict[str, z3.BoolRef]:
        return {
            "one value": one_value(s["vote"]),
            "who votes yes is willing": z3.ForAll(
                [p], z3.Implies(s["vote"](p, YES), s["willing"](p))
            ),
            "what is known is so": z3.ForAll(
                [w, p, x], z3.Implies(s["knows"](w, p, x), s["vote"](p, x))
            ),
            "commit: all yes": z3.ForAll([w, p], z3.Implies(s["commit"](w), s["vote"](p, YES))),
            "abort: some no": z3.ForAll(
                [w], z3.Implies(s["abort"](w), z3.Exists([p], s["vote"](p, NO)))
            ),
        }

    def votes(s: Rel, t: Rel) -> Sequence[z3.BoolRef]:
        asked = [s["asked"](P)] if "vote when asked" in voting else []
        return [*asked, s["willing"](P), write_once(s["vote"], t["vote"], P, YES)]

    def learns(s: Rel, t: Rel) -> Sequence[z3.BoolRef]:
        told = s["knows"](W1, P, x) if "told" in learning else z3.BoolVal(False)
        return [z3.Or(s["vote"](P, x), told), gains(s, t, "knows", W, P, x)]

    actions: dict[str, tuple[set[str], Step]] = {
        "a party is asked": ({"asked"}, lambda s, t: [gains(s, t, "asked", P)]),
        "a willing party votes yes": ({"vote"}, votes),
        "anybody votes no for a party": (
            {"vote"}, lambda s, t: [write_once(s["vote"], t["vote"], P, NO)],
        ),
        "somebody learns a vote": ({"knows"}, learns),
        "somebody who knows all yes commits": (
            {"commit"},
            lambda s, t: [z3.ForAll([p], s["knows"](W, p, YES)), gains(s, t, "commit", W)],
        ),
        "somebody who knows a no aborts": (
            {"abort"}, lambda s, t: [s["knows"](W, P, NO), gains(s, t, "abort", W)],
        ),
    }  # fmt: skip

    def theorems(s: Rel) -> dict[str, z3.BoolRef]:
        all_written = z3.ForAll([p], written(s["vote"], p))
        yes, no = z3.ForAll([p], s["vote"](p, YES)), z3.Exists([p], s["vote"](p, NO))
        return {
            "agreement": z3.ForAll([w, w1], z3.Not(z3.And(s["commit"](w), s["abort"](w1)))),
            "validity: commit only if all are willing": z3.ForAll(
                [w, p], z3.Implies(s["commit"](w), s["willing"](p))
            ),
            "non-blocking: all registers written, the outcome is known": z3.Implies(
                all_written, z3.Xor(yes, no)
            ),
            "resolution never contradicts a decision": z3.ForAll(
                [w], z3.And(z3.Implies(s["commit"](w), yes), z3.Implies(s["abort"](w), no))
            ),
        }

    relations = {"vote": [Party, Vote], "willing": [Party], "asked": [Party],
                 "knows": [Who, Party, Vote], "commit": [Who], "abort": [Who]}  # fmt: skip
    start = empty_at_first("vote", "asked", "knows", "commit", "abort")
    return System(f"atomic commit {variant}", relations, start, always, actions, theorems)


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


# ------------------------------------------------------------------ replicated state machine


def replicas() -> System:
    """`did(w, i, e)`: replica w applied command e, as that of slot i.

    A command is applied at the first slot that holds it; gaps are filled with JUNK, the no-op.
    """

    def first(s: Rel, slot: Any, command: Any) -> z3.BoolRef:
        before = z3.And(j >= 0, j < slot)
        return z3.ForAll([j], z3.Implies(before, z3.Not(s["at"](j, command))))

    def always(s: Rel) -> dict[str, z3.BoolRef]:
        return {
            "one value": one_value(s["at"]),
            "an acknowledged command is there": z3.ForAll(
                [e, i], z3.Implies(s["acked"](e, i), s["at"](i, e))
            ),
            "a replica passes slots in order": z3.ForAll(
                [w, i, j],
                z3.Implies(
                    z3.And(s["passed"](w, j), i >= 0, i <= j),
                    z3.And(s["passed"](w, i), written(s["at"], i)),
                ),
            ),
            "what was applied is the slot's, and its first": z3.ForAll(
                [w, i, e],
                z3.Implies(
                    s["did"](w, i, e),
                    z3.And(i >= 0, s["passed"](w, i), s["at"](i, e), e != JUNK, first(s, i, e)),
                ),
            ),
            "nothing is passed over": z3.ForAll(
                [w, i, e],
                z3.Implies(
                    z3.And(s["passed"](w, i), i >= 0, s["at"](i, e), e != JUNK, first(s, i, e)),
                    s["did"](w, i, e),
                ),
            ),
        }

    def applies(s: Rel, t: Rel) -> Sequence[z3.BoolRef]:
        ready = z3.And(K >= 0, z3.Or(K == 0, s["passed"](W, K - 1)), s["at"](K, E))
        new = z3.And(E != JUNK, first(s, K, E))
        did = z3.Or(s["did"](w, i, e), z3.And(new, w == W, i == K, e == E))
        return [
            ready,
            gains(s, t, "passed", W, K),
            z3.ForAll([w, i, e], t["did"](w, i, e) == did),
        ]

    both = lambda s: z3.And(s["did"](w, i, e), s["did"](w1, j, e1))  # noqa: E731
    return System(
        "replicas",
        {"at": [I, Entry], "acked": [Entry, I], "passed": [Who, I], "did": [Who, I, Entry]},
        empty_at_first("at", "acked", "passed", "did"),
        always,
        {
            "any leader, old or new, writes a slot": (
                {"at"},
                lambda s, t: [write_once(s["at"], t["at"], K, E)],
            ),
            "a command is acknowledged": (
                {"acked"},
                lambda s, t: [s["at"](K, E), gains(s, t, "acked", E, K)],
            ),
            "a replica applies its next slot": ({"passed", "did"}, applies),
        },
        lambda s: {
            "all replicas apply the same sequence": z3.ForAll(
                [w, w1, i, e, e1, j],
                z3.And(
                    z3.Implies(z3.And(both(s), i == j), e == e1),
                    z3.Implies(z3.And(s["did"](w, i, e), s["passed"](w1, i)), s["did"](w1, i, e)),
                ),
            ),
            "no command twice": z3.ForAll(
                [w, w1, i, j, e], z3.Implies(z3.And(s["did"](w, i, e), s["did"](w1, j, e)), i == j)
            ),
            "nothing acknowledged is lost: no leader puts another in its slot": z3.ForAll(
                [e, e1, i], z3.Implies(z3.And(s["acked"](e, i), s["at"](i, e1)), e == e1)
            ),
        },
    )


def systems() -> list[System]:
    """All applications."""
    return [segments(), *[atomic_commit(v) for v in VARIANTS], log(), replicas()]


def goals(spec: str | None = None) -> list[Goal]:
    """Layer 4."""
    return [*contract(spec), *[goal for system in systems() for goal in system.goals()]]
