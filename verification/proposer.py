"""Layer 1, part 4: what proposers make of reports: choose, count votes, complete pages.

Reports are looked at through one arbitrary offset F (of `tallies`): a list of rows is the relation
`has(b, v, d)`, "it has a row for F with ballot b, value v and decided mark d".  What is proved of
F holds of every register, because the tables that group rows by offset are followed as they are
used: an entry is F's, or some other register's, of which nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import z3

from verification import theory as th
from verification.acceptor import value_term
from verification.loops import Claims, Engine, Facts, Invariant, Splice, Symbolic
from verification.source import Core
from verification.symex import (
    SymBallot,
    SymBool,
    SymInt,
    SymMask,
    SymValue,
    Unsupported,
    ballot_term,
    bool_term,
    current,
    int_term,
)
from verification.tallies import NOBODY, F, N, any_mask, is_quorum, sizes

Has = Callable[[Any, Any, Any], z3.BoolRef]
b, b1 = z3.Consts("b b1", th.Ballot)
v, v1 = z3.Consts("v v1", th.Value)
d, d1 = z3.Consts("d d1", th.Bool)


class Key:
    """The offsets of all rows of a sequence that is not known, where Python unpacked it."""


@dataclass(frozen=True)
class RowsMark(Splice):
    """All rows of a sequence."""

    offset: Any


class Rows(Symbolic):
    """A sequence of rows that is not known."""

    def __init__(self, has: Has) -> None:
        self.has = has

    @classmethod
    def any(cls, stem: str = "has") -> Rows:
        """An arbitrary one."""
        return cls(th.fresh_function(stem, th.Ballot, th.Value, th.Bool, th.Bool))

    @classmethod
    def none(cls) -> Rows:
        """The empty one."""
        return cls(lambda x, y, z: z3.BoolVal(False))

    def plus(self, row: Any) -> Rows:
        """This and one row more."""
        one = is_row(row)
        return Rows(lambda x, y, z: z3.Or(self.has(x, y, z), one(x, y, z)))

    def splice(self) -> Any:
        return RowsMark(self, Key())

    def __bool__(self) -> bool:
        some = th.fresh("nonempty", th.Bool)
        current().facts.append(z3.Or(some, empty(self.has)))
        return bool(SymBool(some))


def fields(row: Any) -> tuple[z3.ExprRef, z3.ExprRef, z3.BoolRef]:
    """Ballot, value and mark of a row."""
    return ballot_term(row.ballot), value_term(row.value), bool_term(row.decided)


def is_row(row: Any) -> Has:
    """What one row has to say of F."""
    ballot, value, decided = fields(row)
    here = int_term(row.offset) == F
    return lambda x, y, z: z3.And(here, x == ballot, y == value, z == decided)


def has(rows: Any) -> Has:
    """A sequence of rows, known in part or not at all."""
    if isinstance(rows, Rows):
        return rows.has
    parts = [r.sequence.has if isinstance(r, RowsMark) else is_row(r) for r in rows]
    return lambda x, y, z: z3.Or(*[part(x, y, z) for part in parts])


def any_row(core: Core, at: z3.ExprRef | None = None) -> tuple[Any, Facts]:
    """Any row."""
    row = core.messages.Row(
        SymInt(th.fresh("ro", th.Offset) if at is None else at),
        SymBallot(th.fresh("rb", th.Ballot)),
        SymValue(th.fresh("rv", th.Value)),
        SymBool(th.fresh("rd", th.Bool)),
    )
    return row, []


def once(f: Has) -> z3.BoolRef:
    """At most one row for F."""
    return z3.ForAll(
        [b, v, d, b1, v1, d1],
        z3.Implies(z3.And(f(b, v, d), f(b1, v1, d1)), z3.And(b == b1, v == v1, d == d1)),
    )


def dominates(row: Any, f: Has) -> z3.BoolRef:
    """The row is decided, or none of F's is and none has a higher ballot."""
    ballot, _, decided = fields(row)
    return z3.ForAll(
        [b, v, d],
        z3.Implies(f(b, v, d), z3.Or(decided, z3.And(z3.Not(d), th.ble(b, ballot)))),
    )


