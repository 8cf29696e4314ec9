"""Layer 4: atomic commit, by the code that decides.

`tx.deciding.judge` is executed over any number of participants; its paths are the two actions that
decide.  What votes is in `voting`, what obeys in `obeying`.  Who votes when, and who learns how, is
read off the shipped `tx.variants`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import z3

from verification import theory as th
from verification.goals import CODE, Goal
from verification.loops import Claims, Engine, Facts, Invariant, Symbolic
from verification.source import Core
from verification.symex import Sym, SymBool, SymWord, word_term
from verification.system import (
    W1,
    Rel,
    Step,
    System,
    W,
    Who,
    empty_at_first,
    gains,
    one_value,
    w,
    w1,
    write_once,
    written,
)
from wormspace.tx import deciding

Party = z3.DeclareSort("Party")
Vote, (YES, NO) = z3.EnumSort("Vote", ["yes", "no"])
P = z3.Const("P", Party)
p = z3.Const("p", Party)
x = z3.Const("x", Vote)
COMMITS, ABORTS = "somebody who knows all yes commits", "somebody who knows a no aborts"
VOTES, REFUSES = "a willing party votes yes", "anybody votes no for a party"
OF_THE_CODE = frozenset({COMMITS, ABORTS, VOTES, REFUSES})


def all_yes(s: Rel) -> z3.BoolRef:
    """W knows that every party voted yes."""
    return z3.ForAll([p], s["knows"](W, p, YES))


def some_no(s: Rel) -> z3.BoolRef:
    """W knows that some party voted no."""
    return z3.Exists([p], s["knows"](W, p, NO))


def atomic_commit(variant: Any) -> System:
    """Each party votes in a register of its own; `knows(w, p, x)`: w has learned p's vote."""
    told = variant.tm == "told"

    def always(s: Rel) -> dict[str, z3.BoolRef]:
        return {
            "one value": one_value(s["vote"]),
            "who votes yes is willing": z3.ForAll(
                [p], z3.Implies(s["vote"](p, YES), s["willing"](p))
            ),
            "what is known is so": z3.ForAll(
                [w, p, x], z3.Implies(s["knows"](w, p, x), s["vote"](p, x))
            ),
            "commit: all yes": z3.ForAll([w, p], z3.Implies(s["commit"](w), s["vote"](p, YES))),
            "abort: some no": z3.ForAll(
                [w], z3.Implies(s["abort"](w), z3.Exists([p], s["vote"](p, NO)))
            ),
        }

    def votes(s: Rel, t: Rel) -> Sequence[z3.BoolRef]:
        asked = [] if variant.spontaneous else [s["asked"](P)]
        return [*asked, s["willing"](P), write_once(s["vote"], t["vote"], P, YES)]

    def learns(s: Rel, t: Rel) -> Sequence[z3.BoolRef]:
        by_word = s["knows"](W1, P, x) if told else z3.BoolVal(False)
        return [z3.Or(s["vote"](P, x), by_word), gains(s, t, "knows", W, P, x)]

    actions: dict[str, tuple[set[str], Step]] = {
        "a party is asked": ({"asked"}, lambda s, t: [gains(s, t, "asked", P)]),
        VOTES: ({"vote"}, votes),
        REFUSES: (
            {"vote"}, lambda s, t: [write_once(s["vote"], t["vote"], P, NO)],
        ),
        "somebody learns a vote": ({"knows"}, learns),
        COMMITS: (
            {"commit"},
            lambda s, t: [all_yes(s), gains(s, t, "commit", W)],
        ),
        ABORTS: (
            {"abort"}, lambda s, t: [some_no(s), gains(s, t, "abort", W)],
        ),
    }  # fmt: skip

    def theorems(s: Rel) -> dict[str, z3.BoolRef]:
        all_written = z3.ForAll([p], written(s["vote"], p))
        yes, no = z3.ForAll([p], s["vote"](p, YES)), z3.Exists([p], s["vote"](p, NO))
        return {
            "agreement": z3.ForAll([w, w1], z3.Not(z3.And(s["commit"](w), s["abort"](w1)))),
            "validity: commit only if all are willing": z3.ForAll(
                [w, p], z3.Implies(s["commit"](w), s["willing"](p))
            ),
            "non-blocking: all registers written, the outcome is known": z3.Implies(
                all_written, z3.Xor(yes, no)
            ),
            "resolution never contradicts a decision": z3.ForAll(
                [w], z3.And(z3.Implies(s["commit"](w), yes), z3.Implies(s["abort"](w), no))
            ),
        }

    relations = {"vote": [Party, Vote], "willing": [Party], "asked": [Party],
                 "knows": [Who, Party, Vote], "commit": [Who], "abort": [Who]}  # fmt: skip
    start = empty_at_first("vote", "asked", "knows", "commit", "abort")
    title = f"atomic commit {variant.name}"
    return System(title, relations, start, always, actions, theorems, code=OF_THE_CODE)


