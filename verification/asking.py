"""Layer 1, part 6: who is asked what, again, and when enough is known.

A read must not forget a register: what is still asked loses only registers that are known, and a
report that comes in pages is asked for to its end.  Requests carry what the operation holds.

A comprehension treats the elements of a sequence one by one, so it is followed for one arbitrary
register, F of `tallies`, and one other: `one_by_one`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import z3

from verification import theory as th
from verification.captures import any_capturing
from verification.loops import Claims, Engine, Facts, Symbolic
from verification.proposer import Rows, any_found, any_row
from verification.symex import (
    SymBool,
    SymInt,
    SymMask,
    SymServer,
    bool_term,
    current,
    int_term,
)
from verification.tallies import (
    EVERYONE,
    NOBODY,
    F,
    N,
    any_mask,
    any_tally,
    any_writing,
    is_quorum,
    sizes,
)


class OneByOne(Symbolic):
    """A sequence that is not known, of things by register: that of F, if any, and one other."""

    def __init__(self, present: z3.BoolRef, own: Any, other: Any) -> None:
        self.present = present
        self.own = own
        self.other = other

    def __iter__(self) -> Iterator[Any]:
        here = bool(SymBool(self.present))
        return iter([self.own, self.other] if here else [self.other])

    def __bool__(self) -> bool:
        return True


def one_by_one(make: Callable[[z3.ExprRef], Any]) -> tuple[OneByOne, Facts]:
    """Such a sequence; `make` makes the element for an offset."""
    other = th.fresh("another", th.Offset)
    return OneByOne(th.fresh("present", th.Bool), make(F), make(other)), [other != F]


# ------------------------------------------------------------------ what is left to do


def _left_to_do(e: Engine) -> None:
    rows, facts = one_by_one(lambda at: any_row(e.core, at)[0])
    e.each(
        "prepare.undecided: exactly the rows that are not decided",
        e.paths("prepare.undecided", any_capturing(e.core, ((0, rows),))),
        lambda out: (
            z3.BoolVal(any(row is rows.own for row in out))
            == z3.And(rows.present, z3.Not(bool_term(rows.own.decided)))
        ),
        given=facts,
    )

    def tally(at: z3.ExprRef) -> Any:
        t, _ = any_tally(e.core)
        return e.core.accept.Tally(SymInt(at), t.by, t.promised)

    tallies, facts = one_by_one(tally)
    w = any_writing(e.core, tallies)
    both = (tallies.own, tallies.other)
    accepted = [z3.SetIntersect(w.answered.z, z3.SetComplement(t.by.z)) for t in both]
    facts += sizes(w.answered.z, *accepted, *[t.by.z for t in both])
    decided = [is_quorum(s) for s in accepted]
    lost = [z3.Not(is_quorum(z3.SetDifference(EVERYONE, t.by.z))) for t in both]
    is_open = [z3.Not(z3.Or(d, gone)) for d, gone in zip(decided, lost, strict=True)]
    e.each(
        "accept.finished: iff a quorum has answered and no refused register is open",
        e.paths("accept.finished", w),
        lambda t: (
            bool_term(t)
            == z3.And(
                is_quorum(w.answered.z),
                z3.Not(z3.And(tallies.present, is_open[0])),
                z3.Not(is_open[1]),
            )
        ),
        given=facts,
    )
    for name, which in (
        ("lost", z3.And(z3.Not(decided[0]), lost[0])),
        ("contested", is_open[0]),
    ):
        e.each(
            f"accept.{name}: exactly the registers whose verdict is that",
            e.paths(f"accept.{name}", w),
            _holds_own(tallies, which),
            given=facts,
        )


def _holds_own(sequence: OneByOne, which: z3.BoolRef) -> Callable[[Any], z3.BoolRef]:
    def claim(out: Any) -> z3.BoolRef:
        has = z3.BoolVal(any(one is sequence.own for one in out))
        return has == z3.And(sequence.present, which)

    return claim


# ------------------------------------------------------------------ requests


class ToAll:
    """What `effects.to_all` was asked to send: the message, and whom to leave out."""

    def __init__(self, servers: Any, message: Any, but: Any = 0) -> None:
        self.servers = servers
        self.message = message
        self.but = but.z if isinstance(but, SymMask) else NOBODY


def _record_sends(e: Engine) -> None:
    """From now on: `to_all` is what it is asked for (tests compare it with a naive one)."""
    for module in ("prepare", "reading", "accept", "broadcast"):
        e.core.modules[module].__dict__["to_all"] = lambda *args, **more: (ToAll(*args, **more),)
    e.core.modules["prepare"].__dict__["everyone"] = lambda servers: SymMask(EVERYONE)


def _requests(e: Engine) -> None:
    _record_sends(e)
    core = e.core
    c = any_capturing(core, ())

    def captures(out: Any) -> Claims:
        ask, page = out
        m, p = ask.message, page.message
        asked = (m.space, m.segment, m.start, m.stop, m.ballot)
        return {
            "asks for the capture itself": z3.BoolVal(
                all(x is y for x, y in zip(asked, (c.space, c.segment, c.start, c.stop, c.ballot),
                                           strict=True))
                and type(m) is core.messages.Capture and ask.servers is c.servers
            ),
            "of those that have not answered": ask.but == z3.SetUnion(c.granted.z, c.rejected.z),
            "and for the whole report": z3.BoolVal(
                _reads_here(core, p, c) and _same(p.spans, [(c.start, c.stop)])
            ),
            "of those whose report is not complete": z3.SetDifference(EVERYONE, page.but)
            == z3.SetIntersect(EVERYONE, z3.SetDifference(c.granted.z, c.promised.z)),
        }  # fmt: skip

    title = "prepare.begin: asks all who have not answered, for what is captured"
    e.each(title, e.paths("prepare.begin", c), captures)
    for phase in (core.prepare.PROMISED, core.prepare.PREEMPTED):
        over = msgspec.structs.replace(c, phase=phase)
        e.each(title, e.paths("prepare.begin", over), lambda out: z3.BoolVal(out == ()))
    w = any_writing(core, ())
    w = core.accept.Accept(w.servers, "s", 3, w.ballot, (SymInt(F),), ("value",), w.answered)

    def writes(out: Any) -> Claims:
        [send] = out
        m = send.message
        held = m.ballot is w.ballot and m.offsets[0] is w.offsets[0] and m.values == ["value"]
        place = (m.space, m.segment) == ("s", 3) and send.servers is w.servers
        return {
            "the values it holds, under its ballot": z3.BoolVal(held and place),
            "to all who have not answered": send.but == w.answered.z,
        }

    e.each("accept.begin: sends what it holds", e.paths("accept.begin", w), writes)
    _telling(e)


def _telling(e: Engine) -> None:
    title = "broadcast: to all who have not carried it out, until a quorum has"
    t = e.core.broadcast.Broadcast(SymInt(N), "message", any_mask("heard"))
    server = SymServer(z3.Const("server", th.Node))
    after = z3.SetUnion(t.heard.z, z3.SetAdd(NOBODY, server.z))

    def begun(out: Any) -> z3.BoolRef:
        [send] = out
        return z3.And(z3.BoolVal(send.message == "message"), send.but == t.heard.z)

    e.each(title, e.paths("broadcast.begin", t), begun)
    e.each(title, e.paths("broadcast.on_done", t, server), lambda out: out.heard.z == after)
    e.each(
        title,
        e.paths("broadcast.finished", t),
        lambda over: bool_term(over) == is_quorum(t.heard.z),
        given=sizes(t.heard.z),
    )


def _reads_here(core: Any, message: Any, operation: Any) -> bool:
    """It is a read of the operation's own segment."""
    place = operation.space, operation.segment
    return type(message) is core.messages.Read and (message.space, message.segment) == place


