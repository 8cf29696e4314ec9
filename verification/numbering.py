"""Layer 4: how a log's positions are given to slots, by the code: `log.sequencer`, `log.reading`.

What a sequencer hands out, and from which position a successor goes on, are the actions of the
model in `positions`: the next slot with the next positions, and a floor below which all is decided
down to the last batch.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import z3

from verification import theory as th
from verification.goals import CODE, Goal
from verification.loops import Claims, Engine
from verification.positions import (
    HANDS_OUT,
    E,
    F,
    G,
    J,
    S,
    base,
    e0,
    f0,
    positions,
    s0,
)
from verification.procedures import (
    Again,
    Done,
    Thing,
    choose,
    fails,
    procedure,
    replying,
    run,
)
from verification.symex import SymBool, SymCount, SymInt, current, int_term
from verification.system import I, W
from wormspace.errors import Trimmed, Unavailable, UsageError
from wormspace.log.messages import Ask

PACKS = 2
PAGES = 2


class Left(SymCount):
    """How many slots are left: counted down from a number that is known."""

    __slots__ = ()

    def __rsub__(self, other: object) -> Left:
        return Left(self.lift(other) - self.z)

    def __rmul__(self, other: int) -> SymInt:
        return SymInt(other * self.z)


# ------------------------------------------------------------------ handing out


def _gives(e: Engine) -> Any:
    """A sequencer that holds a term is asked for positions; others ask meanwhile."""
    term, sequencer = e.core.modules["log.term"], e.core.modules["log.sequencer"]
    size = Left(th.fresh("size", I))
    now = term._Unreserved(0, Left(th.fresh("at", I)), size, b"fence")
    current().facts += [size.z > 0, now.at.z >= 0, now.at.z <= size.z]
    held = term.Term.__new__(term.Term)
    first = SymInt(th.fresh("next", I))
    held._segmented_log, held._now, held._next = Thing(size=size), now, None
    met = Thing(size=size.z, at=now.at.z, held=held, entered=[0], others=[])
    me = met.me = sequencer.Sequencer.__new__(sequencer.Sequencer)
    me._turn, me._term, me._linked = asyncio.Lock(), held, None
    met.given_up = []
    me._table = Thing(cancel=lambda: met.given_up.append("table")) if choose("table") else None
    me._next, me._before = first, SymInt(th.fresh("before", I))
    met.next, met.before = me._next.z, me._before.z
    other = Ask((1,), 1)

    def meanwhile(*_: Any) -> Any:
        met.others.append(me.give_now(other))
        return held

    def follow() -> None:
        if held._next is None:
            met.entered.append(len(met.entered))
            held._next = term._Unreserved(met.entered[-1], Left(z3.IntVal(0)), size, b"fence")

    def extend() -> None:
        meanwhile()
        met.linked.append(me._linked)
        fails(term.Deposed("taken over"), Unavailable("no majority"))
        follow()

    def look_ahead() -> None:
        fails(term.Deposed("taken over"))

    held.extend, held.close = replying(extend), replying(lambda: met.given_up.append("term"))
    met.table = me._table is not None
    held.look_ahead = look_ahead
    me._held = me._streams = replying(meanwhile)
    me._recall = replying(lambda table, ask: met.recalled.append(table is held))
    me._link = lambda table, ask, given: (table is held and given.first is first,)
    met.recalled, met.linked = [], []
    if choose("the next segment is ready"):
        follow()
    counts = [SymInt(th.fresh("count", I)) for k in range(PACKS) if not k or choose("another")]
    named: tuple[Any, ...] = ((0, {}),) if choose("named") else ()
    ask = Ask(tuple(counts), SymInt(th.fresh("bytes", I)), named)  # type: ignore[arg-type]
    met.counts, met.bytes = [count.z for count in counts], int_term(ask.size)
    met.named = bool(named)
    total = z3.Sum(met.counts)
    met.asks = z3.And(*[count >= 1 for count in met.counts], total <= sequencer.MAX_COUNT)
    return me.give(ask), met


def handing_out(e: Engine) -> None:
    """The next slots, with the next positions."""

    def gave(done: Done) -> Claims:
        m = done.met
        claims = {
            "nobody else is given any meanwhile": z3.BoolVal(all(x is None for x in m.others))
        }
        if done.error is not None:
            documented = (m.deposed, Unavailable, UsageError)
            return claims | {
                "refused iff it asks for too few or too many": z3.BoolVal(
                    isinstance(done.error, UsageError)
                )
                == z3.Not(m.asks),
                "no position is used up": int_term(m.me._next) == m.next,
                "fails as documented": z3.BoolVal(isinstance(done.error, documented)),
                "who is deposed holds nothing": z3.BoolVal(
                    m.me._term is m.held
                    if not isinstance(done.error, m.deposed)
                    else m.me._term is m.me._table is None
                    and m.given_up == ["table"] * m.table + ["term"]
                ),
            }
        given = done.result
        begins = given.ranges[0].segment * m.size + int_term(given.ranges[0].start)
        sizes = [int_term(one.stop) - int_term(one.start) for one in given.ranges]
        return claims | {
            "from the next position on": given.first.z == m.next,
            "none is given again, and none left out": int_term(m.me._next)
            == m.next + z3.Sum(m.counts),
            "a slot for each batch": z3.Sum(sizes) == len(m.counts),
            "of at least one entry, and not too many": m.asks,
            "bytes are counted on": z3.And(
                given.before.z == m.before, int_term(m.me._before) == m.before + m.bytes
            ),
            "this is held": z3.BoolVal(m.me._term is m.held),
            "streams are linked iff some are named": z3.BoolVal(
                (m.recalled, given.links) == (([True], (True,)) if m.named else ([], ()))
            ),
            "a seal's table covers what lies below, meanwhile": z3.And(
                *[int_term(slot) == begins for slot in m.linked],
                z3.BoolVal(m.me._linked is None),
            ),
        }

    def gives() -> Any:
        work, met = _gives(e)
        met.deposed = e.core.modules["log.term"].Deposed
        return work, met

    title = "log.Sequencer.give: the next slots, with the next positions (up to two batches)"
    procedure(e, title, gives, gave)


def links(e: Engine) -> list[Goal]:
    """Each path of `Sequencer.give` is, batch by batch, the model's handing out."""
    system = positions()
    s, _, parts = system.step(HANDS_OUT)
    guard = [parts[k] for k in system.guards(HANDS_OUT)]
    number, at = z3.Ints("NUMBER AT")
    out = []

    def so_far(handed: Any, slot: z3.ExprRef, position: z3.ExprRef) -> list[z3.BoolRef]:
        """What a sequencer that hands out from this slot and position on has handed out."""
        upto = z3.And(s0 < slot, e0 <= position)
        last = z3.Exists([s0, f0], handed(W, s0, f0, position))
        return [
            z3.ForAll([s0, f0, e0], z3.Implies(handed(W, s0, f0, e0), upto)),
            z3.Or(position == G, last),
        ]

    for path in run(lambda: _gives(e)):
        done = path.result
        if path.error is not None or done.error is not None:
            continue
        m, handed = done.met, s["handed"]
        given = [
            *system.facts, *path.hypotheses, number >= 0, s["began"](W, J, G),
            *[base(number + k + 1) == base(number + k) + m.size for k in m.entered],
            *[s["entered"](W, number + k) for k in m.entered],
            at == base(number) + m.at, *so_far(handed, at, m.next),
        ]  # fmt: skip
        first = done.result.first.z
        for k, count in enumerate(m.counts):
            slot, skipped = z3.Int(f"SLOT{k}"), z3.IntVal(0)
            for one in done.result.ranges:
                size = int_term(one.stop) - int_term(one.start)
                here = base(number + one.segment) + int_term(one.start) + k - skipped
                mine = z3.And(skipped <= k, k < skipped + size)
                given.append(z3.Implies(mine, slot == here))
                skipped = skipped + size
            ready = z3.substitute(
                z3.And(*_with(guard, s["handed"], handed)),
                (S, slot), (F, first), (E, first + count),
            )  # fmt: skip
            out.append(_link(f"batch {k}", given, ready))
            handed = _plus(handed, slot, first, first + count)
            first = first + count
        now = m.held._now
        following = base(number + now.number) + int_term(now.at)
        after = so_far(handed, following, int_term(m.me._next))
        out += [_link("and so on", given, claim) for claim in after]
    return out


