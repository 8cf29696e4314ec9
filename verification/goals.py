"""Goals: what is to be proved, by which solver, and how long it took.

A `Goal` is a claim `hypotheses => conclusion`, or the claim that the hypotheses can all be true
at once (`possible`: without it, anything could be proved from a contradiction).  z3 decides
each; goals of layer 2 and above are then given, as SMT-LIB text, to cvc5, an independent solver.
Anything but a definite answer is a failure.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import cvc5
import z3

from verification.explaining import Scene, runs, story

CODE, MODEL, BOTH = "code", "model", "code + model"
TIMEOUT_MS = 30_000
EFFORT = 0
"""What z3 may do for a goal, in its own unit, however busy the machine is; 0: any effort."""


@dataclass
class Goal:
    """One claim.

    Attributes:
        theorem: the theorem that it is a part of: a row of the table.
        name: what this part says.
        about: the shipped `CODE`, a `MODEL` written for the proof, or both.
        possible: claim that the hypotheses are satisfiable, instead of the conclusion.
        second: whether a second solver has to agree.
        scene: where it comes from, to tell a counterexample by.
    """

    theorem: str
    name: str
    hypotheses: Sequence[z3.BoolRef]
    conclusion: z3.BoolRef
    about: str = CODE
    possible: bool = False
    second: bool = False
    scene: Scene | None = None


@dataclass
class Outcome:
    """What came of a goal.

    Attributes:
        model: of a goal that is refuted: what refutes it.
    """

    goal: Goal
    answer: str
    seconds: float
    solvers: list[str] = field(default_factory=list)
    model: z3.ModelRef | None = None

    @property
    def proved(self) -> bool:
        """Whether the goal holds, by every solver that was asked."""
        return self.answer == "proved"

    def explained(self) -> str:
        """What failed, with the counterexample in the code's own names, for people."""
        answer = self.answer if runs(self.goal.scene) else "does not run"
        head = f"{answer}: {self.goal.theorem}: {self.goal.name}"
        return "\n    ".join([head, *story(self.goal.scene, self.model)])


def _solver(hypotheses: Sequence[z3.BoolRef], conclusion: z3.BoolRef | None) -> z3.Solver:
    solver = z3.Solver()
    solver.set("timeout", TIMEOUT_MS)
    solver.set("rlimit", EFFORT)
    solver.add(*hypotheses)
    if conclusion is not None:
        solver.add(z3.Not(conclusion))
    return solver


def needed(goal: Goal) -> list[z3.BoolRef]:
    """Hypotheses that suffice, as z3 finds them: its unsatisfiable core."""
    solver = z3.Solver()
    solver.set("timeout", TIMEOUT_MS)
    names = {}
    for i, hypothesis in enumerate(goal.hypotheses):
        names[f"h{i}"] = hypothesis
        solver.assert_and_track(hypothesis, z3.Bool(f"h{i}"))
    solver.add(z3.Not(goal.conclusion))
    if solver.check() != z3.unsat:
        return list(goal.hypotheses)
    return [names[str(name)] for name in solver.unsat_core()]


def check(goal: Goal, second: bool = True) -> Outcome:
    """Decide one goal.

    The second solver is given the hypotheses that the first one needed: fewer hypotheses claim
    more, so its agreement is worth no less.
    """
    began = time.perf_counter()
    want = "sat" if goal.possible else "unsat"
    conclusion = None if goal.possible else goal.conclusion
    solver = _solver(goal.hypotheses, conclusion)
    answer = str(solver.check())
    outcome = Outcome(goal, "proved", 0.0, ["z3"])
    if answer == "sat" and not goal.possible:
        outcome.model = solver.model()
    if goal.possible and answer == "unknown":  # one model is enough, whoever finds it
        answer = ask_cvc5(_solver(goal.hypotheses, None).to_smt2(), want)
        outcome.solvers = ["cvc5"]
    if answer != want:
        outcome.answer = "refuted" if answer in ("sat", "unsat") else f"unknown: {answer}"
    elif goal.second and second and not goal.possible:
        other = ask_cvc5(_solver(needed(goal), conclusion).to_smt2(), want)
        outcome.solvers.append("cvc5")
        if other != want:
            outcome.answer = f"cvc5: {other}"
    outcome.seconds = time.perf_counter() - began
    return outcome


def hold_together(goals: Sequence[Goal]) -> bool:
    """Whether goals that share their very list of hypotheses are seen at once to hold, all."""
    if len(goals) == 1 or any(goal.possible or goal.second for goal in goals):
        return False
    every = z3.And(*[goal.conclusion for goal in goals])
    return bool(_solver(goals[0].hypotheses, every).check() == z3.unsat)


def check_together(goals: Sequence[Goal], second: bool = True) -> list[Outcome]:
    """Decide goals that share their very list of hypotheses."""
    began = time.perf_counter()
    if hold_together(goals):
        seconds = (time.perf_counter() - began) / len(goals)
        return [Outcome(goal, "proved", seconds, ["z3"]) for goal in goals]
    return [check(goal, second) for goal in goals]


def shared(goals: Iterable[Goal]) -> Iterator[list[Goal]]:
    """The goals in turn, those together that share their hypotheses."""
    for _, some in groupby(goals, key=lambda goal: id(goal.hypotheses)):
        yield list(some)


def check_all(goals: Iterable[Goal], second: bool = True, stop: bool = False) -> list[Outcome]:
    """Decide the goals in turn; with `stop`, only up to the first that fails."""
    outcomes: list[Outcome] = []
    for goal in goals:
        outcomes.append(check(goal, second))
        if stop and not outcomes[-1].proved:
            break
    return outcomes


def ask_cvc5(text: str, want: str) -> str:
    """cvc5's answer; for a possibility it looks for a finite model."""
    solver = cvc5.Solver()
    solver.setOption("tlimit-per", str(TIMEOUT_MS))
    solver.setOption("fresh-binders", "true")
    if want == "sat":
        solver.setOption("finite-model-find", "true")
    else:
        solver.setOption("enum-inst", "true")
    parser = cvc5.InputParser(solver)
    text = "(set-logic ALL)\n" + text
    parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "goal")
    symbols = parser.getSymbolManager()
    answer = "no answer"
    while True:
        command = parser.nextCommand()
        if command.isNull():
            return answer
        said = str(command.invoke(solver, symbols)).strip()
        if said in ("sat", "unsat", "unknown"):
            answer = said
        elif said:
            return said
