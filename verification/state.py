"""Layer 2, part 1: the protocol's state, and the invariant.

One segment's registers; any number of nodes, ballots, values and registers.  Messages are
relations that only grow, and every handler may run at any time on any message ever sent: so loss,
delay, duplication and reordering need no further word.  A node's durable state survives a crash
(the server answers after its store has synced), so a crash is a message lost, or nothing.

    left(n, r, b)            node n will never accept for r under b: it has promised more
    row(n, r, b, v)          what n has accepted for r now
    granted(n, r, b)         n has promised b on r, to the captor of b
    report(n, r, b, b1, v)   n told that captor, at the promise or later: (b1, v) is my row for r
    prop(r, b, v)            somebody sent a write of v for r under b
    vote(n, r, b, v)         n has accepted it
    dec(r, b, v)             a quorum has accepted it: v is decided
    free(r, b)               the token of b says that r was free
    mark(n, r, b)            n's marks say that r was decided at b
    gone(n)                  n has a tombstone for the segment, and has forgotten the rest
"""

from __future__ import annotations

import z3

from verification import theory as th

n, n1 = z3.Consts("n n1", th.Node)
q = z3.Const("q", th.Quorum)
b, b1, b2 = z3.Consts("b b1 b2", th.Ballot)
v, v1 = z3.Consts("v v1", th.Value)
r = z3.Const("r", th.Offset)

VARIABLES: dict[str, list[z3.ExprRef]] = {
    "left": [n, r, b],
    "row": [n, r, b, v],
    "granted": [n, r, b],
    "report": [n, r, b, b1, v],
    "prop": [r, b, v],
    "vote": [n, r, b, v],
    "dec": [r, b, v],
    "free": [r, b],
    "mark": [n, r, b],
    "gone": [n],
}

TRIM = z3.Const("TRIM", th.Offset)
TRIMMED = z3.Const("TRIMMED", th.Value)
"""The trim register, and the one value that anybody ever writes there."""


class State:
    """The relations at one moment."""

    left: z3.FuncDeclRef
    row: z3.FuncDeclRef
    granted: z3.FuncDeclRef
    report: z3.FuncDeclRef
    prop: z3.FuncDeclRef
    vote: z3.FuncDeclRef
    dec: z3.FuncDeclRef
    free: z3.FuncDeclRef
    mark: z3.FuncDeclRef
    gone: z3.FuncDeclRef

    def __init__(self, tag: str = "") -> None:
        for name, variables in VARIABLES.items():
            sorts = [x.sort() for x in variables]
            setattr(self, name, z3.Function(f"{name}{tag}", *sorts, th.Bool))

    def after(self, changed: set[str]) -> State:
        """A later moment, at which only the `changed` relations may be others."""
        later = State("_after")
        for name in VARIABLES.keys() - changed:
            setattr(later, name, getattr(self, name))
        return later

    def holds(self, name: str) -> z3.BoolRef:
        """The relation, applied to its variables."""
        relation: z3.BoolRef = getattr(self, name)(*VARIABLES[name])
        return relation


def becomes(s: State, t: State, name: str, new: z3.BoolRef) -> z3.BoolRef:
    """The relation gains what `new` says (of the relation's variables)."""
    return z3.ForAll(VARIABLES[name], t.holds(name) == z3.Or(s.holds(name), new))


def _if(*parts: z3.BoolRef) -> z3.BoolRef:
    return z3.Implies(z3.And(*parts[:-1]), parts[-1])