# ------------------------------------------------------------------ deciding


class SymParty(Sym):
    """A resource manager's name: a key of the votes."""

    __slots__ = ()


@dataclass
class Words(Symbolic):
    """A sequence of votes that is not known: which words are in it."""

    has: Any

    @classmethod
    def any(cls) -> Words:
        """An arbitrary one."""
        return cls(th.fresh_function("has", z3.IntSort(), th.Bool))

    def plus(self, word: Any) -> Words:
        """This and one word more."""
        return Words(lambda q: z3.Or(self.has(q), q == word_term(word)))


def _any_word(core: Core) -> tuple[Any, Facts]:
    word = SymWord(th.fresh("word", z3.IntSort()))
    known = (deciding.YES, deciding.NO, deciding.MISSING)
    return word, [z3.Or(*[word.z == word_term(one) for one in known])]


def _word_now(core: Core, carried: Sequence[Any], known: Mapping[str, Any]) -> Any:
    term = th.fresh("so_far", z3.IntSort())
    return lambda: (SymWord(term),)


def verdict_of(no: z3.BoolRef, missing: z3.BoolRef) -> z3.ExprRef:
    """The AND of the votes, where one is no, and where one is missing."""
    names = (deciding.ABORTED, deciding.UNDECIDED, deciding.COMMITTED)
    aborted, undecided, committed = (word_term(name) for name in names)
    return z3.If(no, aborted, z3.If(missing, undecided, committed))


@dataclass
class Parties(Symbolic):
    """A sequence of participants that is not known: who is in it."""

    has: Any

    @classmethod
    def any(cls) -> Parties:
        """An arbitrary one."""
        return cls(th.fresh_function("is_party", Party, th.Bool))

    def plus(self, one: Any) -> Parties:
        """This and one more."""
        return Parties(lambda q: z3.Or(self.has(q), q == one.z))


class Votes:
    """Votes by participant, of which nothing is known: whether one is there, and whether yes."""

    def __init__(self, core: Core, there: Any, yes: Any) -> None:
        self.core = core
        self.there = there
        self.yes = yes

    def get(self, key: Any) -> Any:
        """The vote; None if it is not there."""
        if not bool(SymBool(self.there(key.z))):
            return None
        vote = self.core.modules["tx.deciding"].Vote
        return vote(SymBool(self.yes(key.z)), (), "", 0.0, "voter", "reason", "conflict")

    @classmethod
    def any(cls, core: Core) -> Votes:
        """Arbitrary ones."""
        there, yes = (th.fresh_function(name, Party, th.Bool) for name in ("there", "yes"))
        return cls(core, there, yes)

    def no(self, q: Any) -> z3.BoolRef:
        """A no is there."""
        return z3.And(self.there(q), z3.Not(self.yes(q)))


def _judged(some: Parties, first: Any, now: Any, known: Mapping[str, Any]) -> Claims:
    votes = known["votes"]
    missing = z3.Exists([p], z3.And(some.has(p), z3.Not(votes.there(p))))
    return {
        "no one said no": z3.ForAll([p], z3.Implies(some.has(p), z3.Not(votes.no(p)))),
        "committed unless one is missing": word_term(now[0])
        == verdict_of(z3.BoolVal(False), missing),
    }


