"""Layer 4: one value under one ballot, by what a client remembers of what it sent.

One register F under one ballot is looked at, which stand for any; w is what was sent for F under
it, if anything was.  The invariant (`State.remembered`): what was sent is among the open writes, or
among those in doubt (as a digest), or settled, which means that F holds it; or all of this was
forgotten, and then the client knows that it was: it *reads first* if F holds w, and *refuses* if
nobody knows.  Every step of the client is executed on any state that satisfies it: what the step
sends is w, if there is a w, and the state satisfies it again.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from verification import theory as th
from verification.loops import Claims, Engine
from verification.procedures import Done, Pairs, Thing, choose, fails, focus_range, procedure
from verification.symex import (
    SymBool,
    SymCount,
    SymInt,
    SymWord,
    bool_term,
    current,
    int_term,
    word_term,
)
from wormspace.errors import AlreadyWritten, CaptureLost, TokenReused, Unavailable
from wormspace.paxos.ballot import UNSAFE

ARRAY, BALLOT = ("space", 7), b"\x01" * 16
I = z3.IntSort()  # noqa: E741
_digest = z3.Function("digest", I, I)
_preimage = z3.Function("preimage", I, I)


class Number(SymInt):
    """A number that a message to people may name."""

    __slots__ = ()

    def __format__(self, _: str) -> str:
        return "some"


def number(stem: str) -> SymInt:
    """Any number."""
    return Number(th.fresh(stem, I))


def word(stem: str) -> Any:
    """Any value."""
    return SymWord(th.fresh(stem, I))


def truth(stem: str) -> z3.BoolRef:
    """Either."""
    return th.fresh(stem, th.Bool)


def digest(value: Any) -> SymWord:
    """Of two values, two digests."""
    term = word_term(value)
    current().facts.append(_preimage(_digest(term)) == term)
    return SymWord(_digest(term))


class Offsets:
    """A set of offsets, of which is known whether F is in it."""

    def __init__(self, at: SymInt, has: z3.BoolRef) -> None:
        self.at, self.has = at, has

    def add_span(self, lo: Any, hi: Any) -> None:
        """Put [lo, hi) into it."""
        inside = z3.And(int_term(lo) <= self.at.z, self.at.z < int_term(hi))
        self.has = z3.Or(self.has, inside)

    def __contains__(self, offset: Any) -> bool:
        here = z3.And(offset.z == self.at.z, self.has)
        return bool(SymBool(z3.If(offset.z == self.at.z, here, truth("another is settled"))))


class State:
    """What was sent for F under the ballot, and what the client remembers of it: any such state.

    Attributes:
        sent: whether w was sent.
        old: whether that was before `writes` was opened.
        decided: whether F holds a value by now; `held` is that value.
        taken: whether the token says that F was written before.
    """

    def __init__(self, memory: Any, ballot: bytes = BALLOT) -> None:
        self.at, self.w, self.held = number("F"), word("w"), word("held")
        self.sent, self.decided, self.old = truth("sent"), truth("decided"), truth("old")
        self.taken = truth("taken")
        self.writes = memory.BallotWrites(Thing(check=lambda value: None), ARRAY, ballot)
        self.writes.end_of_turn = Thing(request=lambda: None)
        self.forgotten, self.refused = truth("forgotten"), truth("refused")
        self.writes.is_forgotten = SymBool(self.forgotten)
        self.writes.is_refused = SymBool(self.refused)
        before = z3.Implies(self.old, z3.And(self.sent, z3.Or(self.stands(), self.refused)))
        nothing = z3.And(z3.Not(self.sent), self.decided)
        current().facts += [before, z3.Implies(self.taken, nothing)]
        self._remember()

    def stands(self) -> z3.BoolRef:
        """F holds w."""
        return z3.And(self.decided, self.w.z == self.held.z)

    def _remember(self) -> None:
        """Any memory of it that satisfies the invariant."""
        issued = self.writes.issued
        issued.open, issued.doubt = Pairs([]), Pairs([])
        if choose("open"):
            issued.open[self.at] = self.w
        elif choose("in doubt"):
            issued.doubt[self.at] = digest(self.w)
        issued.decided = Offsets(self.at, truth("settled"))
        current().facts.append(self.remembered(self.sent, self.w))

    def remembered(self, sent: z3.BoolRef, w: SymWord) -> z3.BoolRef:
        """The invariant, of the memory as it is now, w having been sent if `sent`."""
        issued = self.writes.issued
        is_open = [w.z == word_term(v) for k, v in issued.open.items() if k is self.at]
        doubt = [_digest(w.z) == word_term(v) for k, v in issued.doubt.items() if k is self.at]
        settled = issued.decided.has
        known = z3.Or(z3.BoolVal(bool(is_open or doubt)), settled)
        past = z3.And(self.old, z3.Or(z3.And(self.forgotten, self.stands()), self.refused))
        held = z3.And(self.decided, w.z == self.held.z)
        return z3.And(
            z3.Implies(sent, z3.Or(known, past)),
            z3.Implies(known, z3.And(sent, z3.Not(self.refused), *is_open, *doubt)),
            z3.Implies(settled, held),
        )

    def later(self) -> None:
        """Other calls have done what they do; the writes were not forgotten meanwhile."""
        was = self.sent, self.decided, self.writes.issued.decided.has
        self.sent, self.decided = truth("sent"), truth("decided")
        self._remember()
        now = self.sent, self.decided, self.writes.issued.decided.has
        current().facts += [z3.Implies(a, b) for a, b in zip(was, now, strict=True)]
        current().facts.append(z3.Implies(self.taken, z3.Not(self.sent)))


# ------------------------------------------------------------------ what was issued


def remembering(e: Engine) -> None:
    """`Issued`: each step keeps the invariant."""
    memory = e.core.modules["registers.paxos.memory"]
    issued = e.core.modules["registers.paxos.issued"].__dict__
    issued["_digest"] = digest

    def step(act: str) -> Any:
        state = State(memory)
        issued["range"] = focus_range(state.at)
        here = choose("F")
        offset, value, upto = state.at if here else number("offset"), word("value"), number("upto")
        if not here:
            current().facts.append(offset.z != state.at.z)
        current().facts.append(z3.Not(state.refused))
        it = state.writes.issued

        async def work() -> Any:
            if act == "issue":
                return bool(it.issue(offset, value))
            if act == "give_up":
                return it.give_up(offset)
            inside = z3.And(offset.z <= state.at.z, state.at.z < upto.z)
            current().facts.append(z3.Implies(inside, z3.And(state.sent, state.stands())))
            return it.decide([(offset, upto)])

        return work(), (state, here, value)

    def issue(done: Done) -> Claims:
        state, here, value = done.met
        if not here:
            kept = state.remembered(state.sent, state.w)
            return {"of another register: F is as before": kept}
        same = z3.Implies(state.sent, value.z == state.w.z)
        known = z3.Or(state.writes.issued.decided.has, z3.And(state.sent, state.old))
        if not done.result:
            kept = state.remembered(state.sent, state.w)
            return {"refused: another value was sent": z3.Not(same), "nothing changes": kept}
        return {
            "passed: no other value was sent, or that is settled": z3.Or(known, same),
            "passed: it is remembered": z3.Implies(
                z3.Not(known), state.remembered(z3.BoolVal(True), value)
            ),
        }

    def kept(done: Done) -> Claims:
        state, *_ = done.met
        return {"it is remembered": state.remembered(state.sent, state.w)}

    title = "one value: register.Issued"
    procedure(e, f"{title}.issue: passes nothing but what was sent", lambda: step("issue"), issue)
    for act, what in (("give_up", "a doubt is kept as a doubt"), ("decide", "only what stands")):
        procedure(e, f"{title}.{act}: {what}", partial(step, act), kept)


# ------------------------------------------------------------------ what was forgotten


def forgetting(e: Engine) -> None:
    """What was forgotten is known as forgotten, for ever."""
    memory = e.core.modules["registers.paxos.memory"]

    def adds(mine: bool) -> Any:
        it = memory._Forgotten()
        group, rank = number("group"), SymCount(th.fresh("rank", I))
        other, highest = number("other"), SymCount(th.fresh("highest", I))
        memory.__dict__["KNOBS"] = Thing(registers_groups=number("groups"))
        it._highest = Pairs([(number("some"), highest)] if choose("some") else [])
        anywhere, another = (SymCount(th.fresh(name, I)) for name in ("anywhere", "another"))
        current().facts += [r.z >= 0 for r in (rank, highest, anywhere, another)]
        it._anywhere = anywhere if choose("many") else None

        async def work() -> Any:
            if mine:
                it.add(group, rank)
                return it.has(group, rank)
            if not it.has(group, rank):
                return True
            it.add(other, another)
            return it.has(group, rank)

        return work(), it

    def kept(done: Done) -> Claims:
        return {"it is known": bool_term(done.result)}

    title = "one value: register.memory: what was forgotten is known as that (up to two groups)"
    procedure(e, f"{title}: at once", lambda: adds(True), kept)
    procedure(e, f"{title}: whatever is added later", lambda: adds(False), kept)
    _past(e, memory)
    _opening(e, memory)


def _past(e: Engine, memory: Any) -> None:
    def adds() -> Any:
        said: list[Any] = []
        it = memory._Past.__new__(memory._Past)
        for name in ("_tokens", "_unsafe"):
            note = lambda *pair, name=name: said.append((name, *pair))  # noqa: E731
            it.__dict__[name] = Thing(add=note, has=note)
        ballot = UNSAFE if choose("unsafe") else BALLOT

        async def work() -> Any:
            it.add(ARRAY, ballot)
            return it.has(ARRAY, ballot)

        return work(), said

    def alike(done: Done) -> Claims:
        [noted, asked] = done.met
        return {"asked as it was noted": z3.BoolVal(noted == asked)}

    title = "one value: register.memory._Past: what is asked is what was noted"
    procedure(e, title, adds, alike)


def _opening(e: Engine, memory: Any) -> None:
    """Room is made by forgetting others, which is noted."""

    def opens() -> Any:
        noted: list[Any] = []
        it = memory.Memory.__new__(memory.Memory)
        was = {name: truth(name) for name in ("decided", "in doubt")}

        def past(name: str) -> Thing:
            return Thing(
                add=lambda *key: noted.append((name, key)), has=lambda *key: SymBool(was[name])
            )

        it._decided, it._in_doubt = past("decided"), past("in doubt")
        keys = [("mine", (ARRAY, BALLOT)), ("other", (ARRAY, UNSAFE))]
        it.writes = {key: _some_writes(memory, *key) for name, key in keys if choose(name)}
        met = Thing(it=it, noted=noted, was=was, before=dict(it.writes))
        met.room = 1 if choose("few") else 2
        memory.__dict__["KNOBS"] = Thing(registers_memory=met.room)
        fresh = (("another", 8), BALLOT)

        async def work() -> Any:
            return it.open(Thing(), *fresh)

        met.fresh = fresh
        return work(), met

    def right(done: Done) -> Claims:
        met, new = done.met, done.result
        gone = {key: w for key, w in met.before.items() if key not in met.it.writes}
        kept = all(met.it.writes[k] is w for k, w in met.before.items() if k not in gone)
        noted = {key: [name for name, k in met.noted if k == key] for key in gone}
        crowded = len(met.before) >= 2 * met.room
        return {
            "what is under way stays": z3.BoolVal(not any(w.is_under_way for w in gone.values())),
            "all that goes is noted, a doubt as one": z3.BoolVal(
                all(noted[k] == (["in doubt"] if w.issued.doubt else ["decided"])
                    for k, w in gone.items())
            ),
            "doubts go only where it is crowded": z3.BoolVal(
                crowded or not any(w.issued.doubt for w in gone.values())
            ),
            "the others stay, as they are": z3.BoolVal(kept and len(met.noted) == len(gone)),
            "the new one is there, and empty": z3.BoolVal(
                met.it.writes[met.fresh] is new
                and not (new.issued.open or new.issued.doubt or new.is_under_way)
                and (new.segment_name, new.ballot) == met.fresh
            ),
            "reads first iff it may have been forgotten": new.is_forgotten.z == met.was["decided"],
            "refuses iff there may be a doubt": new.is_refused.z == met.was["in doubt"],
        }  # fmt: skip

    title = "one value: register.Memory.open: only what can be is forgotten, and noted (up to two)"
    procedure(e, title, opens, right)


def _some_writes(memory: Any, segment_name: Any, ballot: bytes) -> Any:
    writes = memory.BallotWrites(Thing(), segment_name, ballot)
    if choose("in doubt"):
        writes.issued.doubt[4] = b"digest"
    if choose("open"):
        writes.issued.open[3] = b"value"
    elif choose("comparing"):
        writes.comparing = 1
    elif choose("gathering"):
        writes.gathering = Thing()
    return writes


# ------------------------------------------------------------------ writing


def writing(e: Engine) -> None:
    """`PaxosRegisters.write`, to its end: nothing but w is ever handed to an operation."""
    memory = e.core.modules["registers.paxos.memory"]
    registers = e.core.modules["registers.paxos.client"]
    e.core.modules["registers.paxos.issued"].__dict__["_digest"] = digest

    def writes(ballot: bytes) -> Any:
        state, value = State(memory, ballot), word("value")
        met = Thing(state=state, value=value, sends=[], reads=[], opened=[])

        def add(offset: Any, given: Any, deadline: Any) -> Any:
            met.sends.append((offset, given, state.sent, state.w))
            return _nothing()

        operation = Thing(add=add, is_full=SymBool(truth("full")), begin=lambda: None)
        memory.__dict__["WriteOperation"] = lambda *args: operation
        present = choose("present")
        state.writes.gathering = operation if present and choose("gathering") else None

        async def read(segment_name: Any, spans: Any, deadline: Any) -> Any:
            fails(Unavailable("no majority"))
            [(lo, hi)] = spans
            at_call = state.decided
            aimed = z3.And(lo.z == state.at.z, hi.z == state.at.z + 1)
            met.reads.append((segment_name == ARRAY and state.writes.comparing > 0, aimed))
            state.later()
            if choose("empty"):
                current().facts.append(z3.Not(at_call))
                return Pairs([])
            current().facts.append(state.decided)
            return Pairs([(state.at, state.held)])

        def opened(partition: Any, segment_name: Any, ballot: Any) -> Any:
            met.opened.append((segment_name, ballot))
            return state.writes

        me = Thing(
            _closed=False,
            _at=lambda segment_name: Thing(),
            _memory=Thing(writes={(ARRAY, ballot): state.writes} if present else {}, open=opened),
            _tasks=Thing(begin=lambda work: work),
            read=read,
        )
        shipped = registers.PaxosRegisters
        me._issue = lambda *args: shipped._issue(me, *args)
        me._compare_first = lambda *args: shipped._compare_first(me, *args)
        token = Thing(
            require=lambda segment_name, offset: None,
            fence=ballot,
            taken=SymBool(truth("some are taken")),
            is_free=lambda offset: SymBool(z3.Not(state.taken)),
        )
        current().facts.append(z3.Implies(state.taken, token.taken.z))
        if ballot == UNSAFE:
            current().facts.append(z3.Not(state.taken))

        async def work() -> Any:
            given = None if ballot == UNSAFE else token
            return await shipped.write(me, ARRAY, given, state.at, value, 0)

        met.key = (ARRAY, ballot)
        return work(), met

    title = "one value: PaxosRegisters.write: sends what was sent before, or nothing was"
    for ballot in (BALLOT, UNSAFE):
        procedure(e, title, partial(writes, ballot), _wrote)


async def _nothing() -> None:
    """The operation's outcome; it is looked at by itself."""