def _plus(handed: Any, *what: z3.ExprRef) -> Any:
    def more(*xs: z3.ExprRef) -> z3.BoolRef:
        return z3.Or(
            handed(*xs), z3.And(xs[0] == W, *[x == y for x, y in zip(xs[1:], what, strict=True)])
        )

    return more


def _with(parts: Sequence[z3.BoolRef], old: z3.FuncDeclRef, new: Any) -> list[z3.BoolRef]:
    """The formulas with another relation in place of `old`."""
    xs = [z3.Var(k, old.domain(k)) for k in range(old.arity())]
    return [z3.substitute_funs(part, (old, new(*xs))) for part in parts]


def _link(name: str, given: list[z3.BoolRef], claim: z3.BoolRef) -> Goal:
    title = "positions: what Sequencer.give hands out, the model hands out (up to two batches)"
    return Goal(title, name, list(given), claim, CODE, second=True)


# ------------------------------------------------------------------ where a successor goes on


class Slots:
    """Slots that are read page by page downwards; others write meanwhile.

    Attributes:
        known: the slots looked at, with what each holds if it is decided by now.
        pages: the pages read, each (start, stop).
    """

    def __init__(self, trim_point: Any) -> None:
        self.trim_point = trim_point
        self.known: dict[str, list[Any]] = {}
        self.pages: list[tuple[z3.ExprRef, z3.ExprRef]] = []
        self.filled: list[tuple[z3.ExprRef, z3.ExprRef]] = []

    def slot(self, at: z3.ExprRef) -> list[Any]:
        """[slot, what it holds or None]; the same list for the same slot."""
        at = z3.simplify(at)
        return self.known.setdefault(at.sexpr(), [at, None])

    def trims(self, start: Any) -> None:
        """Perhaps what is read is gone: then the trim point was set above it before."""
        if choose("Trimmed"):
            place = Thing(slot=SymInt(th.fresh("trimmed", I)), position=SymInt(th.fresh("gone", I)))
            current().facts += [
                place.slot.z > int_term(start), place.slot.z > int_term(self.trim_point.at.slot),
                place.position.z >= int_term(self.trim_point.at.position),
            ]  # fmt: skip
            self.trim_point.following = place
            raise Trimmed("trimmed")

    def read(self, start: Any, stop: Any) -> list[Any]:
        """What is in the slots; None where nothing is."""
        bounds = int_term(start), int_term(stop)
        if not self.pages or not all(x.eq(y) for x, y in zip(self.pages[-1], bounds, strict=True)):
            if len(self.pages) == PAGES:
                self.asked = bounds
                raise Again
            self.pages.append(bounds)
        self.trims(start)
        count = next(n for n in range(1, 2**PAGES) if bool(SymBool(bounds[1] - bounds[0] == n)))
        return [self._look(bounds[0] + k) for k in range(count)]

    def _look(self, at: z3.ExprRef) -> Any:
        slot = self.slot(at)
        if slot[1] is None and choose("written"):
            slot[1] = b"" if choose("hole") else Thing(end=SymInt(th.fresh("end", I)))
        return slot[1]

    def fill(self, start: Any, stop: Any) -> None:
        """All of them are decided now."""
        self.trims(start)
        self.filled.append((int_term(start), int_term(stop)))
        for slot in self.known.values():
            if slot[1] is None and bool(
                SymBool(z3.And(slot[0] >= int_term(start), slot[0] < int_term(stop)))
            ):
                slot[1] = b"" if choose("hole") else Thing(end=SymInt(th.fresh("end", I)))