def _same(some: Any, others: Any) -> bool:
    return len(some) == len(others) and all(
        x is y for a, b in zip(some, others, strict=True) for x, y in zip(a, b, strict=True)
    )


# ------------------------------------------------------------------ reads


class Spans(Symbolic):
    """Spans that are not known: whether F lies in them; the one that it lies in, and one other."""

    def __init__(self, has: z3.BoolRef) -> None:
        self.has = has

    def __iter__(self) -> Iterator[Any]:
        lo, hi, lo1, hi1 = (SymInt(th.fresh(s, th.Offset)) for s in ("lo", "hi", "lo1", "hi1"))
        facts = current().facts
        facts += [lo.z <= F, hi.z > F, lo1.z < hi1.z, z3.Or(hi1.z <= F, lo1.z > F)]
        return iter([(lo, hi), (lo1, hi1)] if bool(SymBool(self.has)) else [(lo1, hi1)])

    def __bool__(self) -> bool:
        some = th.fresh("nonempty", th.Bool)
        current().facts.append(z3.Or(some, z3.Not(self.has)))
        return bool(SymBool(some))


def in_spans(spans: Any, x: z3.ExprRef) -> z3.BoolRef:
    """x lies in one of the spans."""
    if isinstance(spans, Spans):
        return spans.has
    return z3.Or(*[z3.And(int_term(lo) <= x, x < int_term(hi)) for lo, hi in spans])