def agrees(row: Any, f: Has) -> z3.BoolRef:
    """No report of equal standing has another value: decided ones, or else of the same ballot."""
    ballot, value, decided = fields(row)
    equal = z3.If(decided, d, b == ballot)
    return z3.ForAll([b, v, d], z3.Implies(z3.And(f(b, v, d), equal), v == value))


def empty(f: Has) -> z3.BoolRef:
    """Nothing was reported for F."""
    return z3.ForAll([b, v, d], z3.Not(f(b, v, d)))


# ------------------------------------------------------------------ tables by offset


class Table:
    """A dictionary by offset that is not known, but for its entry at F (if `present`).

    The entries of other registers are made by `other`, out of nothing.
    """

    def __init__(self, present: z3.BoolRef, entry: Any, other: Callable[[Any], Any]) -> None:
        self.present = present
        self.entry = entry
        self.other = other

    def get(self, key: Any, default: Any = None) -> Any:
        """The entry, or the default."""
        if bool(SymBool(int_term(key) == F)):
            return self.entry if bool(SymBool(self.present)) else default
        return self.other(key) if bool(SymBool(th.fresh("known", th.Bool))) else default

    def __setitem__(self, key: Any, value: Any) -> None:
        if bool(SymBool(int_term(key) == F)):
            self.present, self.entry = z3.BoolVal(True), value

    def __iter__(self) -> Any:
        yield Key()

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, Key):
            return Splice(self)
        raise Unsupported("an entry that may be missing")


def table(t: Any, kind: Callable[[Any], Table]) -> Table:
    """A table as it is carried into a loop: one of ours, or made from a sequence."""
    if isinstance(t, Table):
        return t
    if not t:
        return Table(z3.BoolVal(False), None, lambda key: None)
    [entry] = t.values()
    return kind(entry)


def _row_table(core: Core) -> Table:
    entry, _ = any_row(core, F)
    return Table(th.fresh("present", th.Bool), entry, lambda key: any_row(core, key.z)[0])


def _entry_has(t: Any) -> Has:
    """What a table of rows has to say of F."""
    if isinstance(t, Table):
        if t.entry is None:
            return Rows.none().has
        ballot, value, decided = fields(t.entry)
        return lambda x, y, z: z3.And(t.present, x == ballot, y == value, z == decided)
    return has(list(t.values()))


def clashing(f: Has) -> z3.BoolRef:
    """Two reports on F contradict each other."""
    return z3.Exists(
        [b, v, d, b1, v1, d1],
        z3.And(f(b, v, d), f(b1, v1, d1), v != v1, z3.Or(b == b1, z3.And(d, d1))),
    )


def _best(seen: Rows, first: Any, now: Any, known: Any) -> Claims:
    both = Rows(_either(_entry_has(first[0]), seen.has))
    end = now[0]
    if not isinstance(end, Table):  # before the first element
        return {"as at first": z3.BoolVal(end is first[0])}
    if end.entry is None:
        return {"nothing yet": empty(both.has)}
    return {
        "is one of the reports": z3.Implies(end.present, both.has(*fields(end.entry))),
        "dominates them": z3.Implies(end.present, dominates(end.entry, both.has)),
        "is there if anything was reported": z3.Implies(z3.Not(end.present), empty(both.has)),
        "is F's": z3.Implies(end.present, int_term(end.entry.offset) == F),
        "agrees with its equals": z3.Implies(
            z3.And(end.present, once(_entry_has(first[0]))), agrees(end.entry, both.has)
        ),
    }


def _either(f: Has, g: Has) -> Has:
    return lambda x, y, z: z3.Or(f(x, y, z), g(x, y, z))


def _best_now(core: Core, carried: Sequence[Any], known: Mapping[str, Any]) -> Any:
    start = _row_table(core)
    return lambda: (Table(start.present, start.entry, start.other),)


def _among(some: Rows, every: Rows) -> Facts:
    return [z3.ForAll([b, v, d], z3.Implies(some.has(b, v, d), every.has(b, v, d)))]