def invariant(s: State) -> dict[str, z3.BoolRef]:
    """What is true at every moment, clause by clause."""
    every = z3.ForAll
    nobody = every([v], z3.Not(s.vote(n, r, b1, v)))
    return {
        "one proposal per ballot": every(
            [r, b, v, v1], _if(s.prop(r, b, v), s.prop(r, b, v1), v == v1)
        ),
        "a proposal has a full ballot": every([r, b, v], _if(s.prop(r, b, v), b != th.NOTHING)),
        "a vote is for a proposal": every([n, r, b, v], _if(s.vote(n, r, b, v), s.prop(r, b, v))),
        "UNSAFE is promised from the start": every(
            [n, r, b], _if(th.blt(b, th.UNSAFE), s.left(n, r, b))
        ),
        "a promise is above UNSAFE": every(
            [n, r, b], _if(s.granted(n, r, b), th.blt(th.UNSAFE, b))
        ),
        "a promise is kept": every(
            [n, r, b, b1], _if(s.granted(n, r, b), th.blt(b1, b), s.left(n, r, b1))
        ),
        "a report comes after its promise": every(
            [n, r, b, b1, v], _if(s.report(n, r, b, b1, v), s.granted(n, r, b))
        ),
        "a report is below its promise": every(
            [n, r, b, b1, v], _if(s.report(n, r, b, b1, v), th.blt(b1, b))
        ),
        "a report is of a vote": every(
            [n, r, b, b1, v],
            _if(s.report(n, r, b, b1, v), b1 != th.NOTHING, s.vote(n, r, b1, v)),
        ),
        "a report hides no vote": every(
            [n, r, b, b1, b2, v, v1],
            _if(
                s.report(n, r, b, b1, v),
                th.blt(b1, b2),
                th.blt(b2, b),
                z3.Not(s.vote(n, r, b2, v1)),
            ),
        ),
        "a row is a vote": every(
            [n, r, b, v],
            _if(z3.Not(s.gone(n)), s.row(n, r, b, v), b != th.NOTHING, s.vote(n, r, b, v)),
        ),
        "a row is the last vote": every(
            [n, r, b, b1, v, v1],
            _if(z3.Not(s.gone(n)), s.row(n, r, b, v), s.vote(n, r, b1, v1), th.ble(b1, b)),
        ),
        "a row is not above the promise": every(
            [n, r, b, b1, v],
            _if(z3.Not(s.gone(n)), s.row(n, r, b, v), th.blt(b1, b), s.left(n, r, b1)),
        ),
        "the gone accept nothing": every([n, r, b], _if(s.gone(n), s.left(n, r, b))),
        "gone only when trimmed": every([n], _if(s.gone(n), s.dec(TRIM, th.UNSAFE, TRIMMED))),
        "decided by a quorum": every(
            [r, b, v],
            _if(
                s.dec(r, b, v),
                z3.Exists([q], every([n], _if(th.member(n, q), s.vote(n, r, b, v)))),
            ),
        ),
        "no other value below a proposal": every(
            [r, b1, b2, v, v1, q],
            _if(
                s.prop(r, b2, v1),
                th.blt(b1, b2),
                v != v1,
                z3.Exists(
                    [n],
                    z3.And(th.member(n, q), s.left(n, r, b1), z3.Not(s.vote(n, r, b1, v))),
                ),
            ),
        ),
        "nothing below a free register's token": every(
            [r, b, b1, q],
            _if(
                s.free(r, b),
                th.blt(b1, b),
                z3.Exists([n], z3.And(th.member(n, q), s.left(n, r, b1), nobody)),
            ),
        ),
        "a mark is of a decision": every(
            [n, r, b], _if(s.mark(n, r, b), z3.Exists([v], s.dec(r, b, v)))
        ),
    }


SAFE = "no other value below a proposal"
"""The clause that agreement rests on."""

NEEDED = {
    SAFE: (
        "one proposal per ballot",
        "a proposal has a full ballot",
        "a vote is for a proposal",
        "UNSAFE is promised from the start",
        SAFE,
        "nothing below a free register's token",
    ),
}
"""For the clauses that are hard to keep: the clauses that suffice, so that no solver gets lost."""


def sufficient(s: State, clause: str) -> list[z3.BoolRef]:
    """The part of the invariant from which a clause is proved to be kept; by default, all of it."""
    inv = invariant(s)
    return [inv[name] for name in NEEDED.get(clause, tuple(inv))]


def initial(s: State) -> list[z3.BoolRef]:
    """Nothing was ever sent; UNSAFE is promised everywhere."""
    return [
        *[
            z3.ForAll(VARIABLES[name], z3.Not(s.holds(name)))
            for name in VARIABLES
            if name not in ("left", "row")
        ],
        z3.ForAll([n, r, b], s.left(n, r, b) == th.blt(b, th.UNSAFE)),
        z3.ForAll([n, r, b, v], z3.Implies(s.row(n, r, b, v), b == th.NOTHING)),
    ]


def agreement(s: State) -> z3.BoolRef:
    """No register has two decided values."""
    return z3.ForAll(
        [r, b, b1, v, v1], z3.Implies(z3.And(s.dec(r, b, v), s.dec(r, b1, v1)), v == v1)
    )


def decided_is_final(s: State) -> z3.BoolRef:
    """From a decision on, nothing else is proposed: whatever is accepted at b or above is it."""
    return z3.ForAll(
        [r, b, b1, v, v1],
        z3.Implies(z3.And(s.dec(r, b, v), th.ble(b, b1), s.prop(r, b1, v1)), v == v1),
    )
