"""Layer 4: what a log's readers conclude, by the code: `log.reading`.

Whatever slots a search looks at, the slot that it ends at is a floor of the model in `positions`:
below it there is nothing at the position or above, for ever.  From there a cursor goes over the
slots in order, and each that it passes makes another floor.  So what `read` tells, the model tells.
"""

from __future__ import annotations

from typing import Any

import z3

from verification import theory as th
from verification.loops import Claims, Engine
from verification.procedures import Again, Done, Thing, choose, clock, procedure, replying
from verification.symex import SymInt, current, int_term
from verification.system import I
from wormspace.errors import ProtocolViolation, Trimmed

TURNS = 2
PAGE = 2


class Raw:
    """A register's value: a batch of positions [first, end)."""

    def __init__(self) -> None:
        self.first, self.end = Number.any("first"), Number.any("end")
        self.bodies = [b"body"]
        current().facts += [self.first.z >= 0, self.first.z < self.end.z]

    def __len__(self) -> int:
        return 1

    def entries(self, start: Any = 0, stop: Any = None) -> list[Any]:
        """Its entries from a position on, of which there is one at least: the first of them."""
        at = start if bool(start > self.first) else self.first
        return [Thing(position=at, batch=self)]


class Number(SymInt):
    """A position, or a slot, with which guesses are calculated: any number comes of that."""

    __slots__ = ()

    @classmethod
    def any(cls, name: str) -> Number:
        """Any number."""
        return cls(th.fresh(name, I))

    def __hash__(self) -> int:  # type: ignore[override]
        return 0  # equality decides

    def __format__(self, how: str) -> str:
        return "a number"  # for people

    def __mul__(self, other: object) -> Number:
        return Number.any("guess")

    __rmul__ = __mul__

    def __rsub__(self, other: object) -> Number:
        return Number(self.lift(other) - self.z)

    def __floordiv__(self, other: object) -> Any:
        return ("segment", self) if isinstance(other, str) else Number.any("guess")

    def __rfloordiv__(self, other: object) -> Number:
        return Number.any("guess")

    def __mod__(self, other: object) -> Any:
        return ("offset", self)


class Packs:
    """The batches that were met: what a slot holds is decided once, and the higher has the higher.

    Attributes:
        met: slot and batch of each.
    """

    def __init__(self) -> None:
        self.met: list[tuple[z3.ExprRef, Raw]] = []

    def add(self, slot: Any, raw: Raw) -> Raw:
        """One more."""
        at = int_term(slot)
        current().facts.append(at < 1 << 61)  # there are no more slots than that
        for other, batch in self.met:
            same = z3.And(batch.first.z == raw.first.z, batch.end.z == raw.end.z)
            current().facts += [
                z3.Implies(other < at, batch.end.z <= raw.first.z),
                z3.Implies(at < other, raw.end.z <= batch.first.z),
                z3.Implies(at == other, same),
            ]
        self.met.append((at, raw))
        return raw

    def floors(self, slot: Any, position: Any, begin: Any) -> z3.BoolRef:
        """A floor of the model: above a batch, at one, or where the log begins."""
        at, where = int_term(slot), int_term(position)
        return z3.Or(
            z3.And(at == int_term(begin.slot), int_term(begin.position) <= where),
            *[z3.And(at == its + 1, batch.end.z <= where) for its, batch in self.met],
            *[z3.And(at == its, batch.first.z <= where) for its, batch in self.met],
        )


# ------------------------------------------------------------------ searching


def searching(e: Engine) -> None:
    """A search ends at a floor, wherever it looks."""
    reading = e.core.modules["log.reading"]
    reading.__dict__["asyncio"] = clock()
    reading.__dict__["read_batch"] = lambda raw, slot: raw

    def bounds() -> Any:
        batches, position = Packs(), Number.any("position")
        seen = reading._Seen()
        for _ in range(choose("one seen") + choose("another seen")):
            slot = Number.any("slot")
            seen.add(slot, batches.add(slot, Raw()))
        begin = Thing(slot=Number.any("begin"), position=Number.any("begins"))
        current().facts.append(begin.position.z <= position.z)
        me = Thing(_seen=seen, trim_point=Thing(at=begin), _end=Thing(slot=0, position=0))
        if choose("an end is known"):
            slot = Number.any("slot")
            batch = batches.add(slot, Raw())
            me._end = Thing(slot=slot + 1, position=batch.end)

        async def bound() -> Any:
            return reading.Reader._bounds(me, position)

        return bound(), Thing(batches=batches, position=position, begin=begin)

    def bounded(done: Done) -> Claims:
        low, _, _ = done.result
        m = done.met
        floor = m.batches.floors(low, m.position, m.begin)
        return {"below there is nothing at the position or above": floor}

    real = reading._Bounds
    reading.__dict__["_Bounds"] = lambda low, high, guess: (low, high, guess)
    title = "log.Reader._bounds: searches from a floor of the model on (up to two batches known)"
    procedure(e, title, bounds, bounded)
    reading.__dict__["_Bounds"] = real
    _searching(e, reading)


