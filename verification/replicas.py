"""Layer 4: replicated state machines, by the code that applies and deduplicates.

The model takes any number of replicas, leaders and slots.  `Engine._apply_packet` and `Sessions`
are executed on any state, looked at through one arbitrary client and packet: they apply a packet
at most once.  What leads and learns is in `leading`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgspec
import z3

from verification import theory as th
from verification.loops import Claims, Engine
from verification.procedures import (
    Done,
    Pairs,
    Thing,
    choose,
    procedure,
)
from verification.segmented_log import JUNK, E, Entry, e, e1
from verification.symex import SymBool, SymInt, SymWord, current, int_term
from verification.system import (
    I,
    K,
    Rel,
    System,
    W,
    Who,
    empty_at_first,
    gains,
    i,
    j,
    one_value,
    w,
    w1,
    write_once,
    written,
)
from wormspace.space import Address


def replicas() -> System:
    """`did(w, i, e)`: replica w applied command e, as that of slot i.

    A command is applied at the first slot that holds it; gaps are filled with JUNK, the no-op.
    """

    def first(s: Rel, slot: Any, command: Any) -> z3.BoolRef:
        before = z3.And(j >= 0, j < slot)
        return z3.ForAll([j], z3.Implies(before, z3.Not(s["at"](j, command))))

    def always(s: Rel) -> dict[str, z3.BoolRef]:
        return {
            "one value": one_value(s["at"]),
            "an acknowledged command is there": z3.ForAll(
                [e, i], z3.Implies(s["acked"](e, i), s["at"](i, e))
            ),
            "a replica passes slots in order": z3.ForAll(
                [w, i, j],
                z3.Implies(
                    z3.And(s["passed"](w, j), i >= 0, i <= j),
                    z3.And(s["passed"](w, i), written(s["at"], i)),
                ),
            ),
            "what was applied is the slot's, and its first": z3.ForAll(
                [w, i, e],
                z3.Implies(
                    s["did"](w, i, e),
                    z3.And(i >= 0, s["passed"](w, i), s["at"](i, e), e != JUNK, first(s, i, e)),
                ),
            ),
            "nothing is passed over": z3.ForAll(
                [w, i, e],
                z3.Implies(
                    z3.And(s["passed"](w, i), i >= 0, s["at"](i, e), e != JUNK, first(s, i, e)),
                    s["did"](w, i, e),
                ),
            ),
        }

    def applies(s: Rel, t: Rel) -> Sequence[z3.BoolRef]:
        ready = z3.And(K >= 0, z3.Or(K == 0, s["passed"](W, K - 1)), s["at"](K, E))
        new = z3.And(E != JUNK, first(s, K, E))
        did = z3.Or(s["did"](w, i, e), z3.And(new, w == W, i == K, e == E))
        return [
            ready,
            gains(s, t, "passed", W, K),
            z3.ForAll([w, i, e], t["did"](w, i, e) == did),
        ]

    def both(s: Rel) -> z3.BoolRef:
        return z3.And(s["did"](w, i, e), s["did"](w1, j, e1))

    return System(
        "replicas",
        {"at": [I, Entry], "acked": [Entry, I], "passed": [Who, I], "did": [Who, I, Entry]},
        empty_at_first("at", "acked", "passed", "did"),
        always,
        {
            "any leader, old or new, writes a slot": (
                {"at"},
                lambda s, t: [write_once(s["at"], t["at"], K, E)],
            ),
            "a command is acknowledged": (
                {"acked"},
                lambda s, t: [s["at"](K, E), gains(s, t, "acked", E, K)],
            ),
            "a replica applies its next slot": ({"passed", "did"}, applies),
        },
        lambda s: {
            "all replicas apply the same sequence": z3.ForAll(
                [w, w1, i, e, e1, j],
                z3.And(
                    z3.Implies(z3.And(both(s), i == j), e == e1),
                    z3.Implies(z3.And(s["did"](w, i, e), s["passed"](w1, i)), s["did"](w1, i, e)),
                ),
            ),
            "no command twice": z3.ForAll(
                [w, w1, i, j, e], z3.Implies(z3.And(s["did"](w, i, e), s["did"](w1, j, e)), i == j)
            ),
            "nothing acknowledged is lost: no leader puts another in its slot": z3.ForAll(
                [e, e1, i], z3.Implies(z3.And(s["acked"](e, i), s["at"](i, e1)), e == e1)
            ),
        },
    )


# ------------------------------------------------------------------ no command twice


class Outcomes:
    """A session's outcomes by packet number: what it has for one number `at`; others are any."""

    def __init__(self, at: SymInt) -> None:
        self.at = at
        self.present: z3.BoolRef = th.fresh("kept", th.Bool)
        self.outcome = SymWord(th.fresh("outcome", I))

    def get(self, number: Any) -> Any:
        """The outcome, or None."""
        if bool(number == self.at):
            return self.outcome if bool(SymBool(self.present)) else None
        return SymWord(th.fresh("other", I)) if choose("other kept") else None

    def __setitem__(self, number: Any, outcome: Any) -> None:
        if bool(number == self.at):
            self.present, self.outcome = z3.BoolVal(True), outcome

    def __delitem__(self, number: Any) -> None:
        if bool(number == self.at):
            self.present = z3.BoolVal(False)

    def __iter__(self) -> Iterator[Any]:
        """The number looked at, if it is there, and any other: each is treated by itself."""
        other = SymInt(th.fresh("other", I))
        current().facts.append(other.z != self.at.z)
        return iter([self.at, other] if bool(SymBool(self.present)) else [other])