def _without(e: Engine) -> None:
    """`without` walks two sorted lists with one index: here up to two spans, three offsets."""
    title = "reading.without: exactly the offsets that are left (up to two spans, three offsets)"
    x = z3.Const("x", th.Offset)
    for spans in range(3):
        for offsets in range(4):
            bounds = [SymInt(th.fresh("bound", th.Offset)) for _ in range(2 * spans)]
            less = [SymInt(th.fresh("less", th.Offset)) for _ in range(offsets)]
            given = [a.z < b.z for a, b in zip(bounds[::2], bounds[1::2], strict=True)]
            given += [a.z <= b.z for a, b in zip(bounds[1::2], bounds[2::2], strict=False)]
            given += [a.z < b.z for a, b in pairwise(less)]
            pairs = tuple(zip(bounds[::2], bounds[1::2], strict=True))
            left = z3.And(in_spans(pairs, x), *[x != o.z for o in less])
            for path in e.paths("reading.without", pairs, less, assume=given):
                known = [*given, *path.hypotheses]
                e.claim(title, "the offsets", known, in_spans(path.result, x) == left)
                e.claim(title, "ascending, none empty", known, _ascending(path.result))


def _ascending(spans: Sequence[Any]) -> z3.BoolRef:
    parts = [int_term(lo) < int_term(hi) for lo, hi in spans]
    parts += [int_term(a[1]) <= int_term(b[0]) for a, b in pairwise(spans)]
    return z3.And(*parts)


def _reads(e: Engine) -> None:
    _record_sends(e)
    core = e.core
    entry, other = any_found(core, F), any_found(core, th.fresh("another", th.Offset))
    found = OneByOne(th.fresh("present", th.Bool), entry, other)
    facts: Facts = [other.row.offset.z != F]
    masks = sizes(entry.voters.z)
    known = z3.And(found.present, z3.Or(bool_term(entry.row.decided), is_quorum(entry.voters.z)))
    merges: list[tuple[Any, Any, Any]] = []

    def merged(old: Any, rows: Any, bit: Any) -> OneByOne:
        """What was proved of `_merge` says what the entries are; here: they are any."""
        merges.append((old, rows, bit))
        return found

    def without(spans: Any, offsets: list[Any]) -> Spans:
        """What was proved of `without`."""
        gone = z3.Or(*[int_term(offset) == F for offset in offsets])
        return Spans(z3.And(in_spans(spans, F), z3.Not(gone)))

    e.summarise("reading._merge", merged)
    e.summarise("reading.without", without)
    reading = core.reading
    for phase in (reading.ASKING_ONE, reading.ASKING_ALL, reading.ANSWERED):
        _report(e, phase, found, known, [*facts, *masks], merges)
    server = SymServer(z3.Const("server", th.Node))
    asked = Spans(th.fresh("asked", th.Bool))
    start = reading.Reading(SymInt(N), "s", 3, asked, server)

    def begun(out: Any) -> z3.BoolRef:
        new, [send] = out
        right = send.server is server and _reads_here(core, send.message, start)
        return z3.And(
            z3.BoolVal(right and new.open is asked),
            z3.Implies(asked.has, in_spans(send.message.spans, F)),
        )

    title = "reading.begin: asks the first server for all that is read"
    e.each(title, e.paths("reading.begin", start), begun)