def _as_rows(rows: Any) -> Rows:
    return rows if isinstance(rows, Rows) else Rows(has(rows))


# ------------------------------------------------------------------ counting votes


@dataclass
class Found(Symbolic):
    """The `found` of a reading that is not known: what it has for F.

    `reports(n, b, v, d)` is all that servers have reported of F so far.
    """

    present: z3.BoolRef
    entry: Any
    reports: Any

    def splice(self) -> Any:
        return FoundMark(self, _OffsetOnly(Key()))

    def __bool__(self) -> bool:
        some = th.fresh("nonempty", th.Bool)
        current().facts.append(z3.Or(some, z3.Not(self.present)))
        return bool(SymBool(some))


@dataclass(frozen=True)
class _OffsetOnly:
    offset: Any


@dataclass(frozen=True)
class FoundMark(Splice):
    """All entries of it."""

    row: Any


def any_found(core: Core, at: z3.ExprRef | None = None) -> Any:
    """Any entry."""
    return core.reading.Found(any_row(core, at)[0], any_mask("voters"))


n = z3.Const("n", th.Node)


def justified(present: z3.BoolRef, entry: Any, reports: Any) -> Claims:
    """The entry for F says what the reports say."""
    if entry is None:
        return {"nothing reported": z3.ForAll([n, b, v, d], z3.Not(reports(n, b, v, d)))}
    ballot, value, decided = fields(entry.row)
    voted = z3.Exists([d], reports(n, ballot, value, d))
    return {
        "every voter reported the row": z3.Implies(
            z3.And(present, z3.Not(decided)),
            z3.ForAll([n], z3.Implies(z3.IsMember(n, entry.voters.z), voted)),
        ),
        "somebody reported the row": z3.Implies(
            present, z3.Exists([n], reports(n, ballot, value, decided))
        ),
        "dominates the reports": z3.Implies(
            present,
            z3.ForAll(
                [n, b, v, d],
                z3.Implies(
                    reports(n, b, v, d), z3.Or(decided, z3.And(z3.Not(d), th.ble(b, ballot)))
                ),
            ),
        ),
        "absent only if nothing is reported": z3.Implies(
            z3.Not(present), z3.ForAll([n, b, v, d], z3.Not(reports(n, b, v, d)))
        ),
    }


def _with_reports(reports: Any, server: SymMask, rows: Has) -> Any:
    return lambda w, x, y, z: z3.Or(
        reports(w, x, y, z), z3.And(z3.IsMember(w, server.z), rows(x, y, z))
    )


def _counted(seen: Rows, first: Any, now: Any, known: Any) -> Claims:
    start, end = first[0], now[0]
    if isinstance(start, dict):
        [mark] = start.values()
        start = Table(mark.sequence.present, mark.sequence.entry, lambda key: None)
        reports = mark.sequence.reports
    else:
        raise Unsupported("a table that does not come from `found`")
    if isinstance(end, dict):
        end = start
    after = _with_reports(reports, known["bit"], seen.has)
    hypothesis = z3.And(*justified(start.present, start.entry, reports).values())
    claims = justified(end.present, end.entry, after)
    return {name: z3.Implies(hypothesis, claim) for name, claim in claims.items()}


def _found_now(core: Core, carried: Sequence[Any], known: Mapping[str, Any]) -> Any:
    present, entry = th.fresh("present", th.Bool), any_found(core, F)
    other = lambda key: any_found(core, key.z)  # noqa: E731
    return lambda: (Table(present, entry, other),)


def _none_above(seen: Rows, first: Any, now: Any, known: Any) -> Claims:
    ballot = ballot_term(known["c"].ballot)
    above = z3.ForAll([b, v, d], z3.Implies(seen.has(b, v, d), z3.Or(d, th.ble(b, ballot))))
    return {"no row of F is above the ballot, unless decided": above}


