"""Layer 4: replicated state machines, by the code that takes over, proposes and learns.

`writing.complete`, `close`, `Reign._insist` and `leaderless._attempt` are executed between their
calls of registers: what they learn stands, and a new leader goes on above all that was written.
"""

from __future__ import annotations

from typing import Any

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


def _learner(learned: list[tuple[Any, Any]]) -> Thing:
    def learn(address: Any, raw: Any) -> None:
        learned.append((address.offset, raw))

    return Thing(allocated=lambda *_: None, learn=learn, holds=lambda place: False)


def completing(e: Engine) -> None:
    """What a leader meets is decided, learned, and closed."""
    writing = e.core.modules["smr.writing"]
    writing.__dict__["asyncio"] = clock()
    noop, seal = word_term(writing.NOOP), word_term(writing.SEAL)
    focus: dict[str, SymInt] = {}
    writing.__dict__["range"] = lambda start, stop: focus_range(focus["at"])(start, stop)

    def completes() -> Any:
        at, size, place = (SymInt(th.fresh(name, I)) for name in ("at", "size", "place"))
        focus["at"] = at
        register = Register(at)
        learned: list[Any] = []
        learner = _learner(learned)
        learner.position = Thing(segment=0 if choose("here") else 1, offset=place)
        start = place.z if learner.position.segment == 0 else z3.IntVal(0)
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

        async def capture(*_: Any) -> Thing:
            register.attempt()
            acked.clear()
            return Thing(written=Pairs(entries), token=Thing())

        def write(offset: Any, value: Any, token: Any) -> None:
            register.attempts.append(word_term(value))
            current().facts.append(int_term(offset) == at.z)
            fails(CaptureLost("taken"), Unavailable("no majority"))
            acked.append(offset)

        segment = Thing(number=0, size=size, metadata=b"", capture=capture, write=replying(write))
        met = Thing(at=at.z, size=size.z, start=start, entries=entries, learned=learned,
                    acked=acked, register=register)  # fmt: skip
        return writing.complete(learner, segment), met

    def completed(done: Done) -> Claims:
        m = done.met
        is_entry = z3.Or(*[o.z == m.at for o, _ in m.entries])
        claims = {
            "writes only no-ops": z3.And(*[a == noop for a in m.register.attempts]),
            "and none where something is": z3.Or(
                z3.BoolVal(not m.register.attempts), z3.Not(is_entry)
            ),
            "learns only what stands": z3.And(*[_stands(m, o, v, noop) for o, v in m.learned]),
        }
        if done.error is not None:
            right = isinstance(done.error, Unavailable | Again)
            return claims | {"fails as documented": z3.BoolVal(right)}
        _, end, sealed = done.result
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
            "all below is learned": z3.Implies(
                z3.And(m.start <= m.at, m.at < end), z3.Or(*[o.z == m.at for o, _ in m.learned])
            ),
            "nothing that was written is lost": z3.BoolVal(
                all(any(v is u for _, u in m.learned) for _, v in m.entries)
            ),
        }

    title = "smr.writing.complete: a new leader learns all, and goes on above it (up to two values)"
    procedure(e, title, completes, completed)
    _closing(e, writing)


def _stands(m: Any, offset: Any, value: Any, noop: z3.ExprRef) -> z3.BoolRef:
    """What was learned is what was met there, or a no-op whose write was acknowledged."""
    met = z3.Or(*[z3.And(o.z == int_term(offset), v.z == word_term(value)) for o, v in m.entries])
    return z3.Or(met, z3.And(word_term(value) == noop, z3.BoolVal(bool(m.acked))))