class Clients:
    """Sessions by client: that of one client `who`; those of others are any."""

    def __init__(self, engine: Engine, who: SymWord, at: SymInt) -> None:
        self.engine = engine
        self.who = who
        self.at = at
        self.known: z3.BoolRef = th.fresh("session", th.Bool)
        self.session = self.any()

    def any(self) -> Any:
        """Any session."""
        kind = self.engine.core.modules["smr.sessions"].Session
        return kind(SymInt(th.fresh("low", I)), 0, 0, Outcomes(self.at))

    def _find(self, client: Any) -> Any:
        if bool(client == self.who):
            return self.session if bool(SymBool(self.known)) else None
        return self.any() if choose("other session") else None

    def get(self, client: Any) -> Any:
        """The session, or None."""
        return self._find(client)

    def pop(self, client: Any, default: Any) -> Any:
        """The session, which is here no more; or None."""
        found = self._find(client)
        if bool(client == self.who):
            self.known = z3.BoolVal(False)
        return found

    def __setitem__(self, client: Any, session: Any) -> None:
        if type(session.outcomes) is dict and not session.outcomes:  # a new session
            session.outcomes = Outcomes(self.at)
            session.outcomes.present = z3.BoolVal(False)
        if bool(client == self.who):
            self.known, self.session = z3.BoolVal(True), session

    def remembers(self) -> z3.BoolRef:
        """That packet `at` of `who` was applied shows: forgotten, kept, or below the low mark."""
        over = self.at.z < int_term(self.session.low)
        return z3.Or(z3.Not(self.known), self.session.outcomes.present, over)