INVARIANTS = {
    "prepare.merge:0": Invariant(
        Rows.any, Rows.none, any_row, Rows.plus, _as_rows, _best_now, _best, True, _among
    ),
    "prepare.on_report:0": Invariant(
        Rows.any, Rows.none, any_row, Rows.plus, _as_rows,
        lambda core, carried, known: lambda: carried, _none_above, True, _among,
    ),
    "reading._merge:0": Invariant(
        Rows.any, Rows.none, any_row, Rows.plus, _as_rows, _found_now, _counted, True, _among
    ),
}  # fmt: skip


# ------------------------------------------------------------------ the theorems


def _choices(e: Engine) -> None:
    one, two = any_row(e.core, F)[0], any_row(e.core, F)[0]
    both = _either(is_row(one), is_row(two))
    e.each(
        "prepare.better: one of the two, decided first, then the higher ballot",
        e.paths("prepare.better", one, two),
        lambda x: {"one of them": both(*fields(x)), "dominates": dominates(x, both)},
    )
    e.each(
        "prepare.clash: iff two values under one ballot, or two decided values",
        e.paths("prepare.clash", one, two),
        lambda t: bool_term(t) == clashing(both),
    )
    best, rows = Rows.any("best"), Rows.any("rows")
    both = _either(best.has, rows.has)
    paths = e.establish("prepare.merge", best, rows)
    theorem = "prepare.merge: the best report per register; raises only if two clash"
    for i, path in enumerate(paths):
        given = [*path.hypotheses, once(best.has)]
        if path.error is not None:
            others = isinstance(path.error, e.core.prepare.ClashingReports)
            e.claim(theorem, f"path {i}: the right error", given, z3.BoolVal(others))
            here = int_term(path.error.offset) == F if others else z3.BoolVal(True)
            e.claim(theorem, f"path {i}: raised for F", [*given, here], clashing(both))
            continue
        for clause, claim in merged(_out_rows(path.result), best.has, rows.has).items():
            e.claim(theorem, f"path {i}: {clause}", given, claim)
    e.summarise("prepare.merge", _merge_summary(e.core))
    _parts(e)


def _parts(e: Engine) -> None:
    """A page is merged part by part: followed for the part that F is in, and one other."""
    theorem = "prepare.absorb: each part is merged with what the page has for it"
    page = Rows.any("page"), Rows.any("page")
    e.core.modules["prepare"].__dict__["by_part"] = lambda rows, size: tuple(enumerate(page))
    for known in ((), ((0, Rows.any("best")),), ((0, Rows.any("best")), (1, Rows.any("best")))):
        for path in e.paths("prepare.absorb", known, "rows", 4096):
            best = dict(known).get(0, Rows.none())
            given = [*path.hypotheses, once(best.has)]
            if path.error is not None:
                others = isinstance(path.error, e.core.prepare.ClashingReports)
                e.claim(theorem, "the right error", given, z3.BoolVal(others))
                continue
            for clause, claim in merged(has(dict(path.result)[0]), best.has, page[0].has).items():
                e.claim(theorem, clause, given, claim)
    e.summarise("prepare.absorb", _merge_summary(e.core))


def merged(out: Has, best: Has, rows: Has) -> Claims:
    """`out` is the best report per register of `best` and `rows`."""
    both = _either(best, rows)
    dominated = z3.Implies(
        z3.And(out(b, v, d), both(b1, v1, d1)), z3.Or(d, z3.And(z3.Not(d1), th.ble(b1, b)))
    )
    equal = z3.If(d, d1, z3.And(z3.Not(d1), b == b1))
    same = z3.Implies(z3.And(out(b, v, d), both(b1, v1, d1), equal), v == v1)
    return {
        "no report of equal standing has another value": z3.ForAll([b, v, d, b1, v1, d1], same),
        "at most one per register": once(out),
        "one of the reports": z3.ForAll([b, v, d], z3.Implies(out(b, v, d), both(b, v, d))),
        "dominates all reports": z3.ForAll([b, v, d, b1, v1, d1], dominated),
        "none only if none was reported": z3.Implies(empty(out), empty(both)),
    }


