"""Layer 4: atomic commit, by the code that votes, refuses and settles.

`VoteStore.cast`, `VoteStore.refuse` and `Resolver.settle` are executed between their calls of
registers: what they write are the two actions of the model that vote, and what they tell stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

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
from verification.symex import SymBool, SymWord, bool_term, current
from wormspace.errors import (
    CaptureLost,
    PartialWrite,
    TokenReused,
    Trimmed,
    Unavailable,
    WormError,
)
from wormspace.tx.names import Gid

SEGMENT_SIZE = 1024
"""Registers of a vote segment; nothing here depends on how many."""

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
    """A `VoteStore`, a vote to be cast in it, and the one register that this is about."""
    codec = Codec(e.core)
    register = Register(errors=(CaptureLost("taken"), TokenReused("used"), Trimmed("over")))

    def segment(*its: Any) -> Register:
        return register if its == ("m", "i", 0, 1) else Register()

    home = Thing(segment_size=SEGMENT_SIZE)
    me = Thing(client=paced(), _segment=replying(segment), home=home, open=replying(lambda _: home))
    return me, Cast(register, codec.any("mine"), codec, [], [])


def fields(vote: Any) -> tuple[Any, ...]:
    """All that a vote says."""
    says = (vote.yes, vote.participants, vote.gid, vote.at, vote.by, vote.reason, vote.conflict)
    return cast(tuple[Any, ...], says)


def txid_of(number: int) -> Thing:
    """A transaction's name, in the first segment."""
    return Thing(number=number, address=lambda size: divmod(number, size), initiator="i")


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
    """Casting, settling."""
    casting(e)
    settling(e)


UNKNOWN = Unavailable | Trimmed | TokenReused
"""What may be said of a vote of which it is not known whether it stands."""


def casting(e: Engine) -> None:
    """Votes are written, or those that stand are returned."""
    vote_store = e.core.modules["tx.vote_store"]
    vote_store.__dict__.update(
        asyncio=clock(),
        left=lambda deadline: deadline,
        encode=lambda vote: Codec.now.encode(vote),
        decode=lambda raw: Codec.now.decode(raw),
    )

    def refuses() -> Any:
        me, it = _a_vote(e)
        return vote_store.VoteStore.refuse(me, "m", txid_of(0), it.mine, deadline=1), it

    def refused(done: Done) -> Claims:
        it, claims = done.met, _written(done.met)
        if done.error is None:
            stands = it.register.stands(it.codec.encode(done.result))
            return claims | {"what is returned stands": stands}
        right = isinstance(done.error, Again | UNKNOWN)
        return claims | {"fails only if its outcome is unknown": z3.BoolVal(right)}

    stands = "the vote that it tells stands; it writes only where none is"
    procedure(e, f"tx.VoteStore.refuse: {stands}", refuses, refused)
    turn = "(up to two votes of a turn)"
    procedure(e, f"tx.VoteStore.cast: {stands} {turn}", lambda: _casts(e, vote_store), _told)


def _casts(e: Engine, vote_store: Any) -> Any:
    """A vote is cast, perhaps with a neighbour; then the turn of the loop is over."""
    me, it = _a_vote(e)
    register = it.register
    at = register.at = 0 if choose("first") else 600
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

    segment = Thing(write_range=write_range, size=SEGMENT_SIZE, number=0)
    held = vote_store.CapturedSegment(segment, Thing(is_free=is_free))
    captured = choose("captured")
    me._held = Thing(get=lambda its: held if its == key and captured else None)

    def capture(its: Any, deadline: float) -> Any:
        fails(Unavailable("no majority"))
        assert its == key and deadline == 1  # noqa: PT018
        return held

    me._capture = replying(capture)
    me._batcher = Thing(add=lambda held, ballot: pending.append(ballot))
    me._tasks = Thing(spawn=lambda work: finish(work))
    me.prepare_segment = lambda *its: it.ahead.append(its)
    for name in ("cast", "_put", "_cast_alone", "_send", "_write"):
        setattr(me, name, getattr(vote_store.VoteStore, name).__get__(me))

    def refuse(manager: str, txid: Any, vote: Any, *, deadline: Any) -> Any:
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
        me.cast("m", txid_of(at), it.mine, tell, ahead=ahead, deadline=1)
        if pending and choose("another"):
            other = it.codec.any("other")
            near = choose("next to it")
            place = (1 if near else 5) if at == 0 else 599 if near else 0
            me.cast("m", txid_of(place), other, lambda *_: None, ahead=True, deadline=1)
        if pending:
            me._send(held, pending)

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


# ------------------------------------------------------------------ settling


def settling(e: Engine) -> None:
    """`settle` collects the votes of two participants, and judges them."""
    resolver = e.core.modules["tx.resolver"]
    resolver.__dict__.update(asyncio=clock(), within=lambda timeout: timeout)

    def settles() -> Any:
        codec = Codec(e.core)
        registers = {name: Register() for name in ("a", "b")}
        right: list[bool] = []

        def reads(name: str, txid: Any, *, deadline: Any) -> Any:
            register = registers[name]
            fails(Unavailable("no majority"))
            return codec.decode(register.held) if bool(SymBool(register.later())) else None

        def refuses(name: str, txid: Any, vote: Any, *, deadline: Any) -> Any:
            register = registers[name]
            register.attempts.append(bool_term(vote.yes))
            gid = f"worm2:1d:s:{name}:i-0"
            no = (False, ("a", "b"), gid, 1.5, "me", resolver.GAVE_UP, False)
            right.append(fields(vote) == no)
            fails(Unavailable("no majority"))
            current().facts.append(register.later())  # what VoteStore.refuse returns stands
            return codec.decode(register.held)

        known = {}
        for name, register in registers.items():
            if choose("known"):
                current().facts.append(register.written)
                known[name] = codec.decode(register.held)
        home = Thing(gid=lambda name, txid: Gid("1d", "s", name, txid))
        vote_store = Thing(
            read=replying(reads), refuse=replying(refuses), open=replying(lambda _: home)
        )
        me = Thing(_vote_store=vote_store, _timeout=1, _clock=lambda: 1.5, by="me")
        me.refuse = lambda *args: resolver.Resolver.refuse(me, *args)
        txid = resolver.TxId("i", 0)
        met = registers, right
        return resolver.Resolver.settle(me, txid, tuple(registers), known or None), met

    def settled(done: Done) -> Claims:
        registers, right = done.met
        yes = [z3.And(one.written, says_yes(one.held.z)) for one in registers.values()]
        no = [z3.And(one.written, z3.Not(says_yes(one.held.z))) for one in registers.values()]
        refused = [attempt for one in registers.values() for attempt in one.attempts]
        claims = {
            "whoever has not voted is refused": z3.And(*[z3.Not(a) for a in refused]),
            "by a vote that says who takes part, who refuses, and why": z3.BoolVal(all(right)),
        }
        if done.error is not None:
            unread = isinstance(done.error, Unavailable)
            return claims | {"fails only if a vote cannot be read": z3.BoolVal(unread)}
        if done.result.committed:
            return claims | {"committed: all yes stand": z3.And(*yes)}
        return claims | {"aborted: some no stands": z3.Or(*no)}

    title = "tx.Resolver.settle: what it returns is what stands (up to two participants)"
    procedure(e, title, settles, settled)