def _counted(some: Words, first: Any, now: Any, known: Mapping[str, Any]) -> Claims:
    no, missing = (some.has(word_term(word)) for word in (deciding.NO, deciding.MISSING))
    return {"the AND of the votes": word_term(now[0]) == verdict_of(no, missing)}


INVARIANTS = {
    "tx.deciding.outcome:0": Invariant(
        Words.any, lambda: Words(lambda q: z3.BoolVal(False)), _any_word, Words.plus,
        lambda votes: votes, _word_now, _counted,
    ),
    "tx.deciding.judge:0": Invariant(
        Parties.any, lambda: Parties(lambda q: z3.BoolVal(False)),
        lambda core: (SymParty(th.fresh("party", Party)), []), Parties.plus,
        lambda parties: parties, _word_now, _judged, True,
        lambda some, every: [z3.ForAll([p], z3.Implies(some.has(p), every.has(p)))],
    ),
}  # fmt: skip


def judging(e: Engine) -> None:
    """The AND of any number of votes."""
    words, parties = Words.any(), Parties.any()
    e.each(
        "tx.deciding.outcome: the AND of any number of votes",
        e.establish("tx.deciding.outcome", words),
        lambda said: (
            word_term(said)
            == verdict_of(*[words.has(word_term(v)) for v in (deciding.NO, deciding.MISSING)])
        ),
    )
    votes = Votes.any(e.core)
    no = z3.Exists([p], z3.And(parties.has(p), votes.no(p)))
    missing = z3.Exists([p], z3.And(parties.has(p), z3.Not(votes.there(p))))

    def judged(decision: Any) -> Claims:
        if decision is None:
            return {"open: a vote is missing, and none is no": z3.And(missing, z3.Not(no))}
        if decision.outcome == deciding.COMMITTED:
            return {"committed: all are there and yes": z3.Not(z3.Or(no, missing))}
        culprit = decision.culprit.z
        return {
            "aborted: the culprit takes part and said no": z3.And(
                z3.BoolVal(decision.outcome == deciding.ABORTED),
                parties.has(culprit),
                votes.no(culprit),
            ),
            "who wrote that no, and why": z3.BoolVal(
                (decision.by, decision.reason, decision.conflict) == ("voter", "reason", "conflict")
            ),
        }

    e.each(
        "tx.deciding.judge: what any number of votes mean, and exactly when",
        e.establish("tx.deciding.judge", parties, votes),
        judged,
    )


def _links(e: Engine, system: System) -> list[Goal]:
    """The paths of `judge`, on what W knows of all parties, are the two actions that decide."""
    s, _, _ = system.step(COMMITS)
    known = s["knows"]
    parties = Parties(lambda q: z3.BoolVal(True))
    votes = Votes(
        e.core, lambda q: z3.Or(known(W, q, YES), known(W, q, NO)), lambda q: known(W, q, YES)
    )
    out = []
    here = list(system.always(s).values())
    for path in e.paths("tx.deciding.judge", parties, votes):
        if path.result is None:
            continue
        does = path.result.outcome == deciding.COMMITTED
        out.append(
            Goal(
                f"{system.name}: what judge decides is what the model decides",
                COMMITS if does else ABORTS,
                [*here, *path.hypotheses],
                all_yes(s) if does else some_no(s),
                CODE,
                second=True,
            )
        )
    return out


def prove(e: Engine) -> None:
    """Deciding."""
    judging(e)


def systems(e: Engine) -> list[System]:
    """One for each variant that ships."""
    return [atomic_commit(variant) for variant in e.core.modules["tx.variants"].VARIANTS.values()]


def links(e: Engine) -> list[Goal]:
    """The models decide as the code does."""
    return [goal for system in systems(e) for goal in _links(e, system)]
