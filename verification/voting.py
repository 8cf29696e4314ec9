"""Layer 4: atomic commit, by the code that votes, refuses, obeys and settles.

`Box.cast`, `Box.refuse`, `Site._promise`, `Site._part` and `Resolver.settle` are executed between
their calls of registers: what they write are the two actions of the model that vote, what they
return stands, and what was decided is done.
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
    paced,
    procedure,
    replying,
)
from verification.source import Core
from verification.symex import SymBool, SymWord, bool_term, current, word_term
from wormspace.errors import CaptureLost, TokenReused, Trimmed, Unavailable, WormError
from wormspace.tx import deciding
from wormspace.tx.errors import Conflict

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
class Ballot:
    """A vote to be written, and its register."""

    register: Register
    mine: Any
    codec: Codec


def _a_vote(e: Engine, **attributes: Any) -> tuple[Thing, Ballot]:
    """A `Box`, a vote to be cast in it, and the one register that this is about."""
    codec = Codec(e.core)
    register = Register(errors=(CaptureLost("taken"), TokenReused("used"), Trimmed("over")))
    me = Thing(client=paced(), _segment=replying(lambda *_: register), **attributes)
    return me, Ballot(register, codec.any("mine"), codec)


TXID = Thing(address=(0, 0), initiator="i")


def _standing(done: Done) -> Claims:
    """What is returned stands; and only the vote that was given is ever written."""
    it: Ballot = done.met
    value = it.codec.encode(it.mine)
    claims = {
        f"write {k}: the vote that was given": attempt == value.z
        for k, attempt in enumerate(it.register.attempts)
    }
    found_empty = all(it.register.after_capture)
    claims["written only where a capture found nothing"] = z3.BoolVal(found_empty)
    if done.error is None:
        claims["what is returned stands"] = it.register.stands(it.codec.encode(done.result))
    elif not isinstance(done.error, Again):
        right = isinstance(done.error, Unavailable | Trimmed | TokenReused)
        claims["fails only if its outcome is unknown"] = z3.BoolVal(right)
    return claims


def prove(e: Engine) -> None:
    """Casting, obeying, settling."""
    casting(e)
    obeying(e)
    settling(e)


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
        return box.Box.refuse(me, "m", TXID, it.mine, timeout=1), it

    stands = "the vote it returns stands; it writes only where none is"
    procedure(e, f"tx.Box.refuse: {stands}", refuses, _standing)

    def casts() -> Any:
        me, it = _a_vote(e, prepare_segment=lambda *_: None)

        def is_free(offset: int) -> bool:
            it.register.said_empty = choose("free")
            return it.register.said_empty

        held = box._Held(it.register, Thing(is_free=is_free))
        me._held = Thing(get=lambda key: held if choose("held") else None)
        me._capture = replying(lambda *_: held)
        me.refuse = lambda *args, **more: box.Box.refuse(me, *args, **more)
        ahead = choose("ahead")
        return box.Box.cast(me, "m", TXID, it.mine, ahead=ahead, timeout=1), it

    procedure(e, f"tx.Box.cast: {stands}", casts, _standing)


def obeying(e: Engine) -> None:
    """A resource manager's four steps."""
    site = e.core.modules["tx.site"]
    site.__dict__["log"] = Thing(warning=lambda *_: None, info=lambda *_: None)

    def promises() -> Any:
        done: list[str] = []

        def prepare() -> None:
            fails(Conflict(""), WormError(""))
            done.append("prepared")

        branch = Thing(prepare=replying(prepare)) if choose("here") else None
        me = Thing(figures={"votes_yes": 0, "votes_no": 0}, clock=lambda: 0.0)
        plan = Thing(participants=("a", "b"))
        return site.Site._promise(me, plan, Thing(manager="m"), branch), done

    def promised(done: Done) -> Claims:
        right = done.error is None and done.result.yes == bool(done.met)
        return {"": z3.BoolVal(right)}

    procedure(e, "tx.Site._promise: a yes iff the branch is prepared", promises, promised)

    def takes_part() -> Any:
        codec = Codec(e.core)
        stands = codec.any("stands")
        decision = deciding.Decision(SymWord(th.fresh("outcome", z3.IntSort())))  # type: ignore[arg-type]
        it = Thing(did=[], learned=[], stands=stands, decision=decision)

        def act(what: str) -> Any:
            def now(gid: Any) -> None:
                fails(WormError("down"))
                it.did.append(what)

            return replying(now)

        matter = Thing(
            promised=replying(lambda name, *, yes: None),
            learn=lambda name, vote: it.learned.append(vote),
            decision=decision if choose("known") else None,
            decided=replying(lambda: decision),
            answer=lambda *_: None,
            unpromised=set(),
            on_part_done=lambda name, *, acted: it.did.append("acted" if acted else "left"),
        )
        me = Thing(
            manager=lambda name: Thing(commit=act("commit"), abort=act("abort")),
            space="s",
            figures={"left_to_sweep": 0},
            matters=Thing(leave=lambda matter: None),
            _promise=replying(lambda *_: codec.any("mine")),
            _cast=replying(lambda *_: stands),
            _on_decision=None,
        )
        return site.Site._part(me, Thing(id="t"), matter, "m", None), it

    def obeyed(done: Done) -> Claims:
        it = done.met
        committed = word_term(it.decision.outcome) == word_term(deciding.COMMITTED)
        return {
            "it fails for nobody": z3.BoolVal(done.error is None),
            "commits only what is committed": z3.Or(z3.BoolVal("commit" not in it.did), committed),
            "aborts only what is not": z3.Or(z3.BoolVal("abort" not in it.did), z3.Not(committed)),
            "it has acted iff it obeyed": z3.BoolVal(
                ("acted" in it.did) == bool({"commit", "abort"} & set(it.did))
            ),
            "learns the vote that stands": z3.BoolVal(all(v is it.stands for v in it.learned)),
        }

    title = "tx.Site._part: a resource manager does what was decided"
    procedure(e, title, takes_part, obeyed)


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
