"""The vocabulary of every formula: sorts, orders and the few axioms that are assumed of them.

* `Ballot` is any total order with a least element NOTHING and, right above it, UNSAFE.  That is
  what `bytes` comparison gives for ballots of 16 bytes and the empty string.
* An offset is an integer.
* `Node`, `Quorum` and `Value` are arbitrary sets; any two quorums share a node.

Nothing bounds any of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

import z3

Ballot = z3.DeclareSort("Ballot")
Value = z3.DeclareSort("Value")
Node = z3.DeclareSort("Node")
Quorum = z3.DeclareSort("Quorum")
Offset = z3.IntSort()
Bool = z3.BoolSort()

ble = z3.Function("ble", Ballot, Ballot, Bool)
member = z3.Function("member", Node, Quorum, Bool)
NOTHING = z3.Const("NOTHING", Ballot)
UNSAFE = z3.Const("UNSAFE", Ballot)

_fresh = count()


def fresh(stem: str, sort: z3.SortRef) -> z3.ExprRef:
    """A constant that occurs nowhere else."""
    return z3.Const(f"{stem}!{next(_fresh)}", sort)


def fresh_function(stem: str, *sorts: z3.SortRef) -> z3.FuncDeclRef:
    """A function symbol that occurs nowhere else."""
    return z3.Function(f"{stem}!{next(_fresh)}", *sorts)


def blt(a: z3.ExprRef, b: z3.ExprRef) -> z3.BoolRef:
    """a < b on ballots."""
    return z3.And(ble(a, b), a != b)


def forall(variables: Iterable[z3.ExprRef], body: z3.BoolRef) -> z3.BoolRef:
    """The universal closure of `body`; `body` itself if there is nothing to quantify."""
    bound = list(variables)
    return z3.ForAll(bound, body) if bound else body


_a, _b, _c = z3.Consts("a b c", Ballot)
_p, _q = z3.Consts("p q", Quorum)
_n = z3.Const("n", Node)

BALLOTS = [
    z3.ForAll([_a], ble(_a, _a)),
    z3.ForAll([_a, _b, _c], z3.Implies(z3.And(ble(_a, _b), ble(_b, _c)), ble(_a, _c))),
    z3.ForAll([_a, _b], z3.Implies(z3.And(ble(_a, _b), ble(_b, _a)), _a == _b)),
    z3.ForAll([_a, _b], z3.Or(ble(_a, _b), ble(_b, _a))),
    z3.ForAll([_a], ble(NOTHING, _a)),
    NOTHING != UNSAFE,
    z3.ForAll([_a], z3.Or(_a == NOTHING, ble(UNSAFE, _a))),
]
"""Ballots are totally ordered; NOTHING < UNSAFE <= everything else."""

QUORUMS = [
    z3.ForAll([_p, _q], z3.Exists([_n], z3.And(member(_n, _p), member(_n, _q)))),
]
"""Any two quorums share a node: proved of `paxos.quorum` by layer 1."""

AXIOMS = BALLOTS + QUORUMS
