"""Layer 4: atomic commit, by the code that prepares, promises, learns and obeys.

`Participant` and `InFlight.learn` are executed with works that end at once, later, badly or never:
a yes is promised iff the work is prepared, and what was decided is done once the part's own vote
stands.
"""

from __future__ import annotations

import asyncio
from typing import Any

import z3

from verification import theory as th
from verification.loops import Claims, Engine
from verification.procedures import Done, Thing, choose, procedure
from verification.symex import SymWord, bool_term, word_term
from verification.voting import Codec, fields, txid_of
from wormspace.errors import Trimmed, Unavailable, WormError
from wormspace.tx import deciding
from wormspace.tx.errors import Conflict
from wormspace.tx.names import Gid
from wormspace.tx.resolver import OVER

PARTIES = ("a", "b")
NOW = 12.5


class Work:
    """A resource manager's work, as a future: it is over at once, later, or never.

    Attributes:
        over: whether it has ended by now.
        gone: whether nobody knows what came of it, then.
        error: what went wrong, then, if anything.
        watched: whether somebody waits for its end.
    """

    def __init__(self) -> None:
        self.over = choose("over")
        self.gone = choose("cancelled")
        self.error: WormError | None = None
        if not self.gone and choose("fails"):
            self.error = Conflict("locked") if choose("locked") else WormError("")
        self.watched = False

    @property
    def succeeded(self) -> bool:
        """Whether it is done."""
        return self.over and not self.gone and self.error is None

    def cancelled(self) -> bool:
        """As a future says it."""
        return self.over and self.gone

    def exception(self) -> Exception | None:
        """As a future says it."""
        if not self.over or self.gone:
            raise asyncio.InvalidStateError("there is no result to look at")
        return self.error

    def done(self) -> bool:
        """As a future says it."""
        return self.over

    def add_done_callback(self, then: Any) -> None:
        """Tell it later; or never: the process may end."""
        self.watched = True
        if self.over or choose("later"):
            self.over = True
            then(self)


class Waiter:
    """A future of somebody who waits."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def done(self) -> bool:
        """Whether it was told."""
        return bool(self.told)

    def set_result(self, result: Any) -> None:
        """It is told."""
        self.told.append(result)


def prove(e: Engine) -> None:
    """Preparing, acting, learning."""
    obeying(e)
    learning(e)


def _a_part(e: Engine, it: Thing, decision: Any, closed: bool = False) -> Any:
    """A resource manager's part, whose site and in-flight transaction note what it does."""

    def begin(what: str, gid: Any) -> Any:
        it.did.append(what)
        it.gids.append(gid)
        it.works.append(Work())
        work = it.works[-1]
        if choose("a future"):
            return work
        it.plain.append(Thing(becomes=work))
        return it.plain[-1]

    def held(plain: Thing) -> Any:
        it.held.append(plain)
        return plain.becomes

    it.did, it.gids, it.works, it.over = [], [], [], []
    it.plain, it.held = [], []
    it.promised, it.learned, it.told = [], [], []
    manager = Thing(commit=lambda gid: begin("commit", gid), abort=lambda gid: begin("abort", gid))
    it.watcher = choose("somebody wants to know")
    site = Thing(
        metrics={"votes_yes": 0, "votes_no": 0, "left_to_recover": 0},
        clock=lambda: NOW,
        gid=lambda manager, txid: Gid("1d", "s", manager, txid),
        now=lambda: 1,
        closed=closed,
        manager={"a": manager}.get,
        on_decision=(lambda *its: it.told.append(its)) if it.watcher else None,
        in_flights=Thing(leave=lambda in_flight: it.over.append(in_flight)),
        tasks=Thing(begin=held),
    )
    it.in_flight = Thing(
        promised=lambda part, vote: it.promised.append((part, vote)),
        learn=lambda name, vote: it.learned.append((name, vote)),
        on_participant_over=lambda name: it.over.append(name),
        decision=decision,
    )
    it.plan = Thing(id=txid_of(0), participants=PARTIES)
    it.branch = Thing(prepare=lambda: begin("prepare", None))
    it.part = e.core.modules["tx.participant"].Participant(site, it.in_flight, it.plan, "a", None)
    return it.part


def _worked(it: Thing) -> Claims:
    """What holds of every part's work: it is watched to its end, and then the part is over."""
    looks = all(work.over or work.watched for work in it.works)
    known = [*map(id, it.plain)] == [*map(id, it.held)]
    return {
        "its work is known, and watched to its end": z3.BoolVal(looks and known),
        "it is over once": z3.BoolVal(it.over in ([], ["a", it.in_flight])),
    }


