"""Layer 4: atomic commit, by the code that votes, refuses, obeys and settles.

`Box.cast`, `Box.refuse`, `Part`, `Matter.learn` and `Resolver.settle` are executed between their
calls of registers: what they write are the two actions of the model that vote, what they tell
stands, and what was decided is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import z3

from verification import theory as th
from verification.loops import Claims, Engine
from verification.procedures import (
    Again,
    Done,
    Register,
    Thing,
    choose,
    clock,
    fails,
    finish,
    paced,
    procedure,
    replying,
)
from verification.source import Core
from verification.symex import SymBool, SymWord, bool_term, current, word_term
from wormspace.errors import (
    CaptureLost,
    PartialWrite,
    TokenReused,
    Trimmed,
    Unavailable,
    WormError,
)
from wormspace.tx import deciding

says_yes = z3.Function("says_yes", z3.IntSort(), th.Bool)
"""What a vote register's value says."""


class Codec:
    """Votes and the values that stand for them: decoding is the inverse of encoding."""

    now: ClassVar[Codec]

    def __init__(self, core: Core) -> None:
        Codec.now = self
        self.vote = core.modules["tx.deciding"].Vote
        self.terms: dict[int, SymWord] = {}
        self.votes: list[Any] = []

    def any(self, name: str = "vote") -> Any:
        """An arbitrary vote."""
        return self.decode(SymWord(th.fresh(name, z3.IntSort())))

    def encode(self, vote: Any) -> SymWord:
        """Its value."""
        if id(vote) not in self.terms:
            value = SymWord(th.fresh("value", z3.IntSort()))
            current().facts.append(says_yes(value.z) == bool_term(vote.yes))
            self.terms[id(vote)] = value
            self.votes.append(vote)
        return self.terms[id(vote)]

    def decode(self, raw: SymWord) -> Any:
        """The vote that a value stands for."""
        vote = self.vote(SymBool(says_yes(raw.z)), ("a", "b"), "", 0.0, "")
        self.terms[id(vote)] = raw
        self.votes.append(vote)
        return vote


@dataclass
class Cast:
    """A vote to be written, its register, what its voter is told, what is captured ahead."""

    register: Register
    mine: Any
    codec: Codec
    told: list[tuple[Any, Any]]
    ahead: list[Any]


def _a_vote(e: Engine) -> tuple[Thing, Cast]:
    """A `Box`, a vote to be cast in it, and the one register that this is about."""
    codec = Codec(e.core)
    register = Register(errors=(CaptureLost("taken"), TokenReused("used"), Trimmed("over")))

    def segment(*its: Any) -> Register:
        return register if its == ("m", "i", 0, 1) else Register()

    me = Thing(client=paced(), _segment=replying(segment))
    return me, Cast(register, codec.any("mine"), codec, [], [])


def _txid(number: int) -> Thing:
    return Thing(number=number, address=(0, number), initiator="i")


def _written(it: Cast) -> Claims:
    """Only the vote that was given is ever written, and only where none is."""
    value = it.codec.encode(it.mine)
    claims = {
        f"write {k}: the vote that was given": attempt == value.z
        for k, attempt in enumerate(it.register.attempts)
    }
    found_empty = all(it.register.after_capture)
    return claims | {"written only where a capture found nothing": z3.BoolVal(found_empty)}


def prove(e: Engine) -> None:
    """Casting, obeying, settling."""
    casting(e)
    obeying(e)
    settling(e)


UNKNOWN = Unavailable | Trimmed | TokenReused
"""What may be said of a vote of which it is not known whether it stands."""