def going_on(e: Engine) -> None:
    """The floor on which a successor begins."""
    reading, sequencer = e.core.modules["log.reading"], e.core.modules["log.sequencer"]
    reading.__dict__["read_batch"] = lambda raw, slot: raw

    def looks() -> Any:
        at = Thing(slot=SymInt(th.fresh("lowest", I)), position=SymInt(th.fresh("first", I)))
        trim_point = Thing(at=at, following=None)
        slots = Slots(trim_point)

        def find() -> Any:
            if trim_point.following is not None:
                trim_point.at, trim_point.following = trim_point.following, None
            return trim_point.at

        trim_point.find = replying(find)
        segmented_log = Thing(read=replying(slots.read), fill=replying(slots.fill))
        below, fill = SymInt(th.fresh("below", I)), choose("fill")
        met = Thing(slots=slots, below=below.z, fill=fill, trim_point=trim_point)
        me = Thing(trim_point=trim_point, segmented_log=segmented_log)
        return reading.Reader.last_batch(me, below, fill=fill), met

    def looked(done: Done) -> Claims:
        m = done.met
        pages, known = m.slots.pages, list(m.slots.known.values())
        claims = {
            "begins at the slot": z3.And(*[stop == m.below for _, stop in pages[:1]]),
            "holes are made only by who was asked to": z3.BoolVal(m.fill or not m.slots.filled),
        }
        if done.error is not None:
            claims["fails for no other reason"] = z3.BoolVal(isinstance(done.error, Again))
            if isinstance(done.error, Again):
                pages = [*pages, m.slots.asked]
                low = m.slots.asked[1] - 1
        elif done.result is not None:
            low = int_term(done.result[0])
            claims["it is there, for ever"] = z3.Or(
                *[z3.And(at == low, z3.BoolVal(v is done.result[1])) for at, v in known]
            )
            claims["and below the slot"] = low < m.below
        else:
            low = int_term(m.trim_point.at.slot) - 1
            ends = [start for start, _ in pages[-1:]]
            claims["else there is none down to the trim point"] = z3.Or(
                m.below <= low + 1, *[start <= low + 1 for start in ends]
            )
        claims["all above are holes" + (", for ever" if m.fill else "")] = z3.And(
            *[z3.Implies(z3.And(at > low, at < m.below), _hole(v, m.fill)) for at, v in known]
        )
        claims["no slot is passed over"] = z3.And(
            *[
                z3.Or(after[1] == before[1], after[1] == before[0])
                for before, after in itertools.pairwise(pages)
            ]
        )
        return claims

    procedure(
        e,
        "log.Reader.last_batch: the last batch below, and only holes above it (up to two pages)",
        looks,
        looked,
    )

    def goes_on() -> Any:
        first = SymInt(th.fresh("first", I))
        batch = Thing(end=SymInt(th.fresh("end", I)), before=SymInt(th.fresh("before", I)),
                     size=SymInt(th.fresh("size", I)))  # fmt: skip
        last = (SymInt(th.fresh("slot", I)), batch) if choose("a batch") else None
        at, asked = SymInt(th.fresh("slot", I)), []

        def last_batch(below: Any, *, fill: bool = False) -> Any:
            asked.append(below is at and fill)
            return last

        me = Thing(
            _reader=Thing(last_batch=replying(last_batch)),
            _trim_point=Thing(at=Thing(position=first)),
        )
        current().facts.append(first.z >= 0)
        met = Thing(me=me, last=last, first=first.z, at=at, asked=asked)
        return sequencer.Sequencer._go_on_at(me, at), met

    def went_on(done: Done) -> Claims:
        m = done.met
        following = int_term(m.me._next)
        ends = [m.first] if m.last is None else [m.first, m.last[1].end.z]
        return {
            "what is empty below is filled first": z3.BoolVal(m.asked == [True]),
            "at the end of the last batch, or at the trim point": z3.And(
                *[following >= end for end in ends], z3.Or(*[following == end for end in ends])
            ),
            "where the term begins": z3.BoolVal(m.me._began is m.at),
            "bytes are counted on": int_term(m.me._before)
            == (z3.IntVal(0) if m.last is None else m.last[1].before.z + m.last[1].size.z),
        }

    procedure(e, "log.Sequencer._go_on_at: above all that any slot below will ever hold", goes_on,
              went_on)  # fmt: skip
    _acquiring(e, sequencer)


