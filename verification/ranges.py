"""Layer 1, part 1: maps from offsets to ballots, `paxos.ranges` and the marks of `acceptor`.

A tuple of ranges of any length, in any order, overlapping or not, is seen as the relation
`says(o, b)`: some range of it covers offset o with ballot b.  Ranges are not empty (lo < hi);
that is proved to be kept.  The main theorem is that `overlay` is *exact*: inside the new range
the map says the new ballot and nothing else, outside it says what it said before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import z3

from verification import theory as th
from verification.loops import Claims, Engine, Facts, Invariant, Splice, Symbolic
from verification.source import Core
from verification.symex import (
    SymBallot,
    SymBool,
    SymInt,
    Unsupported,
    ballot_term,
    bool_term,
    int_term,
)

Says = Callable[[z3.ExprRef, z3.ExprRef], z3.BoolRef]
o, p, q = z3.Consts("o p q", th.Offset)
b = z3.Const("b", th.Ballot)


class Ranges(Symbolic):
    """A tuple of ranges that is not known.

    Attributes:
        says: (offset, ballot): some range covers the offset with that ballot.
        count: (offset): how many ranges cover the offset.
        part: (offset, lo, hi, ballot): how many of those have that ballot and lie in [lo, hi).
    """

    def __init__(self, says: Says, count: Any, part: Any) -> None:
        self.says = says
        self.count = count
        self.part = part

    @classmethod
    def any(cls, stem: str = "says") -> Ranges:
        """An arbitrary one."""
        integer, offset = z3.IntSort(), th.Offset
        return cls(
            th.fresh_function(stem, offset, th.Ballot, th.Bool),
            th.fresh_function("count", offset, integer),
            th.fresh_function("part", offset, offset, offset, th.Ballot, integer),
        )

    @classmethod
    def none(cls) -> Ranges:
        """The empty tuple."""
        zero = z3.IntVal(0)
        return cls(lambda x, y: z3.BoolVal(False), lambda x: zero, lambda x, lo, hi, y: zero)

    def plus(self, r: Any) -> Ranges:
        """This tuple and one range more."""
        ballot = ballot_term(r.ballot)

        def part(x: Any, lo: Any, hi: Any, y: Any) -> z3.ExprRef:
            counts = z3.And(covers(r, x), y == ballot, lo <= r.lo.z, r.hi.z <= hi)
            return self.part(x, lo, hi, y) + z3.If(counts, 1, 0)

        return Ranges(
            lambda x, y: z3.Or(self.says(x, y), z3.And(covers(r, x), y == ballot)),
            lambda x: self.count(x) + z3.If(covers(r, x), 1, 0),
            part,
        )


def inside(lo: Any, hi: Any, x: z3.ExprRef) -> z3.BoolRef:
    """x is an offset of [lo, hi)."""
    return z3.And(int_term(lo) <= x, x < int_term(hi))


def covers(r: Any, x: z3.ExprRef) -> z3.BoolRef:
    """x is an offset of the range r."""
    return inside(r.lo, r.hi, x)


def not_empty(r: Any) -> z3.BoolRef:
    """lo < hi."""
    return int_term(r.lo) < int_term(r.hi)


def says(ranges: Any) -> Says:
    """The relation that a tuple of ranges stands for, known in part or not at all."""
    if isinstance(ranges, Ranges):
        return ranges.says
    parts: list[Says] = []
    for r in ranges:
        if isinstance(r, Splice):
            parts.append(r.sequence.says)
        else:
            parts.append(_says_one(r))
    return lambda x, y: z3.Or(*[part(x, y) for part in parts])


def _says_one(r: Any) -> Says:
    return lambda x, y: z3.And(covers(r, x), y == ballot_term(r.ballot))


def either(f: Says, g: Says) -> Says:
    """What one relation or the other says."""
    return lambda x, y: z3.Or(f(x, y), g(x, y))


def count(ranges: Any, x: z3.ExprRef) -> z3.ExprRef:
    """How many ranges of the tuple cover the offset x."""
    if isinstance(ranges, Ranges):
        return ranges.count(x)
    one = [
        r.sequence.count(x) if isinstance(r, Splice) else z3.If(covers(r, x), 1, 0) for r in ranges
    ]
    return z3.Sum(z3.IntVal(0), *one)


def all_not_empty(ranges: Any) -> z3.BoolRef:
    """No range of the tuple is empty; those of a tuple that is not known are not."""
    if isinstance(ranges, Ranges):
        return z3.BoolVal(True)
    return z3.And(*[not_empty(r) for r in ranges if not isinstance(r, Splice)])


def disjoint(ranges: Any) -> z3.BoolRef:
    """No offset is covered twice."""
    return z3.ForAll([o], count(ranges, o) <= 1)


def any_range(core: Core) -> tuple[Any, Facts]:
    """Any range that is not empty."""
    r = core.ranges.Range(
        SymInt(th.fresh("lo", th.Offset)),
        SymInt(th.fresh("hi", th.Offset)),
        SymBallot(th.fresh("rb", th.Ballot)),
    )
    return r, [not_empty(r)]


def ballot_now(core: Core, carried: Sequence[Any], known: Mapping[str, Any]) -> Any:
    """Carried: one ballot."""
    term = th.fresh("top", th.Ballot)
    return lambda: (SymBallot(term),)


def _truth_now(core: Core, carried: Sequence[Any], known: Mapping[str, Any]) -> Any:
    term = th.fresh("known", th.Bool)
    return lambda: (SymBool(term),)


def _range_now(core: Core, carried: Sequence[Any], known: Mapping[str, Any]) -> Any:
    r, _ = any_range(core)
    return lambda: (r,)


def _ranges_now(core: Core, carried: Sequence[Any], known: Mapping[str, Any]) -> Any:
    seen = Ranges.any("kept")
    return lambda: (seen,)


# ------------------------------------------------------------------ the invariants


def _highest_at(seen: Ranges, first: Any, now: Any, known: Any) -> Claims:
    at, top = int_term(known["offset"]), ballot_term(now[0])
    return {
        "bounds every ballot on the offset": z3.ForAll(
            [b], z3.Implies(seen.says(at, b), th.ble(b, top))
        ),
        "is one of them, or UNSAFE": z3.Or(top == th.UNSAFE, seen.says(at, top)),
        "is not below UNSAFE": th.ble(th.UNSAFE, top),
    }


def _highest_in(seen: Ranges, first: Any, now: Any, known: Any) -> Claims:
    lo, hi, top = known["lo"], known["hi"], ballot_term(now[0])
    return {
        "bounds every ballot in the range": z3.ForAll(
            [o, b], z3.Implies(z3.And(inside(lo, hi, o), seen.says(o, b)), th.ble(b, top))
        ),
        "is one of them, or UNSAFE": z3.Implies(
            int_term(lo) < int_term(hi),
            z3.Or(top == th.UNSAFE, z3.Exists([o], z3.And(inside(lo, hi, o), seen.says(o, top)))),
        ),
        "is not below UNSAFE": th.ble(th.UNSAFE, top),
    }


def _counts(seen: Ranges) -> Claims:
    part = seen.part(o, p, q, b)
    return {"counts": z3.ForAll([o, p, q, b], z3.And(part >= 0, part <= seen.count(o)))}


def _grown(seen: Ranges, first: Any, now: Any, known: Any) -> Claims:
    new, grown = known["new"], now[0]
    ballot = ballot_term(new.ballot)
    return _counts(seen) | {
        "keeps the ballot": ballot_term(grown.ballot) == ballot,
        "contains the new range": z3.And(
            int_term(grown.lo) <= int_term(new.lo), int_term(new.hi) <= int_term(grown.hi)
        ),
        "adds only what the map says": z3.Implies(
            not_empty(new),
            z3.ForAll(
                [o],
                z3.Implies(z3.And(covers(grown, o), z3.Not(covers(new, o))), seen.says(o, ballot)),
            ),
        ),
        "is not empty": z3.Implies(not_empty(new), not_empty(grown)),
        "adds only ranges that it contains": z3.Implies(
            not_empty(new),
            z3.ForAll(
                [o, p, q],
                z3.Implies(
                    z3.And(
                        covers(grown, o),
                        z3.Not(covers(new, o)),
                        p <= int_term(grown.lo),
                        int_term(grown.hi) <= q,
                    ),
                    seen.part(o, p, q, ballot) >= 1,
                ),
            ),
        ),
    }


def _kept(seen: Ranges, first: Any, now: Any, known: Any) -> Claims:
    new, grown, kept = known["new"], known["grown"], says(now[0])
    merged = z3.And(b == ballot_term(grown.ballot), covers(grown, o))
    bounds = int_term(grown.lo), int_term(grown.hi)
    unmerged = seen.count(o) - seen.part(o, *bounds, ballot_term(grown.ballot))
    return _counts(seen) | {
        "says nothing new": z3.ForAll(
            [o, b], z3.Implies(kept(o, b), z3.And(seen.says(o, b), z3.Not(covers(new, o))))
        ),
        "loses nothing but what is merged": z3.ForAll(
            [o, b],
            z3.Implies(z3.And(seen.says(o, b), z3.Not(covers(new, o))), z3.Or(kept(o, b), merged)),
        ),
        "no range is empty": all_not_empty(now[0]),
        "keeps what is not merged, and that once": z3.Implies(
            not_empty(new),
            z3.ForAll([o], count(now[0], o) <= z3.If(covers(new, o), 0, unmerged)),
        ),
    }


def _decided(seen: Ranges, first: Any, now: Any, known: Any) -> Claims:
    at, ballot = int_term(known["offset"]), ballot_term(known["ballot"])
    exists = z3.Exists([b], z3.And(seen.says(at, b), th.ble(b, ballot)))
    return {"some mark at or below the ballot": bool_term(now[0]) == exists}


def as_ranges(ranges: Any) -> Ranges:
    """A tuple, known in part, as a set of ranges."""
    if isinstance(ranges, Ranges):
        return ranges
    out = Ranges.none()
    for r in ranges:
        if isinstance(r, Splice):
            raise Unsupported("a loop over a tuple that is known in part")
        out = out.plus(r)
    return out


def _over(havoc: Any, holds: Any) -> Invariant:
    """An invariant of a loop over ranges."""
    return Invariant(
        arbitrary=Ranges.any,
        empty=Ranges.none,
        element=any_range,
        add=Ranges.plus,
        seen=as_ranges,
        havoc=havoc,
        holds=holds,
    )


INVARIANTS = {
    "ranges.ballot_at:0": _over(ballot_now, _highest_at),
    "ranges.highest:0": _over(ballot_now, _highest_in),
    "ranges.overlay:0": _over(_range_now, _grown),
    "ranges.overlay:1": _over(_ranges_now, _kept),
    "acceptor.is_decided:0": _over(_truth_now, _decided),
}


# ------------------------------------------------------------------ the theorems


def exact(before: Any, new: Any, after: Any) -> Claims:
    """`after` is `before` with `new` laid over it."""
    old, now, ballot = says(before), says(after), ballot_term(new.ballot)
    return {
        "inside: the new ballot only": z3.ForAll(
            [o, b], z3.Implies(covers(new, o), now(o, b) == (b == ballot))
        ),
        "outside: as before": z3.ForAll(
            [o, b], z3.Implies(z3.Not(covers(new, o)), now(o, b) == old(o, b))
        ),
    }


def prove(e: Engine) -> None:
    """Establish the loops, then the functions that contain them."""
    r, wf = any_range(e.core)
    x, lo, hi = (SymInt(th.fresh(s, th.Offset)) for s in ("x", "lo", "hi"))
    e.each(
        "ranges.covers", e.paths("ranges.covers", r, x), lambda t: bool_term(t) == covers(r, x.z)
    )
    shared = z3.Exists([o], z3.And(covers(r, o), inside(lo, hi, o)))
    e.each(
        "ranges.overlaps: they share an offset",
        e.paths("ranges.overlaps", r, lo, hi),
        lambda t: bool_term(t) == shared,
        given=[*wf, lo.z < hi.z],
    )
    grown, _ = any_range(e.core)
    e.each(
        "ranges.within",
        e.paths("ranges.within", r, grown),
        lambda t: (
            bool_term(t)
            == z3.And(
                r.ballot.z == grown.ballot.z,
                z3.ForAll([o], z3.Implies(covers(r, o), covers(grown, o))),
            )
        ),
        given=wf,
    )

    def absorbed(out: Any) -> z3.BoolRef:
        apart = z3.Or(r.hi.z < grown.lo.z, grown.hi.z < r.lo.z)
        grows = z3.And(r.ballot.z == grown.ballot.z, z3.Not(apart))
        lo = z3.If(z3.And(grows, r.lo.z < grown.lo.z), r.lo.z, grown.lo.z)
        hi = z3.If(z3.And(grows, r.hi.z > grown.hi.z), r.hi.z, grown.hi.z)
        return z3.And(out.lo.z == lo, out.hi.z == hi, out.ballot.z == grown.ballot.z)

    e.each(
        "ranges.absorb_step: grows by what touches it, iff it has the same ballot",
        e.paths("ranges.absorb_step", grown, r),
        absorbed,
    )
    rs = Ranges.any()
    top = e.establish("ranges.ballot_at", rs, x)
    e.each(
        "ranges.ballot_at: the highest ballot on the offset, or UNSAFE",
        top,
        lambda t: z3.And(
            z3.ForAll([b], z3.Implies(rs.says(x.z, b), th.ble(b, t.z))),
            z3.Or(t.z == th.UNSAFE, rs.says(x.z, t.z)),
            th.ble(th.UNSAFE, t.z),
        ),
    )
    e.each(
        "ranges.highest: the highest ballot on any offset of the range, or UNSAFE",
        e.establish("ranges.highest", rs, lo, hi),
        lambda t: z3.And(
            z3.ForAll([o, b], z3.Implies(z3.And(inside(lo, hi, o), rs.says(o, b)), th.ble(b, t.z))),
            z3.Or(t.z == th.UNSAFE, z3.Exists([o], z3.And(inside(lo, hi, o), rs.says(o, t.z)))),
        ),
        given=[lo.z < hi.z],
    )
    new, new_wf = any_range(e.core)
    laid = e.establish("ranges.overlay", rs, new)
    e.each(
        "ranges.overlay is exact, for any tuple of ranges",
        laid,
        lambda out: exact(rs, new, out),
        given=new_wf,
    )
    e.each(
        "ranges.overlay keeps ranges disjoint and not empty",
        laid,
        lambda out: {"not empty": all_not_empty(out), "disjoint": disjoint(out)},
        given=[*new_wf, disjoint(rs)],
    )
    _lookups_after_overlay(e, rs, new, new_wf, laid)
    _slices(e, rs, new, new_wf, laid)
    _marks(e)


def is_highest_at(relation: Says, x: z3.ExprRef, top: z3.ExprRef) -> z3.BoolRef:
    """`top` is what `ballot_at` answers for x where the map says `relation`; it is unique."""
    return z3.And(
        z3.ForAll([b], z3.Implies(relation(x, b), th.ble(b, top))),
        z3.Or(top == th.UNSAFE, relation(x, top)),
        th.ble(th.UNSAFE, top),
    )


def _lookups_after_overlay(e: Engine, rs: Ranges, new: Any, wf: Facts, laid: Any) -> None:
    """What `ballot_at` answers before and after: the form in which promises are used."""
    x = th.fresh("x", th.Offset)
    before, after = th.fresh("before", th.Ballot), th.fresh("after", th.Ballot)
    for path in laid:
        given = [
            *wf,
            *path.hypotheses,
            th.ble(th.UNSAFE, new.ballot.z),
            is_highest_at(rs.says, x, before),
            is_highest_at(says(path.result), x, after),
        ]
        e.claim(
            "ranges.ballot_at after overlay: the new ballot inside, unchanged outside",
            "for any tuple of ranges",
            given,
            after == z3.If(covers(new, x), new.ballot.z, before),
        )


def _slices(e: Engine, rs: Ranges, new: Any, wf: Facts, laid: Any) -> None:
    """A store hands over what overlaps or touches; what it left out changes nothing."""
    left_out = Ranges.any("left_out")
    apart = z3.ForAll([o, b], z3.Implies(left_out.says(o, b), z3.Not(covers(new, o))))
    as_map = Ranges(either(rs.says, left_out.says), None, None)
    for path in laid:
        both = Ranges(either(says(path.result), left_out.says), None, None)
        for clause, formula in exact(as_map, new, both).items():
            e.claim(
                "ranges.overlay of a slice is overlay of the whole map",
                clause,
                [*wf, apart, *path.hypotheses],
                formula,
            )


def _marks(e: Engine) -> None:
    marks, x = Ranges.any("marks"), SymInt(th.fresh("x", th.Offset))
    ballot = SymBallot(th.fresh("ballot", th.Ballot))
    lo, hi = SymInt(th.fresh("lo", th.Offset)), SymInt(th.fresh("hi", th.Offset))
    some = z3.Exists([b], z3.And(marks.says(x.z, b), th.ble(b, ballot.z)))
    e.each(
        "acceptor.is_decided: iff a mark on the offset is at or below the row's ballot",
        e.establish("acceptor.is_decided", marks, x, ballot),
        lambda t: bool_term(t) == some,
    )
    new = e.core.ranges.Range(lo, hi, ballot)
    e.each(
        "acceptor.on_decided lays one mark over the others",
        e.paths("acceptor.on_decided", marks, lo, hi, ballot),
        lambda out: exact(marks, new, out),
        given=[lo.z < hi.z],
    )
    stones = Ranges.any("stones")
    only = z3.ForAll([o, b], z3.Implies(stones.says(o, b), b == th.UNSAFE))
    trimmed = z3.Or(inside(lo, hi, o), stones.says(o, th.UNSAFE))
    e.each(
        "acceptor.on_trim: tombstones on exactly the segments named, and on those that had one",
        e.paths("acceptor.on_trim", stones, lo, hi),
        lambda out: z3.ForAll([o, b], says(out)(o, b) == z3.And(b == th.UNSAFE, trimmed)),
        given=[lo.z < hi.z, only],
    )