def casting(e: Engine) -> None:
    """Votes are written, or those that stand are returned."""
    box = e.core.modules["tx.box"]
    box.__dict__.update(
        asyncio=clock(),
        encode=lambda vote: Codec.now.encode(vote),
        decode=lambda raw: Codec.now.decode(raw),
    )

    def refuses() -> Any:
        me, it = _a_vote(e)
        return box.Box.refuse(me, "m", _txid(0), it.mine, timeout=1), it

    def refused(done: Done) -> Claims:
        it, claims = done.met, _written(done.met)
        if done.error is None:
            stands = it.register.stands(it.codec.encode(done.result))
            return claims | {"what is returned stands": stands}
        right = isinstance(done.error, Again | UNKNOWN)
        return claims | {"fails only if its outcome is unknown": z3.BoolVal(right)}

    stands = "the vote that it tells stands; it writes only where none is"
    procedure(e, f"tx.Box.refuse: {stands}", refuses, refused)
    turn = "(up to two votes of a turn)"
    procedure(e, f"tx.Box.cast: {stands} {turn}", lambda: _casts(e, box), _told)


def _casts(e: Engine, box: Any) -> Any:
    """A vote is cast, perhaps with a neighbour; then the turn of the loop is over."""
    me, it = _a_vote(e)
    register = it.register
    at = register.at = 0 if choose("first") else 5
    pending: list[Any] = []
    key = ("m", "i", 0)

    def is_free(offset: int) -> bool:
        free = choose("free")
        if offset == at:
            register.said_empty = free
        return free

    async def write_range(first: int, votes: Any, token: Any, timeout: Any) -> None:
        fails(Unavailable("no majority"))
        results: list[Any] = []
        for offset, vote in enumerate(votes, first):
            if offset != at:
                results.append(CaptureLost("taken") if choose("lost") else None)
                continue
            try:
                await register.write(offset, vote)
            except WormError as error:
                results.append(error)
            else:
                results.append(None)
        if any(results):
            raise PartialWrite("some failed", results)

    held = box._Held(Thing(write_range=write_range), Thing(is_free=is_free))
    captured = choose("captured")
    me._held = Thing(get=lambda its: held if its == key and (captured or me.now) else None)
    me.now = False

    def capture(its: Any, timeout: float) -> None:
        fails(Unavailable("no majority"))
        me.now = its == key and timeout == 1

    me._capture = replying(capture)
    me._loop = Thing(call_soon=lambda then, *args: pending.append((then, args)))
    me._spawn = lambda work: finish(work)
    me.prepare_segment = lambda *its: it.ahead.append(its)
    for name in ("cast", "_cast_alone", "_send", "_write"):
        setattr(me, name, getattr(box.Box, name).__get__(me))

    def refuse(manager: str, txid: Any, vote: Any, *, timeout: Any) -> Any:
        """What was proved of `refuse`."""
        fails(Unavailable("no majority"), Trimmed("over"), TokenReused("used"))
        if txid.number == at:
            register.attempts.append(it.codec.encode(vote).z)
            current().facts.append(register.later())
            register.after_capture.append(True)
            return it.codec.decode(register.held)
        return vote

    me.refuse = replying(refuse)

    async def cast() -> None:
        ahead = choose("ahead")
        tell = lambda vote, error: it.told.append((vote, error))  # noqa: E731
        me.cast("m", _txid(at), it.mine, tell, ahead=ahead, timeout=1)
        if pending and choose("another"):
            other = it.codec.any("other")
            place = (1 if choose("next to it") else 5) if at == 0 else 4 * choose("next to it")
            me.cast("m", _txid(place), other, lambda *_: None, ahead=True, timeout=1)
        for then, args in pending:
            then(*args)

    return cast(), it


def _told(done: Done) -> Claims:
    it, claims = done.met, _written(done.met)
    if done.error is not None:
        return claims | {"nothing is raised": z3.BoolVal(isinstance(done.error, Again))}
    following = [("m", "i", 1)] * len(it.ahead)
    claims["only the voter's next segment is captured ahead"] = z3.BoolVal(it.ahead == following)
    claims["the voter is told, once"] = z3.BoolVal(len(it.told) == 1)
    for vote, error in it.told:
        if vote is not None:
            claims["what is told stands"] = it.register.stands(it.codec.encode(vote))
        else:
            right = isinstance(error, UNKNOWN)
            claims["an error only if its outcome is unknown"] = z3.BoolVal(right)
    return claims