def applying(e: Engine) -> None:
    """Packets, once each; registers, in order."""
    engine, sessions = e.core.modules["smr.engine"], e.core.modules["smr.sessions"]

    def applies() -> Any:
        who, at = SymWord(th.fresh("who", I)), SymInt(th.fresh("at", I))
        table = sessions.Sessions()
        clients = table._clients = Clients(e, who, at)
        batch = table._batch = SymInt(th.fresh("batch", I))
        packet = Thing(
            client=SymWord(th.fresh("client", I)),
            number=SymInt(th.fresh("number", I)),
            low=SymInt(th.fresh("low", I)),
            settled=SymBool(th.fresh("settled", th.Bool)),
            commands=b"",
        )
        ran: list[Any] = []
        known, session = clients.known, clients.session
        met = Thing(
            clients=clients,
            packet=packet,
            ran=ran,
            known=known,
            low=int_term(session.low),
            present=session.outcomes.present,
            outcome=session.outcomes.outcome.z,
            before=clients.remembers(),
            here=z3.And(packet.client.z == who.z, packet.number.z == at.z),
        )
        current().facts += [at.z >= 1, packet.number.z >= 1]

        def runs(commands: bytes) -> SymWord:
            result = SymWord(th.fresh("result", I))
            ran.append(result)
            return result

        now = SymInt(th.fresh("now", I))
        me = Thing(sessions=table, time_ns=now, machine=Thing(), _run=runs)

        async def apply() -> Any:
            return engine.Engine._apply_packet(me, packet, 7, "a", 1)

        met.machine, met.now, met.batch = me.machine, now, batch
        return apply(), met

    engine.__dict__["Moment"] = lambda time_ns, seed: (time_ns, seed)

    def applied(done: Done) -> Claims:
        m = done.met
        outcome, is_new = done.result
        was = z3.Const("WAS_APPLIED", th.Bool)  # packet `at` of `who`, by an earlier register
        his = m.packet.client.z == m.clients.who.z
        unsettled = z3.And(his, z3.Not(m.known), z3.Not(m.packet.settled.z))
        given = z3.And(
            z3.Implies(was, m.before),
            z3.Implies(unsettled, z3.Not(was)),  # the assumption "sessions"
        )
        now = z3.Or(was, z3.And(z3.BoolVal(bool(m.ran)), m.here))
        refuses = z3.Or(
            z3.And(m.known, m.packet.number.z < m.low),
            z3.And(z3.Not(m.known), m.packet.settled.z),
        )
        kept = z3.And(m.known, m.present)
        claims = {
            "runs only what was not applied": z3.Implies(
                z3.And(given, m.here), z3.Or(z3.BoolVal(not m.ran), z3.Not(was))
            ),
            "what was applied shows ever after": z3.Implies(
                z3.And(given, now), m.clients.remembers()
            ),
            "runs iff there is no outcome and it is not over": z3.Implies(
                m.here, z3.BoolVal(bool(m.ran)) == z3.Not(z3.Or(kept, refuses))
            ),
            "it says whether it ran": z3.BoolVal(is_new is bool(m.ran)),
        }
        if m.ran:
            kept_now = m.clients.session.outcomes
            given_up = m.packet.number.z < m.packet.low.z
            same = z3.And(kept_now.present, kept_now.outcome.z == m.ran[0].z)
            claims["what it returns is kept, unless the client has given it up"] = z3.Implies(
                m.here, z3.Or(same, given_up)
            )
            told, seed = m.machine._moment
            claims["commands are told the batch's time, and dice of their own"] = z3.BoolVal(
                told is m.now and seed == "7/a/1"
            )
            claims["the client was heard of now"] = z3.Implies(
                m.here,
                z3.BoolVal(
                    m.clients.session.touched_ns is m.now
                    and m.clients.session.touched_batch is m.batch
                ),
            )
        if isinstance(outcome, bytes):
            refused = msgspec.msgpack.decode(outcome, type=engine.Outcome)
            claims["refused, and it says why"] = z3.BoolVal(
                bool(refused.refused) and refused.values == [] and refused.faults == {}
            )
        if isinstance(outcome, SymWord):
            again = outcome.z == (m.ran[0].z if m.ran else m.outcome)
            claims["the outcome is the first one's"] = z3.Implies(m.here, again)
        return claims

    title = "smr.Engine._apply_packet: no packet is applied twice, and each has its first outcome"
    procedure(e, title, applies, applied)
    _moving(e, engine)