def _merge_summary(core: Core) -> Callable[[Any, Any], Any]:
    """What has just been proved of `merge`, in place of `merge`."""

    def merge(best: Any, rows: Any, part: int = 0) -> Any:
        if bool(SymBool(th.fresh("clash", th.Bool))):
            raise core.prepare.ClashingReports(0, b"")
        out = Rows.any("merged")
        known = z3.And(*merged(out.has, has(best), has(rows)).values())
        current().facts.append(z3.Implies(once(has(best)), known))
        return out

    return merge


def _out_rows(result: Any) -> Has:
    """What `merge` returned: the rows of a table, or the rows it was given."""
    if isinstance(result, Rows):
        return result.has
    [mark] = result
    return _entry_has(mark.sequence)


def _votes(e: Engine) -> None:
    found, row, bit = any_found(e.core, F), any_row(e.core, F)[0], any_mask("bit")
    reports = th.fresh_function("reports", th.Node, th.Ballot, th.Value, th.Bool, th.Bool)
    yes = z3.BoolVal(True)
    server = z3.Const("server", th.Node)
    after = _with_reports(reports, bit, is_row(row))
    same_value = z3.Implies(found.row.ballot.z == row.ballot.z, found.row.value.z == row.value.z)
    e.each(
        "reading.count_step: an entry says what was reported",
        e.paths("reading.count_step", found, row, bit),
        lambda out: justified(yes, out, after),
        given=[
            *justified(yes, found, reports).values(),
            same_value,
            bit.z == z3.SetAdd(NOBODY, server),
        ],
    )
    settled = bool_term(found.row.decided)
    higher = z3.Or(bool_term(row.decided), th.blt(found.row.ballot.z, row.ballot.z))
    again = z3.SetUnion(found.voters.z, bit.z)
    alike = found.row.ballot.z == row.ballot.z
    e.each(
        "reading.count_step: every vote for the row is counted",
        e.paths("reading.count_step", found, row, bit),
        lambda out: (
            out.voters.z
            == z3.If(
                settled,
                found.voters.z,
                z3.If(higher, bit.z, z3.If(alike, again, found.voters.z)),
            )
        ),
    )
    e.each(
        "reading.is_known: iff decided by one server's word or by a quorum's votes",
        e.paths("reading.is_known", found, SymInt(N)),
        lambda t: bool_term(t) == z3.Or(bool_term(found.row.decided), is_quorum(found.voters.z)),
        given=sizes(found.voters.z),
    )
    whole = Found(th.fresh("present", th.Bool), any_found(e.core, F), reports)
    rows = Rows.any("rows")
    paths = e.establish("reading._merge", whole, rows, SymMask(z3.SetAdd(NOBODY, server)))
    counted = _with_reports(reports, SymMask(z3.SetAdd(NOBODY, server)), rows.has)
    anybody: Has = lambda x, y, z: z3.Exists([n], counted(n, x, y, z))  # noqa: E731
    for i, path in enumerate(paths):
        given = [*path.hypotheses, once(rows.has)]
        given += justified(whole.present, whole.entry, reports).values()
        theorem = "reading._merge: every entry says what was reported"
        if path.error is not None:
            right = isinstance(path.error, e.core.prepare.ClashingReports)
            e.claim(theorem, f"path {i}: the right error", given, z3.BoolVal(right))
            here = int_term(path.error.offset) == F if right else z3.BoolVal(True)
            e.claim(theorem, f"path {i}: only if two clash", [*given, here], clashing(anybody))
            continue
        [mark] = path.result
        if isinstance(mark, e.core.reading.Found):  # nothing was found before
            f = mark.row.sequence.has
            entry = any_found(e.core, F)
            given.append(entry.voters.z == mark.voters.z)
            present = z3.Not(empty(f))
            given.append(z3.Implies(present, f(*fields(entry.row))))
        else:
            present, entry = mark.sequence.present, mark.sequence.entry
        for clause, claim in justified(present, entry, counted).items():
            e.claim(theorem, f"path {i}: {clause}", given, claim)


def prove(e: Engine) -> None:
    """Choosing and counting."""
    _choices(e)
    _votes(e)