# ------------------------------------------------------------------ obeying


class Work:
    """A resource manager's work, as a future: it is over by now, or by the next look at it."""

    def __init__(self) -> None:
        self.ended = choose("cancelled")
        self.error = None
        if not self.ended:
            self.error = WormError("") if choose("fails") else None

    def cancelled(self) -> bool:
        """Whether nobody knows what came of it."""
        return self.ended

    def exception(self) -> Exception | None:
        """What went wrong, if anything."""
        return self.error

    def done(self) -> bool:
        """Whether it is over."""
        return choose("done")

    def add_done_callback(self, then: Any) -> None:
        """Tell it later; or never: the process may end."""
        if choose("later"):
            then(self)


def obeying(e: Engine) -> None:
    """A resource manager's four steps."""
    parts = e.core.modules["tx.parts"]
    parts.__dict__["log"] = Thing(warning=lambda *_: None)
    parts.__dict__["asyncio"] = Thing(Future=Work)

    def a_part(it: Thing, decision: Any) -> Any:
        manager = Thing(commit=lambda gid: it.work("commit"), abort=lambda gid: it.work("abort"))
        site = Thing(
            figures={"votes_yes": 0, "votes_no": 0, "left_to_sweep": 0},
            clock=lambda: 0.0,
            space="s",
            closed=it.closed,
            manager=lambda name: manager,
            on_decision=None,
            matters=Thing(leave=lambda matter: None),
        )
        matter = Thing(
            promised=lambda part, vote: it.votes.append(vote),
            learn=lambda name, vote: it.learned.append(vote),
            on_part_over=lambda name: it.did.append("over"),
            decision=decision,
        )
        plan = Thing(id=_txid(0), participants=("a", "b"))
        return parts.Part(site, matter, plan, "a", None)

    def scene() -> Thing:
        it = Thing(did=[], votes=[], learned=[], works=[], closed=choose("closed"))

        def work(what: str) -> Work:
            it.did.append(what)
            begun = Work()
            it.works.append(begun)
            return begun

        it.work = work
        return it

    async def calling(*calls: Any) -> None:
        for call in calls:
            call()

    def prepares() -> Any:
        it = scene()
        part = a_part(it, None)
        if choose("here"):
            part._branch = Thing(prepare=lambda: it.work("prepare"))
        return calling(part.prepare), it

    def prepared(done: Done) -> Claims:
        it = done.met
        ok = bool(it.works) and not it.works[0].cancelled() and it.works[0].error is None
        return {
            "yes iff it is prepared": z3.BoolVal(all(vote.yes is ok for vote in it.votes)),
            "one vote, or none": z3.BoolVal(done.error is None and len(it.votes) <= 1),
        }

    procedure(e, "tx.Part.prepare: a yes iff the branch is prepared", prepares, prepared)

    def acts() -> Any:
        it = scene()
        outcome = deciding.Decision(SymWord(th.fresh("outcome", z3.IntSort())))  # type: ignore[arg-type]
        codec = Codec(e.core)
        it.stands, it.outcome = codec.any("stands"), outcome
        part = a_part(it, outcome if choose("known") else None)
        it.part, it.error = part, None
        if choose("error"):
            it.error = Trimmed("over") if choose("trimmed") else Unavailable("no majority")
        it.heard = choose("heard")

        def stands() -> None:
            part._on_stands(None if it.error else it.stands, it.error)

        return calling(part.act, *[stands] * it.heard, part.act), it

    def acted(done: Done) -> Claims:
        it = done.met
        committed = word_term(it.outcome.outcome) == word_term(deciding.COMMITTED)
        did = [what for what in it.did if what != "over"]
        known = isinstance(it.error, Trimmed) or it.error is None
        stood = it.heard and known
        right = [vote is it.stands or (it.error and not vote.yes) for vote in it.learned]
        obeyed = bool(it.works) and not it.works[0].cancelled() and it.works[0].error is None
        return {
            "commits only what is committed": z3.Or(z3.BoolVal("commit" not in did), committed),
            "aborts only what is not": z3.Or(z3.BoolVal("abort" not in did), z3.Not(committed)),
            "once, and only when its vote stands": z3.BoolVal(len(did) <= 1 and (not did or stood)),
            "acts when it knows": z3.BoolVal(
                bool(did) or not stood or it.part._matter.decision is None
            ),
            "learns the vote that stands": z3.BoolVal(
                done.error is None and len(right) == stood and all(right)
            ),
            "it has acted only if it obeyed": z3.BoolVal(not it.part.acted or obeyed),
        }

    procedure(e, "tx.Part.act: a resource manager does what was decided", acts, acted)
    _learning(e)