def obeying(e: Engine) -> None:
    """A resource manager's four steps."""
    parts = e.core.modules["tx.participant"]
    parts.__dict__["log"] = Thing(warning=lambda *_: None)
    parts.__dict__["asyncio"] = Thing(Future=Work, iscoroutine=lambda work: True)

    async def calling(*calls: Any) -> None:
        for call in calls:
            call()

    def prepares() -> Any:
        it = Thing()
        it.here, it.closed = choose("here"), choose("closed")
        part = _a_part(e, it, None, it.closed)
        if it.here:
            part._branch = it.branch
        return calling(part.prepare), it

    def prepared(done: Done) -> Claims:
        it = done.met
        [work] = it.works or [None]
        ends = not it.here or (work.over and not work.gone and not it.closed)
        leaves = it.here and work.over and not ends
        yes = it.here and work.succeeded
        claims = _worked(it) | {
            "its branch is prepared, if it is here": z3.BoolVal(it.did == ["prepare"] * it.here),
            "it votes, once, iff it is known how": z3.BoolVal(
                done.error is None and len(it.promised) == ends
            ),
            "else it leaves that to recovery, or waits": z3.BoolVal(bool(it.over) == leaves),
        }
        for part, vote in it.promised:
            error = work.error if it.here else None
            why = (str(error) or type(error).__name__) if error else ""
            reason = why if it.here else vote.reason
            right = (yes, PARTIES, "worm2:1d:s:a:i-0", NOW, "a", reason, type(error) is Conflict)
            claims["a yes iff it is prepared"] = z3.BoolVal(part is it.part and vote.yes is yes)
            claims["the vote says whose it is, who takes part, and why it is no"] = z3.BoolVal(
                fields(vote) == right and bool(it.here or reason)
            )
        return claims

    procedure(e, "tx.Participant.prepare: a yes iff the branch is prepared", prepares, prepared)

    def acts() -> Any:
        it = Thing()
        outcome = deciding.Decision(SymWord(th.fresh("outcome", z3.IntSort())))  # type: ignore[arg-type]
        it.stands, it.outcome = Codec(e.core).any("stands"), outcome
        known = choose("known")
        part = _a_part(e, it, outcome if known else None)
        it.error = None
        if choose("error"):
            it.error = Trimmed("over") if choose("trimmed") else Unavailable("no majority")
        it.heard = choose("heard")

        def stands() -> None:
            part._on_stands(None if it.error else it.stands, it.error)

        def decide() -> None:
            it.in_flight.decision = outcome
            part.act()

        later = [] if known or not choose("later") else [decide]
        again = [part.act] if choose("again") else []
        return calling(part.act, *[stands] * it.heard, *later, *again), it

    def acted(done: Done) -> Claims:
        it = done.met
        committed = word_term(it.outcome.outcome) == word_term(deciding.COMMITTED)
        stood = it.heard and (isinstance(it.error, Trimmed) or it.error is None)
        acts = bool(stood and it.in_flight.decision is not None)
        obeyed = any(work.succeeded for work in it.works)
        no = (False, PARTIES, "", 0.0, "", OVER.reason, False)
        learned = [name == "a" and (vote is it.stands or fields(vote) == no)
                   for name, vote in it.learned]  # fmt: skip
        ended = (it.heard and not stood) or any(work.over for work in it.works)
        gid = Gid("1d", "s", "a", it.plan.id)
        return _worked(it) | {
            "commits only what is committed": z3.Or(z3.BoolVal("commit" not in it.did), committed),
            "aborts only what is not": z3.Or(z3.BoolVal("abort" not in it.did), z3.Not(committed)),
            "once, iff its vote stands and the decision is known": z3.BoolVal(len(it.did) == acts),
            "its own branch": z3.BoolVal(it.gids == [gid] * acts),
            "whoever wants to know is told": z3.BoolVal(
                it.told == [(it.plan.id, "a", it.outcome)] * (acts and it.watcher)
            ),
            "learns the vote that stands": z3.BoolVal(
                done.error is None and len(learned) == stood and all(learned)
            ),
            "it has acted iff it obeyed": z3.BoolVal(it.part.acted is obeyed),
            "and is over when it has, or cannot": z3.BoolVal(bool(it.over) == ended),
        }

    procedure(e, "tx.Participant.act: a resource manager does what was decided", acts, acted)


# ------------------------------------------------------------------ learning


def learning(e: Engine) -> None:
    """What this process knows of a transaction."""
    in_flights = e.core.modules["tx.in_flight"]

    def learns() -> Any:
        codec = Codec(e.core)
        in_flight = in_flights.InFlight(txid_of(0), PARTIES, 0.0)
        heard = {name: codec.any(name) for name in ("a", "c", "b") if choose("heard")}
        met = Thing(in_flight=in_flight, heard=heard, asks=choose("somebody asks"), acted=[])
        met.voting, met.deciding, met.ending = Waiter(), Waiter(), Waiter()
        if met.asks:
            in_flight._voting = {"a": [met.voting]}
        in_flight._deciding, in_flight._ending = (met.deciding,), (met.ending,)
        in_flight.local = {"a": Thing(act=lambda: met.acted.append(in_flight.decision))}
        in_flight._acting = int(choose("acting"))

        async def learn() -> None:
            for name, vote in heard.items():
                in_flight.learn(name, vote)

        return learn(), met

    def learned(done: Done) -> Claims:
        it = done.met
        votes = {name: bool_term(vote.yes) for name, vote in it.heard.items() if name != "c"}
        no = z3.Or(*[z3.Not(yes) for yes in votes.values()])
        decision = it.in_flight.decision
        knows = decision is not None
        asked = [it.heard["a"]] if it.asks and "a" in it.heard else []
        claims = {
            "who asked for a vote is told it": z3.BoolVal(
                done.error is None
                and len(asked) == len(it.voting.told)
                and all(a is b for a, b in zip(asked, it.voting.told, strict=True))
            ),
            "who waits for the decision is told when it is there": z3.BoolVal(
                len(it.deciding.told) == knows
                and len(it.ending.told) == (knows and not it.in_flight._acting)
            ),
            "and the managers here act on it": z3.BoolVal(
                [its is decision for its in it.acted] == [True] * knows
            ),
        }
        if decision is None:
            return claims | {
                "open: one is missing, and none is no": z3.And(len(votes) < 2, z3.Not(no))
            }
        if decision.committed:
            return claims | {"committed: both are yes": z3.And(len(votes) == 2, z3.Not(no))}
        return claims | {"aborted: one is no": no}

    title = "tx.InFlight.learn: decides what judge decides, at once (up to two participants)"
    procedure(e, title, learns, learned)