class Rests:
    """Owners that rest: any, of whom two at most are met."""

    def __init__(self) -> None:
        self.asked: list[z3.ExprRef] = []
        self.skipping = 0
        self.added: list[z3.ExprRef] = []
        self.over = False

    def __contains__(self, owner: Any) -> bool:
        self.asked.append(int_term(owner))
        rests = len(self.asked) <= 2 and choose("rests")
        self.skipping += rests
        return rests

    def add(self, owner: Any) -> None:
        """One more."""
        self.added.append(int_term(owner))

    def clear(self) -> None:
        """None, in the next segment."""
        self.over = True


class Turns(SymInt):
    """An offset, whose owner is the remainder."""

    __slots__ = ()

    def __mod__(self, turns: Any) -> Any:
        return SymInt(self.z % int_term(turns))


def _moving(e: Engine, engine: Any) -> None:
    claim = engine.Mark(Address(0, 0), b"digest")
    records = (
        engine.Batch(0, 0, []),
        engine.Batch(0, 0, [], claim),
        engine.Seal(),
        engine.Skip(),
    )

    def moves() -> Any:
        record = next((r for r in records if choose(type(r).__name__)), None)
        asked: list[Any] = []

        def decode(raw: Any, address: Any) -> Any:
            asked.append(raw == b"raw" and address is me.position)
            return record

        engine.__dict__["decode_record"] = decode
        me = engine.Engine.__new__(engine.Engine)
        offset, size = Turns(th.fresh("offset", I)), SymInt(th.fresh("size", I))
        current().facts += [offset.z >= 0, offset.z < size.z]
        me.position = Address(0, cast(int, offset))
        me.rests = Rests()
        me.chain = b""
        me.chains = Pairs([])
        me._apply_batch = lambda batch, address: ["applied"] * (batch is record)
        compared: list[Any] = []
        me._compare = compared.append

        async def apply() -> Any:
            return me.apply(b"raw", size, 3)

        met = Thing(me=me, record=record, offset=offset.z, size=size.z)
        met.asked, met.compared = asked, compared
        return apply(), met

    def moved(done: Done) -> Claims:
        m = done.met
        segment, offset = m.me.position
        at = int_term(offset)
        sealed = isinstance(m.record, engine.Seal)
        rests, following = m.me.rests, m.offset + 1 + m.me.rests.skipping
        ends = z3.Or(z3.BoolVal(sealed), following >= m.size)
        skipping, is_batch = (isinstance(m.record, k) for k in (engine.Skip, engine.Batch))
        return {
            "one by one, but for turns passed on; then the next segment": z3.If(
                ends,
                z3.And(z3.BoolVal(segment == 1), at == 0),
                z3.And(z3.BoolVal(segment == 0), at == following),
            ),
            "asks whether those owners rest whose turns it would be": z3.And(
                *[o == (m.offset + 1 + k) % 3 for k, o in enumerate(rests.asked)]
            ),
            "and goes on at the first that does not": z3.BoolVal(
                bool(segment) or len(rests.asked) == rests.skipping + 1
            ),
            "who rests is noted": z3.And(
                z3.BoolVal(len(rests.added) == skipping), *[o == m.offset % 3 for o in rests.added]
            ),
            "a batch is applied, and nothing else": z3.BoolVal(
                done.result == ((["applied"], m.record) if is_batch else ([], None))
            ),
            "what its proposer claims is compared": z3.BoolVal(
                m.compared == ([claim] if is_batch and m.record.chain else [])
            ),
            "after a batch, and only then, there is a claim of one's own": z3.BoolVal(
                len(m.me.chains) == is_batch
            ),
            "it is this register": z3.BoolVal(m.asked == [True]),
            "nobody rests in a new segment": z3.BoolVal(rests.over == (segment == 1)),
        }

    title = "smr.Engine.apply: registers in order, each once (up to two turns passed on)"
    procedure(e, title, moves, moved)


def prove(e: Engine) -> None:
    """Applying."""
    applying(e)


def systems() -> list[System]:
    """The one."""
    return [replicas()]