def _hole(value: Any, decided: bool) -> z3.BoolRef:
    return z3.BoolVal(value == b"" if decided else value is None or value == b"")


def _acquiring(e: Engine, sequencer: Any) -> None:
    def acquires() -> Any:
        done: list[str] = []
        term = Thing(at=None)
        me = sequencer.Sequencer.__new__(sequencer.Sequencer)
        met = Thing(done=done, term=term, me=me, announced=None, others=[], options={})

        def acquire() -> None:
            fails(Unavailable("no majority"))
            done.append("acquired")
            term.at = SymInt(th.fresh("at", I))

        def goes_on_at(slot: Any) -> None:
            met.others.append(me.give_now(Ask((1,), 1)))
            fails(Unavailable("no majority"))
            done.append("found where to go on" if slot is term.at else "somewhere else")

        def looks_for_streams() -> str:
            done.append("looks for the streams")
            return "table"

        def may_renew() -> bool:
            met.announced = choose("no successor")
            return bool(met.announced)

        def make(segmented_log: Any, **options: Any) -> Any:
            met.options = options
            return term

        term.acquire = replying(acquire)
        sequencer.__dict__["Term"] = make
        me._term, me._turn = None, asyncio.Lock()
        me._segmented_log = Thing(space=Thing(name="s"))
        me._unsafe, me._sole = False, choose("sole")
        me._may_renew = replying(may_renew) if choose("announced") else None
        me._go_on_at = replying(goes_on_at)
        me._begin_to_rebuild = looks_for_streams
        me._next, me._linked, me._table = 0, 7, None
        return me._acquire(), met

    def acquired(done: Done) -> Claims:
        m = done.met
        claims = {
            "nothing is handed out before": z3.BoolVal(all(x is None for x in m.others)),
            "only where no successor is announced": z3.BoolVal(
                not m.done or m.announced is (True if m.me._may_renew else None)
            ),
        }
        if done.error is None:
            steps = ["acquired", "found where to go on", "looks for the streams"]
            claims["with the streams as they are found there"] = z3.BoolVal(
                m.me._table == "table" and m.me._linked is None
            )
            claims["first the right, then the position, then it is held"] = z3.BoolVal(
                m.done == steps and m.me._term is m.term is done.result
            )
            claims["in a segment of its own, unless nobody else can be there"] = z3.BoolVal(
                m.options["mixed"] is m.me._sole
            )
        else:
            claims["else nothing is held"] = z3.BoolVal(m.me._term is None)
        return claims

    real = sequencer.Term
    procedure(e, "log.Sequencer._acquire: hands out only when it knows where to go on", acquires,
              acquired)  # fmt: skip
    sequencer.__dict__["Term"] = real


def prove(e: Engine) -> None:
    """Handing out, and going on."""
    handing_out(e)
    going_on(e)
