"""Layer 1, part 5: the capture's state machine: who counts as promised, what is remembered."""

from __future__ import annotations

from typing import Any

import z3

from verification import theory as th
from verification.loops import Claims, Engine, Facts
from verification.proposer import Rows, b, d, merged, once, v
from verification.source import Core
from verification.symex import SymBallot, SymInt, SymServer, ballot_term
from verification.tallies import EVERYONE, NOBODY, N, any_mask, is_quorum, sizes


def any_capturing(core: Core, best: Any) -> Any:
    """A capture in any state."""
    return core.prepare.Prepare(
        servers=SymInt(N),
        space="",
        segment=0,
        start=SymInt(th.fresh("start", th.Offset)),
        stop=SymInt(th.fresh("stop", th.Offset)),
        ballot=SymBallot(th.fresh("ballot", th.Ballot)),
        granted=any_mask("granted"),
        promised=any_mask("promised"),
        rejected=any_mask("rejected"),
        top=SymBallot(th.fresh("top", th.Ballot)),
        best=best,
    )


def prove(e: Engine) -> None:
    """The state machine: who counts as promised, and what is remembered of the reports."""
    core = e.core
    best, rows = Rows.any("best"), Rows.any("rows")
    c, server = any_capturing(core, best), SymServer(z3.Const("server", th.Node))
    after = SymInt(z3.Const("next", th.Offset))
    bit = z3.SetAdd(NOBODY, server.z)
    was = {name: z3.IsMember(server.z, getattr(c, name).z) for name in ("granted", "promised")}
    complete = after.z == -1
    facts = [*sizes(z3.SetUnion(c.promised.z, bit), z3.SetUnion(c.rejected.z, bit)), once(best.has)]
    above = z3.Exists([b, v, d], z3.And(rows.has(b, v, d), z3.Not(d), th.blt(c.ballot.z, b)))

    def took(out: Any, taken: z3.BoolRef) -> Claims:
        new, _ = out
        counts = z3.And(taken, complete)
        promised = z3.If(counts, z3.SetUnion(c.promised.z, bit), c.promised.z)
        return {
            "promised gains the server iff its report is complete": new.promised.z == promised,
            "PROMISED iff with this one a quorum has reported": z3.BoolVal(
                new.phase == core.prepare.PROMISED
            )
            == z3.And(counts, is_quorum(new.promised.z)),
            "a report that counts is merged": z3.Implies(taken, _out_best(new, best, rows)),
            "granted gains the server": new.granted.z
            == z3.If(taken, z3.SetUnion(c.granted.z, bit), c.granted.z),
            "the rest is asked for iff there is more": _asks(
                core, c, out, server, after, z3.And(taken, z3.Not(complete))
            ),
        }

    p = core.messages.Promise(rows, after)
    _each_unless_clash(
        e,
        "prepare.on_promise: what counts as a promise",
        e.paths("prepare.on_promise", c, server, p),
        lambda out: took(out, z3.Not(was["granted"])),
        facts,
    )
    r = core.messages.Report(rows, after)
    listens = z3.And(was["granted"], z3.Not(was["promised"]))
    paths = e.establish("prepare.on_report", c, server, r)
    taken = z3.And(listens, z3.Not(above))
    for path in paths:
        if isinstance(path.error, core.prepare.ClashingReports):
            continue
        theorem = "prepare.on_report: a page counts iff no row of it is above the ballot"
        counted = [*facts, *path.hypotheses]
        if path.error is not None:
            e.claim(theorem, f"raises {path.error!r}", counted, z3.BoolVal(False))
            continue
        new, _ = path.result
        if new is c:
            e.claim(theorem, "ignored only if it need not be heard", counted, z3.Not(listens))
            continue
        if new.best is best:
            e.claim(theorem, "refused only if it has to be heard", counted, listens)
            higher = th.blt(c.ballot.z, ballot_term(new.top))
            e.claim(theorem, "refused only for a row above, which is told", counted, higher)
            for clause, claim in _refused(core, c, new, bit).items():
                e.claim(theorem, f"refused: {clause}", counted, claim)
            continue
        e.claim(
            "prepare.on_report: a page counts iff no row of it is above the ballot",
            "taken only from a server that promised, and with no row above",
            counted,
            taken,
        )
        for clause, claim in took(path.result, z3.And(listens, z3.Not(above))).items():
            name = "prepare.on_report: a page counts iff no row of it is above the ballot"
            e.claim(name, clause, counted, claim)
    _over(e, c, server, p, r)
    named = SymBallot(th.fresh("named", th.Ballot))
    e.each(
        "prepare.on_reject: a refusal adds no promise",
        e.paths("prepare.on_reject", c, server, named),
        lambda new: (
            {"ignored only if it promised": was["granted"]}
            if new is c
            else _refused(core, c, new, bit, named.z) | {"counted": z3.Not(was["granted"])}
        ),
        given=facts,
    )


