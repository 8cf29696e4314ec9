"""What counts as a kill, and what does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import z3
from verification.goals import Goal
from verification.mutants import Mutant, NoVerdict, run
from verification.source import CORE, shipped
from verification.trials import (
    BROKEN,
    ENDLESS,
    REFUSED,
    REFUTED,
    SURVIVED,
    UNDECIDED,
    Verdict,
    of_goals,
    touched,
    verdict,
)

from verification import goals, mutants
from verification import symex as sym

X = z3.Int("x")


def claim(name: str, conclusion: z3.BoolRef) -> Goal:
    return Goal("theorem", name, [], conclusion)


def test_the_first_claim_that_fails_ends_a_trial() -> None:
    said = of_goals([claim("true", X == X), claim("false", X > 0), claim("worse", X != X)])
    assert said == Verdict(REFUTED, "theorem: false")
    assert of_goals([claim("true", X == X)]) == Verdict(SURVIVED)


def test_what_the_solver_cannot_decide_is_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goals, "EFFORT", 1000)
    y, z = z3.Ints("y z")
    hard = claim("hard", z3.Implies(z3.And(X > 2, y > 2, z > 2), X**3 + y**3 != z**3))
    assert of_goals([hard]).kind == UNDECIDED
    assert of_goals([hard, claim("false", X > 0)]) == Verdict(REFUTED, "theorem: false")


def test_a_refusal_is_told_from_a_proof_that_breaks() -> None:
    def refuses() -> None:
        raise sym.Unsupported("no")

    assert verdict(refuses) == Verdict(REFUSED, "no")
    assert verdict(lambda: [][0]).kind == BROKEN


def test_a_trial_that_fails_by_itself_says_nothing() -> None:
    with pytest.raises(NoVerdict, match="gone: exit 3"):
        list(run([Mutant("code", "gone", lambda: os._exit(3))], jobs=1))


def test_a_trial_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> Verdict:
        while True:
            pass

    monkeypatch.setattr(mutants, "CPU_SECONDS", 1)
    [(_, said, _)] = run([Mutant("code", "endless", endless)], jobs=1)
    assert said == Verdict(ENDLESS)


def test_it_is_known_which_functions_a_change_touches() -> None:
    text = shipped()["ranges"]
    assert touched(CORE, {"ranges": text}) == set()
    changed = text.replace("if r.lo <= offset", "if r.lo < offset")
    assert touched(CORE, {"ranges": changed}) == {"ranges.ballot_at"}
    assert touched(CORE, {"ranges": text + "\nlimit = 1\n"}) is None


def test_a_run_goes_on_after_its_log(tmp_path: Path) -> None:
    log = tmp_path / "verdicts"
    assert mutants.logged(log) == {}
    mutant = Mutant("code", "acceptor.on_write +1: a < b -> a <= b", lambda: Verdict(SURVIVED))
    mutants.note(log, mutant, Verdict(REFUTED, "agreement: path 1"), 2.0)
    assert mutants.logged(log) == {mutant.name: (Verdict(REFUTED, "agreement: path 1"), 2.0)}


def test_every_survivor_that_is_explained_is_still_a_mutant() -> None:
    assert mutants.stale() == [], "the code has changed: try these functions' mutants again"
