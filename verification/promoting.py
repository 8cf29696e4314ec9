"""Layer 2, part 4: what a captor may do when its capture is promised, from what layer 1 proves.

`safe` (of `protocol`) is what completing a register, and calling it free, rest on.  Here it is
derived, for one register REG, from the captor's own state: `best` is the row that it keeps for
REG, and `told` all that servers have reported of it.  Each page that counts makes the next `best`
out of the last one by the very formula that layer 1 proves of `on_promise` and `on_report`
(`proposer.merged`); the capture is promised when a quorum's reports are complete; and what must be
written is what `undecided` is proved to select.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import z3

from verification import theory as th
from verification.goals import BOTH, Goal
from verification.loops import Claims
from verification.proposer import Has, b, b1, d, d1, empty, merged, v, v1
from verification.protocol import BAL, MB, REG, VAL, N, Q, safe
from verification.state import State, invariant

PROMOTION = "promotion: what a promised capture keeps is safe to complete, or the register is free"
n = z3.Const("n", th.Node)


def _told(tag: str = "") -> Any:
    return z3.Function(f"told{tag}", th.Node, th.Ballot, th.Value, th.Bool, th.Bool)


def _best(tag: str = "") -> Any:
    return z3.Function(f"best{tag}", th.Ballot, th.Value, th.Bool, th.Bool)


def gathered(best: Has, told: Any) -> Claims:
    """`best` is the best of all that was told: once, one of them, and none is better."""
    anybody: Has = lambda x, y, z: z3.Exists([n], told(n, x, y, z))  # noqa: E731
    nothing: Has = lambda x, y, z: z3.BoolVal(False)  # noqa: E731
    every = merged(best, nothing, anybody)
    return {name: every[name] for name in (
        "at most one per register", "one of the reports", "dominates all reports",
        "none only if none was reported")}  # fmt: skip


def heard(s: State, told: Any, promised: z3.ExprRef) -> list[z3.BoolRef]:
    """What was told are reports; of who promised, all of them, unless somebody said "decided"."""
    all_of_it = z3.Exists(
        [b, v],
        z3.And(
            s.report(n, REG, BAL, b, v),
            z3.Or(b == th.NOTHING, z3.Exists([d], told(n, b, v, d))),
        ),
    )
    known = z3.Exists([n, b, v], told(n, b, v, True))
    return [
        z3.ForAll([n, b, v, d], z3.Implies(told(n, b, v, d), s.report(n, REG, BAL, b, v))),
        z3.ForAll([n, b, v, d], z3.Implies(told(n, b, v, d), b != th.NOTHING)),
        z3.ForAll([n], z3.Implies(z3.IsMember(n, promised), z3.Or(all_of_it, known))),
    ]


def chosen(s: State) -> list[z3.BoolRef]:
    """MB is the highest ballot that a quorum reported of REG, and VAL its value."""
    low = z3.And(s.report(n, REG, BAL, b, v), th.ble(b, MB))
    return [
        th.blt(th.UNSAFE, BAL),
        z3.ForAll([n], z3.Implies(th.member(n, Q), z3.Exists([b, v], low))),
        z3.Or(MB == th.NOTHING, z3.Exists([n], s.report(n, REG, BAL, MB, VAL))),
    ]


def choose(s: State) -> Goal:
    """From reports of a quorum to the fact that proposers act on."""
    names = ("a report", "a promise")
    known = [f for name, f in invariant(s).items() if name.startswith(names)]
    return _goal(
        "choose: what a quorum reports is safe to complete, or the register is free",
        "reports of a quorum, and of others",
        [*th.AXIOMS, *known, *chosen(s)],
        z3.And(*safe(s)),
    )


def _goal(theorem: str, name: str, given: Sequence[z3.BoolRef], claim: z3.BoolRef) -> Goal:
    return Goal(theorem, name, list(given), claim, BOTH, second=True)


def goals() -> list[Goal]:
    """From the first page to what is written."""
    s = State()
    told, after, best, new, page = (
        _told(),
        _told("_after"),
        _best(),
        _best("_after"),
        _best("_page"),
    )
    out = [choose(s)]

    def keeps(name: str, given: Sequence[z3.BoolRef], kept: Claims) -> None:
        for clause, claim in kept.items():
            out.append(_goal(PROMOTION, f"{name}: {clause}", [*th.BALLOTS, *given], claim))

    nobody = z3.ForAll([n, b, v, d], z3.Not(told(n, b, v, d)))
    keeps("at the start", [nobody, empty(best)], gathered(best, told))
    more = z3.Or(told(n, b, v, d), z3.And(n == N, page(b, v, d)))
    counts = [
        *gathered(best, told).values(),
        *merged(new, best, page).values(),
        z3.ForAll([n, b, v, d], after(n, b, v, d) == more),
    ]
    keeps("a page that counts", counts, gathered(new, after))
    promised = z3.Const("promised", z3.SetSort(th.Node))
    complete = [
        *th.AXIOMS,
        th.blt(th.UNSAFE, BAL),
        *gathered(best, told).values(),
        *heard(s, told, promised),
        z3.ForAll([n], z3.Implies(th.member(n, Q), z3.IsMember(n, promised))),
    ]
    half = best(
        MB, VAL, z3.BoolVal(False)
    )  # what `undecided` selects: the rows that are not decided
    nothing = [empty(best), MB == th.NOTHING]
    for name, case in (("a row of `undecided`", [half]), ("no row at all", nothing)):
        for k, part in enumerate(chosen(s)):
            out.append(_goal(PROMOTION, f"{name}, part {k}", [*complete, *case], part))
    full = z3.Exists([n], told(n, MB, VAL, False))
    out.append(_goal(PROMOTION, "a row of `undecided` was accepted", [*complete, half],
                     z3.And(MB != th.NOTHING, full)))  # fmt: skip
    one = [*complete, half, best(b1, v1, d1)]
    same = z3.And(b1 == MB, v1 == VAL, z3.Not(d1))
    out.append(_goal(PROMOTION, "a row of `undecided` is the only one", one, same))
    possible = [*complete, half, s.report(N, REG, BAL, MB, VAL)]
    out.append(Goal("every action is possible", "a promised capture has a row of `undecided`",
                    possible, z3.BoolVal(True), BOTH, possible=True))  # fmt: skip
    return out
