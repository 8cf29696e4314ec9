"""Layer 1, part 3: quorums, and the verdict of a write.

Sets of servers are sets here: their number is not bounded, and of `bit_count` nothing is assumed
but what holds of the sizes of finite sets.  The registers of a write are looked at through one
arbitrary offset F: what is proved of F holds of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import z3

from verification import theory as th
from verification.loops import Claims, Engine, Facts, Invariant, Splice, Symbolic
from verification.source import Core
from verification.symex import (
    Path,
    SymBallot,
    SymInt,
    SymMask,
    SymServer,
    ballot_term,
    bool_term,
    card,
    int_term,
)

F = z3.Const("F", th.Offset)
"""An arbitrary offset."""
Nodes = z3.SetSort(th.Node)
N = z3.Const("n", z3.IntSort())
"""The number of servers."""
EVERYONE = z3.Const("everyone", Nodes)
NOBODY = z3.EmptySet(th.Node)


def any_mask(stem: str) -> SymMask:
    """Any set of servers."""
    return SymMask(th.fresh(stem, Nodes))


def sizes(*sets: z3.ExprRef) -> Facts:
    """What holds of the sizes of these finite sets, all of them sets of the N servers."""
    facts: Facts = [N >= 1, card(EVERYONE) == N, card(NOBODY) == 0]
    for s in sets:
        rest = z3.SetDifference(EVERYONE, s)
        facts += [z3.IsSubset(s, EVERYONE), card(s) >= 0, card(s) + card(rest) == N]
        facts.append(z3.Implies(card(s) == 0, s == NOBODY))
    for i, s in enumerate(sets):
        for t in sets[i + 1 :]:
            both, either = z3.SetIntersect(s, t), z3.SetUnion(s, t)
            facts += [card(s) + card(t) == card(both) + card(either), card(either) <= N]
            facts += [card(both) >= 0, z3.Implies(card(both) == 0, both == NOBODY)]
    return facts


def is_quorum(s: z3.ExprRef) -> z3.BoolRef:
    """More than half of the servers."""
    return 2 * card(s) > N


def _quorums(e: Engine) -> None:
    servers, one, two = SymInt(N), any_mask("one"), any_mask("two")
    facts = sizes(one.z, two.z)
    e.each(
        "quorum.majority: the least number that is more than half",
        e.paths("quorum.majority", servers),
        lambda m: z3.And(2 * m.z > N, 2 * (m.z - 1) <= N, m.z <= N),
        given=[N >= 1],
    )
    first, second = (e.paths("quorum.is_quorum", m, servers) for m in (one, two))
    e.each(
        "quorum.is_quorum: iff more than half",
        first,
        lambda t: bool_term(t) == is_quorum(one.z),
        given=facts,
    )
    for a in first:
        for other in second:
            both = [*a.hypotheses, *other.hypotheses, bool_term(a.result), bool_term(other.result)]
            e.claim(
                "quorum: any two quorums share a server",
                "by the shipped is_quorum",
                [*facts, *both],
                z3.SetIntersect(one.z, two.z) != NOBODY,
            )
    rest = z3.SetDifference(EVERYONE, one.z)
    apart = z3.And(z3.SetIntersect(one.z, two.z) == NOBODY, is_quorum(two.z))
    e.each(
        "quorum.out_of_reach: iff no quorum is left without the lost",
        e.paths("quorum.out_of_reach", one, servers),
        lambda t: {
            "then none": z3.Implies(bool_term(t), z3.Not(apart)),
            "else the rest is one": z3.Implies(z3.Not(bool_term(t)), is_quorum(rest)),
        },
        given=facts,
    )


def _verdicts(e: Engine) -> None:
    w = e.core.accept
    answered, refused, q = any_mask("answered"), any_mask("refused"), any_mask("q")
    accepted = z3.SetIntersect(answered.z, z3.SetComplement(refused.z))
    facts = sizes(accepted, refused.z, q.z)
    facts.append(z3.SetIntersect(accepted, refused.z) == NOBODY)
    decided = is_quorum(accepted)
    lost = z3.Not(is_quorum(z3.SetDifference(EVERYONE, refused.z)))

    def fate(verdict: int) -> Claims:
        return {
            "DECIDED iff a quorum accepted": z3.BoolVal(verdict == w.DECIDED) == decided,
            "LOST iff no quorum can": z3.BoolVal(verdict == w.LOST) == lost,
        }

    paths = e.paths("accept.verdict", SymInt(N), answered, refused)
    e.each("accept.verdict: what, and exactly when", paths, fate, given=facts)


@dataclass
class Tallies(Symbolic):
    """A tuple of tallies that is not known, seen at offset F.

    Attributes:
        present: whether it has one for F.
        by, promised: that one.
        twice: whether it has more than one: never, which is proved to be kept.
    """

    present: z3.BoolRef
    by: z3.ExprRef
    promised: z3.ExprRef
    twice: z3.BoolRef

    @classmethod
    def any(cls) -> Tallies:
        """An arbitrary one."""
        return cls(
            th.fresh("present", th.Bool),
            th.fresh("by", Nodes),
            th.fresh("promised", th.Ballot),
            th.fresh("twice", th.Bool),
        )

    @classmethod
    def none(cls) -> Tallies:
        """The empty one."""
        return cls(z3.BoolVal(False), NOBODY, th.NOTHING, z3.BoolVal(False))

    def plus(self, t: Any) -> Tallies:
        """This and one tally more, or all those of another tuple."""
        if isinstance(t, Splice):
            other = t.sequence
            here, by, promised, twice = other.present, other.by, other.promised, other.twice
        else:
            here, by, promised = int_term(t.offset) == F, t.by.z, ballot_term(t.promised)
            twice = z3.BoolVal(False)
        return Tallies(
            z3.Or(self.present, here),
            z3.If(here, by, self.by),
            z3.If(here, promised, self.promised),
            z3.Or(self.twice, twice, z3.And(self.present, here)),
        )

    @property
    def refused_by(self) -> z3.ExprRef:
        """Who refused F."""
        return z3.If(self.present, self.by, NOBODY)


def tallies(t: Any) -> Tallies:
    """A tuple of tallies, known in part or not at all."""
    if isinstance(t, Tallies):
        return t
    out = Tallies.none()
    for one in t:
        out = out.plus(one)
    return out


def any_tally(core: Core) -> tuple[Any, Facts]:
    """Any tally."""
    offset, promised = th.fresh("t", th.Offset), th.fresh("promised", th.Ballot)
    return core.accept.Tally(SymInt(offset), any_mask("by"), SymBallot(promised)), []


def _split_now(core: Core, carried: Sequence[Any], known: Mapping[str, Any]) -> Any:
    new, _ = any_tally(core)
    by_name = {"new": new, "out": Tallies.any()}
    names = [name for name in known if name in by_name]  # in the order the loop carries them
    return lambda: tuple(by_name[name] for name in names)


def _named(now: Sequence[Any], known: Mapping[str, Any]) -> tuple[Any, Tallies]:
    carried = dict(zip([n for n in known if n in ("new", "out")], now, strict=True))
    return carried["new"], tallies(carried["out"])


def _split(seen: Tallies, first: Any, now: Any, known: Mapping[str, Any]) -> Claims:
    new, out = _named(now, known)
    offset, by = int_term(known["offset"]), known["by"].z
    merged = z3.And(
        new.by.z == z3.SetUnion(seen.refused_by, by),
        z3.Implies(seen.present, th.ble(seen.promised, ballot_term(new.promised))),
        th.ble(ballot_term(known["promised"]), ballot_term(new.promised)),
        z3.Not(out.present),
    )
    passed = z3.And(
        out.present == seen.present,
        z3.Implies(seen.present, z3.And(out.by == seen.by, out.promised == seen.promised)),
    )
    good = z3.And(int_term(new.offset) == offset, z3.If(offset == F, merged, passed))
    return {
        "the register's tally is merged, others pass": z3.Implies(z3.Not(seen.twice), good),
        "no register twice": z3.Implies(z3.Not(seen.twice), z3.Not(out.twice)),
    }


@dataclass
class Refusals(Symbolic):
    """A list of refusals that is not known: whether it refuses F."""

    has: z3.BoolRef

    def plus(self, r: Any) -> Refusals:
        """This and one more."""
        return Refusals(z3.Or(self.has, int_term(r.offset) == F))


def _any_refusal(core: Core) -> tuple[Any, Facts]:
    offset, promised = th.fresh("r", th.Offset), th.fresh("promised", th.Ballot)
    return core.messages.RefusedWrite(SymInt(offset), SymBallot(promised)), []


def _tallies_now(core: Core, carried: Sequence[Any], known: Mapping[str, Any]) -> Any:
    some = Tallies.any()
    return lambda: (some,)


def _refused(seen: Refusals, first: Any, now: Any, known: Mapping[str, Any]) -> Claims:
    before, after = tallies(first[0]), tallies(now[0])
    bit = z3.If(seen.has, known["bit"].z, NOBODY)
    good = after.refused_by == z3.SetUnion(before.refused_by, bit)
    return {
        "F's refusers gain the server iff it refused F": z3.Implies(z3.Not(before.twice), good),
        "no register twice": z3.Implies(z3.Not(before.twice), z3.Not(after.twice)),
    }


def _top(seen: Tallies, first: Any, now: Any, known: Any) -> Claims:
    top = ballot_term(now[0])
    return {"bounds what F's refusers named": z3.Implies(seen.present, th.ble(seen.promised, top))}


def _top_now(core: Core, carried: Sequence[Any], known: Mapping[str, Any]) -> Any:
    term = th.fresh("top", th.Ballot)
    return lambda: (SymBallot(term),)


INVARIANTS = {
    "accept.refuse_step:0": Invariant(
        Tallies.any, Tallies.none, any_tally, Tallies.plus, tallies, _split_now, _split
    ),
    "accept.on_written:0": Invariant(
        lambda: Refusals(th.fresh("has", th.Bool)),
        lambda: Refusals(z3.BoolVal(False)),
        _any_refusal,
        Refusals.plus,
        lambda refused: refused,
        _tallies_now,
        _refused,
    ),
    "accept.obstacle:0": Invariant(
        Tallies.any, Tallies.none, any_tally, Tallies.plus, tallies, _top_now, _top
    ),
}


def any_writing(core: Core, refusals: Any) -> Any:
    """A write in any state."""
    return core.accept.Accept(
        servers=SymInt(N),
        space="",
        segment=0,
        ballot=SymBallot(th.fresh("ballot", th.Ballot)),
        offsets=(),
        values=(),
        answered=any_mask("answered"),
        refusals=refusals,
    )


def _answers(e: Engine) -> None:
    known = Tallies.any()
    offset, promised = SymInt(th.fresh("at", th.Offset)), SymBallot(th.fresh("pr", th.Ballot))
    by = any_mask("by")
    e.each(
        "accept.refuse_step adds one refuser to one register",
        e.establish("accept.refuse_step", known, offset, by, promised),
        lambda out: z3.And(
            z3.Not(tallies(out).twice),
            tallies(out).refused_by
            == z3.SetUnion(known.refused_by, z3.If(offset.z == F, by.z, NOBODY)),
        ),
        given=[z3.Not(known.twice)],
    )
    w, server = any_writing(e.core, known), SymServer(th.fresh("server", th.Node))
    refused = Refusals(th.fresh("has", th.Bool))
    one = z3.SetAdd(NOBODY, server.z)
    heard = z3.IsMember(server.z, w.answered.z)
    gained = z3.If(z3.And(z3.Not(heard), refused.has), one, NOBODY)
    e.each(
        "accept.on_written counts each server once, per register",
        e.establish("accept.on_written", w, server, refused),
        lambda out: {
            "answered": out.answered.z == z3.SetUnion(w.answered.z, one),
            "refused": tallies(out.refusals).refused_by == z3.SetUnion(known.refused_by, gained),
            "once": z3.Not(tallies(out.refusals).twice),
            "what is sent again is the same": z3.BoolVal(
                out.values is w.values and out.offsets is w.offsets and out.ballot is w.ballot
            ),
        },
        given=[z3.Not(known.twice)],
    )
    e.each(
        "accept.obstacle is not below any reason given",
        e.establish("accept.obstacle", w),
        lambda top: z3.Implies(known.present, th.ble(known.promised, ballot_term(top))),
        given=[z3.Not(known.twice)],
    )


def prove(e: Engine) -> None:
    """Quorums, verdicts, and the bookkeeping between them."""
    _quorums(e)
    _verdicts(e)
    _answers(e)


__all__ = ["INVARIANTS", "F", "N", "Path", "any_mask", "is_quorum", "prove", "sizes"]
