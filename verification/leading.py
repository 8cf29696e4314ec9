"""Layer 4: replicated state machines, by the code that takes over, proposes and learns.

`term.complete`, `close`, `Term._insist` and `leaderless._attempt` are executed between their
calls of registers: what they learn stands, and a new leader goes on above all that was written.
"""

from __future__ import annotations

from typing import Any, cast

import z3

from verification import theory as th
from verification.loops import Claims, Engine
from verification.procedures import (
    Again,
    Done,
    Pairs,
    Register,
    Thing,
    choose,
    clock,
    fails,
    focus_range,
    procedure,
    replying,
)
from verification.symex import SymInt, SymWord, bool_term, current, int_term, word_term
from verification.system import I
from wormspace.errors import CaptureLost, Unavailable
from wormspace.space import Address

HERE = 1
"""The number of the segment that this is about; there are some before and after it."""


class Learned(list[tuple[Any, Any]]):
    """What a learner is told of the segment: offsets and values.

    Attributes:
        allocated: what it is told of segments.
        elsewhere: what it is told of any other one's registers.
        learner: that tells it here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.allocated: list[tuple[Any, Any, Any]] = []
        self.elsewhere: list[Any] = []
        self.learner = Thing(learn=self._learn, allocated=self._on_allocated)

    def _learn(self, address: Any, raw: Any) -> None:
        if type(address.segment) is int and address.segment == HERE:
            self.append((address.offset, raw))
        else:
            self.elsewhere.append(address)

    def _on_allocated(self, number: Any, size: Any, metadata: Any) -> None:
        self.allocated.append((number, size, metadata))

    def right(self) -> z3.BoolRef:
        """It is told of this segment only."""
        return z3.BoolVal(not self.elsewhere)


def completing(e: Engine) -> None:
    """What a leader meets is decided, learned, and closed."""
    term = e.core.modules["smr.term"]
    term.__dict__["asyncio"] = clock()
    noop, seal = word_term(term.NOOP), word_term(term.SEAL)
    focus: dict[str, SymInt] = {}
    term.__dict__["range"] = lambda start, stop: focus_range(focus["at"])(start, stop)

    def completes() -> Any:
        at, size, place = (SymInt(th.fresh(name, I)) for name in ("at", "size", "place"))
        focus["at"] = at
        register = Register(at)
        learned = Learned()
        applied = HERE if choose("here") else HERE - 1 if choose("before") else HERE + 1
        learned.learner.position = Thing(segment=applied, offset=place)
        start = place.z if applied == HERE else z3.IntVal(0)
        entries = [
            (SymInt(th.fresh("written", I)), SymWord(th.fresh("value", I)))
            for _ in range(2)
            if choose("another")
        ]
        current().facts += [place.z >= 0, place.z <= size.z]
        current().facts += [z3.And(start <= o.z, o.z < size.z) for o, _ in entries]
        if len(entries) == 2:
            current().facts.append(entries[0][0].z != entries[1][0].z)
        acked: list[Any] = []
        rest: list[z3.BoolRef] = []
        tokens: list[Thing] = []

        async def capture(first: Any, stop: Any) -> Thing:
            register.attempt()
            acked.clear()
            rest.append(z3.And(int_term(first) == start, int_term(stop) == size.z))
            tokens.append(Thing())
            return Thing(written=Pairs(entries), token=tokens[-1])

        def write(offset: Any, value: Any, token: Any) -> None:
            rest.append(z3.BoolVal(token is tokens[-1]))
            register.attempts.append(word_term(value))
            current().facts.append(int_term(offset) == at.z)
            fails(CaptureLost("taken"), Unavailable("no majority"))
            acked.append(offset)

        segment = Thing(number=HERE, size=size, metadata=b"", capture=capture)
        segment.write = replying(write)
        met = Thing(at=at.z, size=size.z, start=start, entries=entries, learned=learned,
                    acked=acked, register=register, rest=rest, tokens=tokens)  # fmt: skip
        met.segment = [(HERE, size, b"")]
        return term.complete(learned.learner, segment), met

    def completed(done: Done) -> Claims:
        m = done.met
        is_entry = z3.Or(*[o.z == m.at for o, _ in m.entries])
        claims = {
            "writes only no-ops": z3.And(*[a == noop for a in m.register.attempts]),
            "and none where something is": z3.Or(
                z3.BoolVal(not m.register.attempts), z3.Not(is_entry)
            ),
            "learns only what stands": z3.And(*[_stands(m, o, v, noop) for o, v in m.learned]),
            "of this segment": m.learned.right(),
            "captures what was not applied here, and writes under that": z3.And(*m.rest),
        }
        if done.error is not None:
            right = isinstance(done.error, Unavailable | Again)
            return claims | {"fails as documented": z3.BoolVal(right)}
        token, end, sealed = done.result
        end = int_term(end)
        seals = [z3.And(v.z == seal) for _, v in m.entries]
        return claims | {
            "sealed iff a seal was met": bool_term(sealed) == z3.Or(*seals),
            "goes on above all that was written, or at the first seal": z3.If(
                bool_term(sealed),
                z3.And(
                    z3.Or(*[z3.And(o.z == end, v.z == seal) for o, v in m.entries]),
                    *[z3.Implies(v.z == seal, end <= o.z) for o, v in m.entries],
                ),
                z3.And(m.start <= end, *[o.z < end for o, _ in m.entries]),
            ),
            "and no further": z3.Or(
                bool_term(sealed), end == m.start, *[o.z + 1 == end for o, _ in m.entries]
            ),
            "under the capture that met it": z3.BoolVal(token is m.tokens[-1]),
            "the segment is learned": z3.BoolVal(m.learned.allocated == m.segment),
            "all below is learned": z3.Implies(
                z3.And(m.start <= m.at, m.at < end), z3.Or(*[o.z == m.at for o, _ in m.learned])
            ),
            "nothing that was written is lost": z3.BoolVal(
                all(any(v is u for _, u in m.learned) for _, v in m.entries)
            ),
        }

    title = "smr.term.complete: a new leader learns all, and goes on above it (up to two values)"
    procedure(e, title, completes, completed)
    _closing(e, term)


def _stands(m: Any, offset: Any, value: Any, noop: z3.ExprRef) -> z3.BoolRef:
    """What was learned is what was met there, or a no-op whose write was acknowledged."""
    met = z3.Or(*[z3.And(o.z == int_term(offset), v.z == word_term(value)) for o, v in m.entries])
    return z3.Or(met, z3.And(word_term(value) == noop, z3.BoolVal(bool(m.acked))))


def _closing(e: Engine, term: Any) -> None:
    def closes() -> Any:
        size, end = SymInt(th.fresh("size", I)), SymInt(th.fresh("end", I))
        register = Register(end, (CaptureLost("taken"),))
        learned = Learned()
        sealed = choose("sealed")
        current().facts.append(end.z <= size.z)
        segment = Thing(number=HERE, size=size, write=register.write)
        me = learned.learner
        asked: list[bool] = []

        async def complete(its: Any, whole: Any) -> Any:
            asked.append(its is me and whole is segment)
            register.attempt()
            return Thing(), end, sealed

        term.__dict__["complete"] = complete
        met = Thing(register=register, learned=learned, sealed=sealed, end=end, size=size.z)
        met.asked = asked
        return term.close(me, segment), met

    def closed(done: Done) -> Claims:
        m = done.met
        seal = word_term(term.SEAL)
        claims = {
            "writes only a seal": z3.And(*[a == seal for a in m.register.attempts]),
            "learns only what stands": z3.And(*[m.register.stands(v) for _, v in m.learned]),
            "and only where the segment has a register, and none": z3.Or(
                z3.BoolVal(not m.register.attempts),
                z3.And(z3.BoolVal(not m.sealed), m.end.z < m.size),
            ),
            "completes this segment": z3.BoolVal(all(m.asked)),
            "learns it where it stands": z3.And(
                m.learned.right(), z3.BoolVal(all(at is m.end for at, _ in m.learned))
            ),
        }
        if done.error is not None:
            right = isinstance(done.error, Unavailable | Again)
            return claims | {"fails as documented": z3.BoolVal(right)}
        over = z3.Or(z3.BoolVal(m.sealed), m.end.z >= m.size, m.register.stands(term.SEAL))
        ended = z3.Or(z3.BoolVal(m.sealed), m.end.z >= m.size)
        return claims | {
            "then the segment is over": over,
            "its own seal is learned": z3.Or(ended, z3.BoolVal(len(m.learned) == 1)),
        }

    real = term.complete
    procedure(e, "smr.term.close: a seal stands where the segment ends", closes, closed)
    term.__dict__["complete"] = real


def proposing(e: Engine) -> None:
    """What is proposed is learned when it stands."""
    term, leaderless = e.core.modules["smr.term"], e.core.modules["smr.leaderless"]
    term.__dict__["asyncio"] = leaderless.__dict__["asyncio"] = clock()

    def insists() -> Any:
        register, raw = Register(5), SymWord(th.fresh("raw", I))
        learned = Learned()
        times, trouble = [th.fresh("time", I)], []

        def time() -> SymInt:
            times.append(th.fresh("time", I))
            return SymInt(times[-1])

        async def write(offset: Any, value: Any, token: Any) -> None:
            register.attempt()
            await register.write(offset, value, token)

        held = Thing(segment=Thing(number=HERE, write=write), token=Thing())
        me = Thing(
            _loop=Thing(time=time),
            _lost=[],
            _trouble=Thing(set=lambda: trouble.append(True)),
            confirmed_at=SymInt(times[0]),
            _context=Thing(learner=learned.learner),
        )
        met = Thing(register=register, raw=raw, learned=learned, me=me, times=times)
        met.trouble = trouble
        return term.Term._insist(me, held, 5, ["packet"], raw), met

    def insisted(done: Done) -> Claims:
        m = done.met
        claims = {
            "writes one value, however often": z3.And(*[a == m.raw.z for a in m.register.attempts]),
            "learns only what stands": z3.And(*[m.register.stands(v) for _, v in m.learned]),
        }
        if done.error is not None:
            return claims | {"fails for no other reason": z3.BoolVal(isinstance(done.error, Again))}
        lost = bool(m.trouble)
        asked = z3.If(m.times[0] < m.times[-1], m.times[-1], m.times[0])
        return claims | {
            "it is learned, at its place": z3.BoolVal(
                [at for at, _ in m.learned] == [5] * (not lost) and not m.learned.elsewhere
            ),
            "or it is noted what to propose again": z3.BoolVal(
                m.me._lost == [(Address(HERE, 5), ["packet"])] * lost
            ),
            "its leader was one when it asked for what was granted": int_term(m.me.confirmed_at)
            == (m.times[0] if lost else asked),
        }

    title = "smr.Term._insist: a leader's register is learned only when it stands"
    procedure(e, title, insists, insisted)

    def attempts() -> Any:
        place, size = SymInt(th.fresh("place", I)), SymInt(th.fresh("size", I))
        held = 0 if not choose("held") else 1 if not choose("another") else 2
        at, raw = place + held, SymWord(th.fresh("raw", I))
        register, learned, reached = Register(at), Learned(), list[Any]()
        right: list[z3.BoolRef] = []

        def holds(address: Any) -> bool:
            right.append(z3.BoolVal(address.segment == HERE))
            return bool(address.offset < at)

        def segment(number: Any, segment_metadata: Any) -> Thing:
            right.append(z3.BoolVal(number == HERE and segment_metadata == b"metadata"))
            return Thing(number=HERE, size=size, capture=capture, write=write)

        def capture(offset: Any) -> Any:
            right.append(z3.And(int_term(offset) == at.z, at.z < size.z))
            return register.capture(offset)

        def write(offset: Any, value: Any, token: Any) -> Any:
            right.append(z3.And(int_term(offset) == at.z, z3.BoolVal(token is register.token)))
            return register.write(offset, value)

        learner = learned.learner
        learner.__dict__.update(
            position=Address(HERE, cast(int, place)), holds=holds, reached=replying(reached.append)
        )
        me = Thing(
            _context=Thing(learner=learner, segment_metadata=lambda: b"metadata"),
            _segment=replying(segment),
        )
        met = Thing(register=register, raw=raw, learned=learned, right=right, reached=reached)
        met.full = at.z >= size.z
        return leaderless.LeaderlessProposer._attempt(me, raw), met

    def attempted(done: Done) -> Claims:
        m = done.met
        claims = {
            "writes only its own": z3.And(*[a == m.raw.z for a in m.register.attempts]),
            "and only where nothing is": z3.BoolVal(all(m.register.after_capture)),
            "learns only what stands": z3.And(
                m.learned.right(),
                *[int_term(at) == m.register.at.z for at, _ in m.learned],
                *[m.register.stands(v) for _, v in m.learned],
            ),
            "tries the first register that it does not know": z3.And(*m.right),
        }
        if done.error is None:
            claims["true iff its own stands"] = z3.And(
                z3.Implies(bool_term(done.result), m.register.stands(m.raw)),
                z3.Implies(m.register.stands(m.raw), z3.Or(bool_term(done.result), m.full)),
            )
            claims["learns what it met, or waits for the next segment"] = z3.If(
                m.full,
                z3.BoolVal(not m.learned and m.reached == [Address(HERE + 1, 0)]),
                z3.BoolVal(len(m.learned) == 1 and not m.reached),
            )
        return claims

    title = "smr.LeaderlessProposer._attempt: what it learns stands; true iff it is its own"
    procedure(e, title, attempts, attempted)


def prove(e: Engine) -> None:
    """Taking over, proposing."""
    completing(e)
    proposing(e)