def _asks(core: Core, c: Any, out: Any, server: Any, after: Any, more: z3.BoolRef) -> z3.BoolRef:
    """One message, for the next page of this server's report; or none."""
    _, sends = out
    if not sends:
        return z3.Not(more)
    [send] = sends
    [span] = send.message.spans
    good = (
        send.server is server
        and type(send.message) is core.messages.Read
        and (send.message.space, send.message.segment) == (c.space, c.segment)
        and len(span) == 2
        and span[0] is after
        and span[1] is c.stop
    )
    return z3.And(more, z3.BoolVal(good))


def _over(e: Engine, c: Any, server: Any, p: Any, r: Any) -> None:
    """Promised or preempted: nothing that comes in changes it."""
    core = e.core
    for phase in (core.prepare.PROMISED, core.prepare.PREEMPTED):
        done = core.prepare.Prepare(
            *[getattr(c, name) for name in c.__struct_fields__[:6]],
            phase,
            *[getattr(c, name) for name in c.__struct_fields__[7:]],
        )
        _unchanged(e, done, "on_promise", server, p)
        _unchanged(e, done, "on_report", server, r)
        _unchanged(e, done, "on_reject", server, c.ballot)


def _unchanged(e: Engine, done: Any, handler: str, *args: Any) -> None:
    def same(out: Any) -> z3.BoolRef:
        state, sends = out if isinstance(out, tuple) else (out, ())
        return z3.BoolVal(state is done and not sends)

    paths = e.paths(f"prepare.{handler}", done, *args)
    e.each("a capture that is over does not change", paths, same)


def _refused(core: Core, c: Any, new: Any, bit: Any, named: Any = None) -> Claims:
    """The server of `bit` counts as one that refused."""
    rejected = z3.SetUnion(c.rejected.z, bit)
    left = is_quorum(z3.SetDifference(EVERYONE, rejected))
    preempted = z3.BoolVal(new.phase == core.prepare.PREEMPTED)
    return {
        "promised is unchanged": new.promised.z == c.promised.z,
        "best is unchanged": z3.BoolVal(new.best is c.best),
        "never PROMISED": z3.BoolVal(new.phase != core.prepare.PROMISED),
        "not granted any more": new.granted.z == z3.SetDifference(c.granted.z, bit),
        "rejected": new.rejected.z == rejected,
        "preempted iff no quorum is left": preempted == z3.Not(left),
        "top does not sink": th.ble(c.top.z, ballot_term(new.top)),
        "top is the highest named": z3.Or(
            z3.And(new.top.z == named, th.ble(c.top.z, named)),
            z3.And(new.top.z == c.top.z, th.ble(named, c.top.z)),
        )
        if named is not None
        else z3.BoolVal(True),
    }


def _out_best(new: Any, best: Rows, rows: Rows) -> z3.BoolRef:
    """`new.best` is the merge of what was known and what came in."""
    return z3.And(*merged(new.best.has, best.has, rows.has).values())


def _each_unless_clash(e: Engine, theorem: str, paths: Any, claim: Any, facts: Facts) -> None:
    good = [p for p in paths if not isinstance(p.error, e.core.prepare.ClashingReports)]
    e.each(theorem, good, claim, given=facts)