def _searching(e: Engine, reading: Any) -> None:
    def searches() -> Any:
        position = Number.any("position")
        met = Thing(position=position.z, lows=[], asked=[], right=[], read=[], end=None)
        met.noted = []
        note = Thing(add=lambda slot, batch: met.noted.append((int_term(slot), batch)))
        me = Thing(_seen=note, _end=Thing(slot=0, position=0))

        def bounds(where: Any) -> Thing:
            if len(met.lows) > TURNS:
                raise Again
            met.asked.append(where is position)
            met.lows.append(Number.any("low"))
            guess, look = Number.any("guess"), Number.any("look")
            return Thing(
                low=met.lows[-1], high=Number.any("high"), guess=guess, probes=lambda: [look]
            )

        def tail() -> None:
            met.end = me._end = Thing(slot=Number.any("end"), position=Number.any("ends"))

        def read(number: Any, offset: Any) -> Any:
            met.right.append(number[0] == "segment" and offset == ("offset", number[1]))
            if not choose("a batch"):
                return None
            met.read.append((int_term(number[1]), Raw()))
            return met.read[-1][1]

        def segment(number: Any) -> Thing:
            return Thing(read=replying(lambda offset: read(number, offset)))

        me.segmented_log, me.tail, me._bounds = (
            Thing(size="size", segment=segment),
            replying(tail),
            bounds,
        )
        return reading.Reader._search(me, position), met

    def searched(done: Done) -> Claims:
        m = done.met
        claims = {
            "looks at the registers of slots": z3.BoolVal(all(m.right)),
            "for the position": z3.BoolVal(all(m.asked)),
            "notes each batch where it is": z3.And(
                *[
                    z3.Or(*[z3.And(at == slot, z3.BoolVal(p is batch)) for at, p in m.read])
                    for slot, batch in m.noted
                ]
            ),
        }
        if done.error is not None:
            again = z3.BoolVal(isinstance(done.error, Again))
            return claims | {"fails for no other reason": again}
        slot, batch = done.result
        at, low = int_term(slot), m.lows[-1].z
        end = z3.BoolVal(False)
        if m.end is not None:
            end = z3.And(at == m.end.slot.z, m.position >= m.end.position.z)
        claims["ends where it searches from, or at the end of all"] = z3.Or(at == low, end)
        if batch is not None:
            there = [z3.And(its == at, z3.BoolVal(p is batch)) for its, p in m.read]
            claims["and the batch is the one in that slot"] = z3.Or(*there)
        return claims

    title = "log.Reader._search: ends at a floor, wherever it looks (up to two looks)"
    procedure(e, title, searches, searched)


# ------------------------------------------------------------------ reading in order


def _page(met: Thing, slot: int, count: int) -> list[Any]:
    """What is in the next slots, which was decided or not."""
    values: list[Any] = []
    for at in range(slot, slot + count):
        value = met.values.get(at)
        if value is None and choose("written"):
            value = b"" if choose("hole") else met.batches.add(at, Raw())
        met.values[at] = value
        values.append(value)
    return values


def _passed(met: Thing, start: int, stop: int, position: z3.ExprRef) -> z3.BoolRef:
    """All slots in [start, stop) are holes, or batches that end at the position or below."""
    held = [met.values[at] for at in range(start, stop)]
    return z3.And(
        *[z3.BoolVal(v == b"") if not isinstance(v, Raw) else v.end.z <= position for v in held]
    )