def _learning(e: Engine) -> None:
    matters = e.core.modules["tx.matters"]

    def learns() -> Any:
        codec = Codec(e.core)
        matter = matters.Matter(_txid(0), ("a", "b"), 0.0)
        heard = {name: codec.any(name) for name in ("a", "c", "b") if choose("heard")}

        async def learn() -> None:
            for name, vote in heard.items():
                matter.learn(name, vote)

        return learn(), Thing(matter=matter, heard=heard)

    def learned(done: Done) -> Claims:
        it = done.met
        votes = {name: bool_term(vote.yes) for name, vote in it.heard.items() if name != "c"}
        no = z3.Or(*[z3.Not(yes) for yes in votes.values()])
        decision = it.matter.decision
        if decision is None:
            return {"open: one is missing, and none is no": z3.And(len(votes) < 2, z3.Not(no))}
        if decision.committed:
            return {"committed: both are yes": z3.And(len(votes) == 2, z3.Not(no))}
        return {"aborted: one is no": no}

    title = "tx.Matter.learn: decides what judge decides, at once (up to two participants)"
    procedure(e, title, learns, learned)


# ------------------------------------------------------------------ settling


def settling(e: Engine) -> None:
    """`settle` collects the votes of two participants, and judges them."""
    resolver = e.core.modules["tx.resolver"]
    resolver.__dict__["asyncio"] = clock()

    def settles() -> Any:
        codec = Codec(e.core)
        registers = {name: Register() for name in ("a", "b")}

        def reads(name: str, txid: Any, *, timeout: Any) -> Any:
            register = registers[name]
            fails(Unavailable("no majority"))
            return codec.decode(register.held) if bool(SymBool(register.later())) else None

        def refuses(name: str, txid: Any, vote: Any, *, timeout: Any) -> Any:
            register = registers[name]
            register.attempts.append(bool_term(vote.yes))
            fails(Unavailable("no majority"))
            current().facts.append(register.later())  # what Box.refuse returns stands
            return codec.decode(register.held)

        known = {}
        for name, register in registers.items():
            if choose("known"):
                current().facts.append(register.written)
                known[name] = codec.decode(register.held)
        box = Thing(read=replying(reads), refuse=replying(refuses), space="s")
        me = Thing(_box=box, _timeout=1, _clock=lambda: 0.0, _by="me")
        me.refuse = lambda *args: resolver.Resolver.refuse(me, *args)
        txid = resolver.TxId("i", 0)
        return resolver.Resolver.settle(me, txid, tuple(registers), known), registers

    def settled(done: Done) -> Claims:
        registers = done.met
        yes = [z3.And(one.written, says_yes(one.held.z)) for one in registers.values()]
        no = [z3.And(one.written, z3.Not(says_yes(one.held.z))) for one in registers.values()]
        refused = [attempt for one in registers.values() for attempt in one.attempts]
        claims = {"whoever has not voted is refused": z3.And(*[z3.Not(a) for a in refused])}
        if done.error is not None:
            right = isinstance(done.error, Unavailable)
            return claims | {"fails only if a vote cannot be read": z3.BoolVal(right)}
        if done.result.committed:
            return claims | {"committed: all yes stand": z3.And(*yes)}
        return claims | {"aborted: some no stands": z3.Or(*no)}

    title = "tx.Resolver.settle: what it returns is what stands (up to two participants)"
    procedure(e, title, settles, settled)