def _closing(e: Engine, writing: Any) -> None:
    def closes() -> Any:
        size, end = SymInt(th.fresh("size", I)), SymInt(th.fresh("end", I))
        register = Register(end, (CaptureLost("taken"),))
        learned: list[Any] = []
        sealed = choose("sealed")
        current().facts.append(end.z <= size.z)
        segment = Thing(number=0, size=size, write=register.write)
        me = _learner(learned)
        asked: list[bool] = []

        async def complete(its: Any, whole: Any) -> Any:
            asked.append(its is me and whole is segment)
            register.attempt()
            return Thing(), end, sealed

        writing.__dict__["complete"] = complete
        met = Thing(register=register, learned=learned, sealed=sealed, end=end, size=size.z)
        met.asked = asked
        return writing.close(me, segment), met

    def closed(done: Done) -> Claims:
        m = done.met
        seal = word_term(writing.SEAL)
        claims = {
            "writes only a seal": z3.And(*[a == seal for a in m.register.attempts]),
            "learns only what stands": z3.And(*[m.register.stands(v) for _, v in m.learned]),
            "and only where the segment has a register, and none": z3.Or(
                z3.BoolVal(not m.register.attempts),
                z3.And(z3.BoolVal(not m.sealed), m.end.z < m.size),
            ),
            "completes this segment": z3.BoolVal(all(m.asked)),
            "learns it where it stands": z3.BoolVal(all(at is m.end for at, _ in m.learned)),
        }
        if done.error is not None:
            right = isinstance(done.error, Unavailable | Again)
            return claims | {"fails as documented": z3.BoolVal(right)}
        over = z3.Or(z3.BoolVal(m.sealed), m.end.z >= m.size, m.register.stands(writing.SEAL))
        return claims | {"then the segment is over": over}

    real = writing.complete
    procedure(e, "smr.writing.close: a seal stands where the segment ends", closes, closed)
    writing.__dict__["complete"] = real


def proposing(e: Engine) -> None:
    """What is proposed is learned when it stands."""
    writing, leaderless = e.core.modules["smr.writing"], e.core.modules["smr.leaderless"]
    writing.__dict__["asyncio"] = leaderless.__dict__["asyncio"] = clock()

    def insists() -> Any:
        register, raw = Register(5), SymWord(th.fresh("raw", I))
        learned: list[Any] = []

        async def write(offset: Any, value: Any, token: Any) -> None:
            register.attempt()
            await register.write(offset, value, token)

        held = Thing(segment=Thing(number=0, write=write), token=Thing())
        me = Thing(
            _loop=Thing(time=lambda: 0.0),
            _lost=[],
            _trouble=Thing(set=lambda: None),
            confirmed_at=0.0,
            _seat=Thing(learner=_learner(learned)),
        )
        met = Thing(register=register, raw=raw, learned=learned, me=me)
        return writing.Reign._insist(me, held, 5, ["packet"], raw), met

    def insisted(done: Done) -> Claims:
        m = done.met
        claims = {
            "writes one value, however often": z3.And(*[a == m.raw.z for a in m.register.attempts]),
            "learns only what stands": z3.And(*[m.register.stands(v) for _, v in m.learned]),
        }
        if done.error is not None:
            return claims | {"fails for no other reason": z3.BoolVal(isinstance(done.error, Again))}
        either = len(m.learned) + len(m.me._lost) == 1
        return claims | {"it is learned, or to be proposed again": z3.BoolVal(either)}

    title = "smr.Reign._insist: a leader's register is learned only when it stands"
    procedure(e, title, insists, insisted)

    def attempts() -> Any:
        register, raw = Register(5), SymWord(th.fresh("raw", I))
        learned: list[Any] = []
        learner = _learner(learned)
        learner.position = Address(0, 5)
        segment = Thing(number=0, size=8, capture=register.capture, write=register.write)
        me = Thing(
            _seat=Thing(learner=learner, charter=lambda: b""),
            _segment=replying(lambda number, charter: segment),
        )
        met = Thing(register=register, raw=raw, learned=learned)
        return leaderless.LeaderlessProposer._attempt(me, raw), met

    def attempted(done: Done) -> Claims:
        m = done.met
        claims = {
            "writes only its own": z3.And(*[a == m.raw.z for a in m.register.attempts]),
            "and only where nothing is": z3.BoolVal(all(m.register.after_capture)),
            "learns only what stands": z3.And(*[m.register.stands(v) for _, v in m.learned]),
        }
        if done.error is None:
            claims["true iff its own stands"] = bool_term(done.result) == m.register.stands(m.raw)
        return claims

    title = "smr.LeaderlessProposer._attempt: what it learns stands; true iff it is its own"
    procedure(e, title, attempts, attempted)


def prove(e: Engine) -> None:
    """Taking over, proposing."""
    completing(e)
    proposing(e)