def going_over(e: Engine) -> None:
    """A cursor goes over slots, and `read` tells what it meets."""
    reading = e.core.modules["log.reading"]
    reading.__dict__["read_batch"] = lambda raw, slot: raw

    def takes() -> Any:
        position, above = Number.any("position"), Number.any("above")
        cursor = reading.ReadCursor(100, position, 1, 1.0)
        cursor._above = above
        met = Thing(batches=Packs(), values={}, cursor=cursor, position=position.z, above=above.z)
        values = _page(met, 100, 1 + choose("two"))

        async def take() -> Any:
            return cursor.take(values)

        return take(), met

    def took(done: Done) -> Claims:
        m, cursor = done.met, done.met.cursor
        passed = [m.values[at] for at in range(100, cursor.slot) if at in m.values]
        if done.error is not None:
            first = [p.first.z < m.above for p in m.values.values() if isinstance(p, Raw)]
            repeats = z3.And(z3.BoolVal(isinstance(done.error, ProtocolViolation)), z3.Or(*first))
            return {"fails only if positions repeat": repeats}
        wanted, at = [], m.position
        for value in passed:
            if isinstance(value, Raw):
                wanted.append((value, at))
                at = z3.If(value.end.z > at, value.end.z, at)
        got = [(entry.batch, int_term(entry.position)) for entry in done.result]
        stops = m.values.get(cursor.slot) is None
        batches = [value for value in passed if isinstance(value, Raw)]
        return {
            "and does if they do": z3.And(*[batch.first.z >= m.above for batch in batches]),
            "and would": int_term(cursor._above) == (batches[-1].end.z if batches else m.above),
            "up to the first that is open": z3.BoolVal(stops and None not in passed),
            "to the end of all it passed": int_term(cursor.position) == at,
            "each entry from the position on, once, in order": z3.And(
                *[
                    z3.If(
                        batch.end.z > start,
                        z3.Or(*[
                            z3.And(z3.BoolVal(p is batch),
                                   x == z3.If(start > batch.first.z, start, batch.first.z))
                            for p, x in got
                        ]),
                        z3.BoolVal(all(p is not batch for p, _ in got)),
                    )
                    for batch, start in wanted
                ],
                z3.BoolVal([p for p, _ in got] == [p for p, _ in wanted if p in dict(got)]),
            ),
        }  # fmt: skip

    procedure(e, "log.ReadCursor.take: passes what is decided, and leaves no entry out (up to two)",
              takes, took)  # fmt: skip

    def reads() -> Any:
        position = Number.any("position")
        met = Thing(batches=Packs(), values={}, position=position.z, pages=0, cursor=None, asked=[])
        met.floor, met.later = 100, None
        at = Thing(position=Number.any("begins"))

        def find(where: Any) -> Any:
            met.asked.append(where is position)
            [value] = _page(met, 100, 1)
            met.found = at.position.z <= position.z  # what it rests on: the log begins below
            return 100, value if isinstance(value, Raw) and choose("read on the way") else None

        def page(cursor: Any, wanted: Any) -> Any:
            met.cursor, met.pages = cursor, met.pages + 1
            if met.pages > TURNS:
                raise Again
            return _page(met, cursor.slot, 1 + (met.pages == 1 and choose("two")))

        def cursor(slot: int, where: Any) -> Any:
            met.floor = slot
            return reading.ReadCursor(slot, where, 1, 1.0)

        def bounds(where: Any) -> Thing:
            met.asked.append(where is position)
            if met.later is None:
                met.later = choose("later slots are written")
            low, high = (110, 111) if met.later else (100, reading.MAX_POSITION)
            return Thing(low=low, high=high)  # by `_bounds`: a floor

        read = replying(lambda start, stop: _page(met, start, stop - start))
        me = Thing(
            find=replying(find), page=replying(page), segmented_log=Thing(read=read), _cursor=cursor
        )
        me.trim_point = Thing(at=at)
        me._seek = lambda where: reading.Reader._seek(me, where)
        me._bounds, me.first_batch = bounds, replying(lambda where: None)
        me._beyond_gaps = lambda where: reading.Reader._beyond_gaps(me, where)
        return reading.Reader.read(me, position), met

    def told(done: Done) -> Claims:
        m = done.met
        claims = {"of the position": z3.BoolVal(all(m.asked))}
        if done.error is not None:
            claims["fails as documented"] = z3.And(
                z3.BoolVal(isinstance(done.error, Again | Trimmed)),
                z3.BoolVal(isinstance(done.error, Trimmed)) == z3.Not(m.found),
            )
            if isinstance(done.error, Again):
                claims["goes on at a floor"] = _passed(m, m.floor, m.cursor.slot, m.position)
            return claims
        claims["the log began below"] = m.found
        decided, entry = done.result
        batches = [(at, v) for at, v in m.values.items() if isinstance(v, Raw)]
        if entry is not None:
            claims["an entry: of the batch that holds the position"] = z3.And(
                z3.BoolVal(decided is True),
                int_term(entry.position) == m.position,
                entry.batch.first.z <= m.position,
                m.position < entry.batch.end.z,
                z3.BoolVal(any(v is entry.batch for _, v in batches)),
            )
        elif decided:
            claims["a hole: up to a batch above, nothing at the position"] = z3.Or(
                *[
                    z3.And(m.position < v.first.z, _passed(m, m.floor, at, m.position))
                    for at, v in batches
                    if at >= m.floor
                ]
            )
        else:
            claims["else something is open"] = z3.BoolVal(None in m.values.values())
        return claims

    procedure(e, "log.Reader.read: tells what the model tells (up to two pages)", reads, told)


def prove(e: Engine) -> None:
    """Searching, and going over slots."""
    searching(e)
    going_over(e)