def _report(
    e: Engine, phase: str, found: Any, known: z3.BoolRef, facts: Facts, merges: list[Any]
) -> None:
    """One page comes in, in this phase; `known`: what is then found makes F known."""
    core, reading = e.core, e.core.reading
    title = "reading.on_report: what is still asked, and when it is enough"
    server = SymServer(z3.Const("server", th.Node))
    bit = z3.SetAdd(NOBODY, server.z)
    heard, was_open = any_mask("heard"), Spans(th.fresh("open", th.Bool))
    asked, old = Spans(th.fresh("asked", th.Bool)), Rows.any("old")
    r = reading.Reading(SymInt(N), "s", 3, asked, server, phase, was_open, heard, old)
    after = SymInt(z3.Const("next", th.Offset))
    report = core.messages.Report(Rows.any("rows"), after)
    complete, now = after.z == -1, z3.SetUnion(heard.z, bit)
    enough = is_quorum(now)

    def reported(out: Any) -> Claims:
        new, sends = out
        idle = z3.Or(z3.BoolVal(phase == reading.ANSWERED), z3.IsMember(server.z, heard.z))
        if new is r:
            return {
                "ignored only if it was heard, or all is known": idle,
                "ignored: nothing is sent": z3.BoolVal(not sends),
            }
        answered = z3.BoolVal(new.phase == reading.ANSWERED)
        still = in_spans(new.open, F)
        return {
            "heard only if it was not": z3.Not(idle),
            "the report is merged": z3.BoolVal(new.found is found),
            "heard gains the server iff its report is complete": new.heard.z
            == z3.If(complete, now, heard.z),
            "answered only with a quorum, or if the register is not asked for any more": z3.Implies(
                answered, z3.And(complete, z3.Or(enough, z3.Not(still)))
            ),
            "answered if a quorum is heard": z3.Implies(z3.And(complete, enough), answered),
            "a register stays asked for unless it is known": z3.Implies(
                z3.And(was_open.has, z3.Not(known)), still
            ),
            "none is added": z3.Implies(still, was_open.has),
            "the next page is asked of that server, to the end": _next_page(
                core, sends, r, server, complete, z3.And(was_open.has, after.z <= F)
            ),
            "everybody is asked what is left": _widened(core, sends, new, complete),
        }

    e.each(title, e.paths("reading.on_report", r, server, report), reported, given=[
        *facts, *sizes(now)])  # fmt: skip
    right = all(m[0] is old and m[1] is report.rows and _is_bit(m[2], bit) for m in merges)
    e.claim(title, "merged with what was found, under its server", [], z3.BoolVal(right))
    merges.clear()
    if phase == reading.ANSWERED:
        over = e.paths("reading.widen", r)
        name = "reading.widen: once all is answered, nobody is asked"
        e.each(name, over, lambda out: z3.BoolVal(out[0] is r and out[1] == ()))
        return
    title = "reading.widen: asks all who were not heard, for what is open"
    for path in e.paths("reading.widen", r):
        _, [send] = path.result
        is_read = z3.BoolVal(_reads_here(core, send.message, r) and send.servers is r.servers)
        all_open = z3.Implies(was_open.has, in_spans(send.message.spans, F))
        e.claim(title, phase, path.hypotheses, z3.And(is_read, send.but == heard.z, all_open))


def _is_bit(mask: Any, bit: z3.ExprRef) -> bool:
    return bool(z3.simplify(mask.z == bit).eq(z3.BoolVal(True)))


def _next_page(core: Any, sends: Any, r: Any, server: Any, complete: Any, left: Any) -> z3.BoolRef:
    pages = [s for s in sends if not isinstance(s, ToAll)]
    if not pages:
        return complete
    [send] = pages
    right = send.server is server and _reads_here(core, send.message, r)
    spans = send.message.spans
    return z3.And(
        z3.BoolVal(right),
        z3.Not(complete),
        *[int_term(lo) < int_term(hi) for lo, hi in spans],
        z3.Implies(left, in_spans(spans, F)),
    )


def _widened(core: Any, sends: Any, new: Any, complete: Any) -> z3.BoolRef:
    wide = [s for s in sends if isinstance(s, ToAll)]
    if not wide:
        return z3.BoolVal(True)
    [send] = wide
    return z3.And(
        complete, z3.BoolVal(_reads_here(core, send.message, new)),
        send.but == new.heard.z,
        z3.Implies(in_spans(new.open, F), in_spans(send.message.spans, F)),
    )  # fmt: skip


def prove(e: Engine) -> None:
    """What is left to do, and what is asked."""
    _left_to_do(e)
    _requests(e)
    _without(e)
    _reads(e)
