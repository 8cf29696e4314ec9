"""Layer 1, part 2: what the acceptor's handlers do, and exactly when.

`on_capture` and `on_write` are executed whole, over promises of which nothing is known: they look
a promise up in the ranges the way the product does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import z3

from verification import theory as th
from verification.loops import Claims, Engine
from verification.ranges import Ranges, b, exact, inside, o, says
from verification.symex import (
    Path,
    SymBallot,
    SymInt,
    SymValue,
    Unsupported,
    ballot_term,
    int_term,
)


def value_term(value: Any) -> z3.ExprRef:
    """The term for a register's value."""
    if isinstance(value, SymValue):
        return value.z
    raise Unsupported(f"not a register's value: {value!r}")


def refuses(promises: Any, at: z3.ExprRef, ballot: z3.ExprRef) -> z3.BoolRef:
    """The register has promised more than `ballot`."""
    higher = z3.Exists([b], z3.And(says(promises)(at, b), th.blt(ballot, b)))
    return z3.Or(th.blt(ballot, th.UNSAFE), higher)


@dataclass
class Capture:
    """An arbitrary call of `on_capture`, and every path it can take."""

    promises: Ranges
    lo: SymInt
    hi: SymInt
    ballot: SymBallot
    paths: list[Path]

    @classmethod
    def any(cls, e: Engine) -> Capture:
        """Execute it."""
        promises = Ranges.any("promised")
        lo, hi = SymInt(z3.Const("LO", th.Offset)), SymInt(z3.Const("HI", th.Offset))
        ballot = SymBallot(z3.Const("BAL", th.Ballot))
        paths = e.paths("acceptor.on_capture", promises, lo, hi, ballot)
        return cls(promises, lo, hi, ballot, paths)

    @property
    def wellformed(self) -> list[z3.BoolRef]:
        """What the wire layer lets through: a full ballot and a range that is not empty."""
        return [self.lo.z < self.hi.z, th.ble(th.UNSAFE, self.ballot.z)]


@dataclass
class Write:
    """An arbitrary call of `on_write`, and every path it can take."""

    promises: Ranges
    row: Any
    offset: SymInt
    ballot: SymBallot
    value: SymValue
    paths: list[Path]

    @classmethod
    def any(cls, e: Engine) -> Write:
        """Execute it."""
        promises, offset = Ranges.any("promised"), SymInt(z3.Const("REG", th.Offset))
        row = e.core.messages.Row(
            offset,
            SymBallot(z3.Const("ROWB", th.Ballot)),
            SymValue(z3.Const("ROWV", th.Value)),
        )
        ballot, value = SymBallot(z3.Const("BAL", th.Ballot)), SymValue(z3.Const("VAL", th.Value))
        paths = e.paths("acceptor.on_write", promises, row, offset, ballot, value)
        return cls(promises, row, offset, ballot, value, paths)

    @property
    def wellformed(self) -> list[z3.BoolRef]:
        """A full ballot; and what the store keeps: no row above its register's promise."""
        at = self.offset.z
        kept = z3.Or(
            th.ble(self.row.ballot.z, th.UNSAFE),
            z3.Exists([b], z3.And(self.promises.says(at, b), th.ble(self.row.ballot.z, b))),
        )
        return [th.ble(th.UNSAFE, self.ballot.z), kept]


def _captured(e: Engine) -> None:
    c = Capture.any(e)
    new = e.core.ranges.Range(c.lo, c.hi, c.ballot)
    free = z3.ForAll(
        [o],
        z3.Implies(
            inside(c.lo, c.hi, o),
            z3.And(
                th.blt(th.UNSAFE, c.ballot.z),
                z3.ForAll([b], z3.Implies(c.promises.says(o, b), th.blt(b, c.ballot.z))),
            ),
        ),
    )

    def grants(result: Any) -> Claims:
        out, top = result[0], ballot_term(result[1])
        granted = th.blt(top, c.ballot.z)
        after = z3.And(*exact(c.promises, new, out).values())
        same = z3.ForAll([o, b], says(out)(o, b) == c.promises.says(o, b))
        return {
            "grants iff every offset has promised less": granted == free,
            "a refusal returns the very promises": z3.BoolVal(out is c.promises) == z3.Not(granted),
            "granted: the promise is laid over the range": z3.Implies(granted, after),
            "refused: nothing changes": z3.Implies(z3.Not(granted), same),
            "refused: names the highest promise": z3.Implies(
                z3.Not(granted),
                z3.Or(
                    top == th.UNSAFE,
                    z3.Exists([o], z3.And(inside(c.lo, c.hi, o), c.promises.says(o, top))),
                ),
            ),
        }

    e.each("acceptor.on_capture: what, and exactly when", c.paths, grants, given=c.wellformed)


def _written(e: Engine) -> None:
    w = Write.any(e)
    at, ballot, value = w.offset.z, w.ballot.z, w.value.z
    clash = z3.And(ballot == w.row.ballot.z, value != w.row.value.z)

    def accepts(result: Any) -> Claims:
        out, row, verdict = result
        accepted = ballot_term(verdict) == th.NOTHING
        now, before = says(out), w.promises.says
        return {
            "accepts iff no higher promise and no other value under the ballot": accepted
            == z3.And(z3.Not(refuses(w.promises, at, ballot)), z3.Not(clash)),
            "accepted: the row": z3.Implies(
                accepted,
                z3.And(
                    int_term(row.offset) == at,
                    ballot_term(row.ballot) == ballot,
                    value_term(row.value) == value,
                ),
            ),
            "accepted: the promise is raised to the ballot": z3.Implies(
                accepted,
                z3.And(
                    z3.Not(refuses(out, at, ballot)),
                    z3.Or(ballot == th.UNSAFE, now(at, ballot)),
                ),
            ),
            "elsewhere no promise changes": z3.ForAll(
                [o, b], z3.Implies(o != at, now(o, b) == before(o, b))
            ),
            "refused: nothing changes": z3.Implies(
                z3.Not(accepted),
                z3.And(
                    z3.ForAll([o, b], now(o, b) == before(o, b)),
                    int_term(row.offset) == at,
                    ballot_term(row.ballot) == w.row.ballot.z,
                    value_term(row.value) == w.row.value.z,
                ),
            ),
            "refused: names the promise": z3.Implies(
                z3.Not(accepted),
                z3.And(
                    th.ble(ballot, ballot_term(verdict)),
                    z3.Or(ballot_term(verdict) == th.UNSAFE, now(at, ballot_term(verdict))),
                ),
            ),
        }

    e.each("acceptor.on_write: what, and exactly when", w.paths, accepts, given=w.wellformed)


def prove(e: Engine) -> None:
    """Both handlers."""
    _captured(e)
    _written(e)