def _wrote(done: Done) -> Claims:
    met, error = done.met, done.error
    state, value = met.state, met.value
    claims: Claims = {
        "it ends as documented": z3.BoolVal(
            error is None
            or isinstance(error, AlreadyWritten | CaptureLost | TokenReused | Unavailable)
        ),
        "it is opened as what it is": z3.BoolVal(all(key == met.key for key in met.opened)),
        "it reads that very register": z3.And(*[aimed for _, aimed in met.reads]),
        "what reads first is not forgotten meanwhile": z3.BoolVal(all(ok for ok, _ in met.reads)),
        "one message": z3.BoolVal(len(met.sends) <= 1),
    }
    for offset, given, sent, w in met.sends:
        claims |= {
            "sent: what is asked for": z3.And(offset.z == state.at.z, given.z == value.z),
            "sent: what was sent before, or nothing was": z3.Implies(sent, given.z == w.z),
            "sent: not what the token says is taken": z3.Not(state.taken),
            "sent: it is remembered": state.remembered(z3.BoolVal(True), given),
        }
    if not met.sends:
        claims["nothing sent: the memory is as before"] = state.remembered(state.sent, state.w)
        if error is None:
            stands = z3.And(state.decided, state.held.z == value.z)
            claims["done, nothing sent: the register holds it"] = stands
    if isinstance(error, AlreadyWritten):
        claims["already written: with another value"] = state.held.z != value.z
    if isinstance(error, TokenReused):
        claims["reused: another value was sent"] = z3.And(state.sent, state.w.z != value.z)
    if isinstance(error, CaptureLost):
        claims["lost: only where a doubt was forgotten"] = state.refused
    return claims


def prove(e: Engine) -> None:
    """One value under one ballot, by what one client remembers."""
    remembering(e)
    forgetting(e)
    writing(e)
