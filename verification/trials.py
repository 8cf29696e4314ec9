"""The trial of a mutant: what the proof says of code that was made wrong.

A trial runs the sections of the proof that execute what was changed (`Ran` looks at which do, with
what ships), and decides each goal as it is claimed, so that the first that fails ends it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from verification import (
    acceptor,
    applications,
    asking,
    captures,
    goals,
    lint,
    proposer,
    protocol,
    prover,
    ranges,
    register,
    tallies,
)
from verification.applications import PACKAGE
from verification.goals import Goal
from verification.loops import Engine
from verification.source import CORE, NotAFold, Package, shipped
from verification.symex import Unsupported
from verification.system import contract

SURVIVED, REFUTED, UNDECIDED, REFUSED, BROKEN, ENDLESS = (
    *("survived", "refuted", "undecided", "refused", "broken", "endless"),
)
"""What came of a mutant: all that is claimed still holds; the solver shows where a claim does not,
or does not know; the executor or the lint refuses the code; the proof does not run with it; or
does not end."""


PATIENCE = 3
"""So many undecided goals end a trial."""


@dataclass(frozen=True)
class Verdict:
    """What came of a mutant, and of which claim."""

    kind: str
    why: str = ""

    @property
    def killed(self) -> bool:
        """Whether the proof noticed."""
        return self.kind != SURVIVED


class Killed(Exception):
    """A claim does not hold any more."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.why)
        self.verdict = verdict


class Watched(list[Goal]):
    """An engine's goals, each decided as it is claimed.

    Of those that the solver cannot decide a few are let pass: another may be refuted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.undecided: list[Goal] = []

    def extend(self, some: Iterable[Goal]) -> None:
        for together in goals.shared(some):
            if goals.hold_together(together):
                super().extend(together)
            else:
                for goal in together:
                    self.append(goal)

    def append(self, goal: Goal) -> None:
        super().append(goal)
        outcome = goals.check(goal, second=False)
        if outcome.answer == "refuted":
            raise Killed(Verdict(REFUTED, f"{goal.theorem}: {goal.name}"))
        if not outcome.proved:
            self.undecided.append(goal)
        if len(self.undecided) == PATIENCE:
            self.end()

    def end(self) -> None:
        """Nothing more is looked at."""
        for goal in self.undecided:
            raise Killed(Verdict(UNDECIDED, f"{goal.theorem}: {goal.name}"))


Section = Callable[[Engine], None]


def _handlers(e: Engine) -> None:
    """The paths of the handlers are actions of the protocol."""
    for goal in protocol.goals(e):
        if "path of the handler" in goal.theorem:
            e.goals.append(goal)


def _links(part: ModuleType) -> Section:
    """What a part's code does are actions of its model."""

    def links(e: Engine) -> None:
        for goal in part.links(e):
            e.goals.append(goal)

    return links


def _sections(part: ModuleType) -> tuple[Section, ...]:
    """What a part's `prove` calls in turn, each by itself; or `prove`, if it is not like that."""
    called = [vars(part).get(name) for name in part.prove.__code__.co_names]
    own = [f for f in called if isinstance(f, FunctionType) and f.__module__ == part.__name__]
    return tuple(own) if len(own) == len(called) else (part.prove,)


CORE_PARTS = (ranges, acceptor, tallies, proposer, captures, asking)
LINKS = {_links(part): part.prove for part in applications.PARTS if hasattr(part, "links")}
LAYER_1 = (*(s for part in CORE_PARTS for s in _sections(part)), _handlers)
LAYER_4 = (*(s for part in applications.PARTS for s in _sections(part)), *LINKS)
"""Each is run by itself, after what it needs."""

PART_OF = {
    **{section: part for part in applications.PARTS for section in _sections(part)},
    **{
        link: next(p for p in applications.PARTS if p.prove is prove)
        for link, prove in LINKS.items()
    },
}
"""The part of layer 4 that a section is of."""

NEEDS: dict[Section, Section] = {
    **dict.fromkeys((*_sections(acceptor), _handlers), ranges.prove),
    captures.prove: proposer.prove,
    **LINKS,
}
"""What establishes the loops that a section uses."""


def verdict(trial: Callable[[], None]) -> Verdict:
    """What came of a trial."""
    try:
        trial()
    except Killed as end:
        return end.verdict
    except (Unsupported, NotAFold, lint.LintError) as e:
        return Verdict(REFUSED, f"{e}".splitlines()[0])
    except Exception as e:  # noqa: BLE001 - whatever stops the proof is a kill
        return Verdict(BROKEN, f"{type(e).__name__}: {e}".splitlines()[0])
    return Verdict(SURVIVED)


def of_goals(todo: Iterable[Goal]) -> Verdict:
    """The verdict on goals that are made beforehand."""

    def trial() -> None:
        watched = Watched()
        for goal in todo:
            watched.append(goal)
        watched.end()

    return verdict(trial)


# ------------------------------------------------------------------ which sections


class Ran:
    """The functions of a package that are executed: "module.name" or "module.Class.name"."""

    def __init__(self, package: Package) -> None:
        self.files = {f"{name}.py": name for name in package.modules}
        self.functions: set[str] = set()

    def __enter__(self) -> set[str]:
        sys.setprofile(self._on_event)
        return self.functions

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _on_event(self, frame: Any, event: str, _: object) -> None:
        module = self.files.get(frame.f_code.co_filename) if event == "call" else None
        if module:
            name = frame.f_code.co_qualname.split(".<locals>")[0]
            self.functions.add(f"{module}.{name}")


def _core(changed: Mapping[str, str] | None = None) -> Engine:
    prover.check_lint(changed)
    return Engine(prover.INVARIANTS, changed)


def _needed(section: Section, engine: Engine) -> None:
    if section in NEEDS:
        NEEDS[section](engine)


@cache
def executed(section: Section) -> frozenset[str]:
    """What a section executes of what ships."""
    package, engine = (CORE, _core()) if section in LAYER_1 else (PACKAGE, applications.engine())
    _needed(section, engine)
    with Ran(package) as functions:
        section(engine)
    if section in PART_OF:
        within = modules_of(PART_OF[section])
        beyond = {f for f in functions if not f.startswith(tuple(f"{m}." for m in within))}
        if beyond:
            raise LookupError(
                f"{PART_OF[section].__name__} executes what it does not name: {beyond}"
            )
    return frozenset(functions)


@cache
def modules_of(part: ModuleType) -> frozenset[str]:
    """The modules that a part names, or the parts that it imports, with those that they import."""
    parts = [part, *(p for p in applications.PARTS if f"{p.__name__} import" in _source(part))]
    texts = ships(PACKAGE)
    named = {m for m in texts if any(f'"{m}' in _source(p) for p in parts)}
    while True:
        more = {m for m in texts for n in named if f"from {PACKAGE.name}.{m} import" in texts[n]}
        if more <= named:
            return frozenset(named)
        named |= more


def _source(part: ModuleType) -> str:
    return Path(str(part.__file__)).read_text()


@cache
def ships(package: Package) -> dict[str, str]:
    """What ships, as it was at first: the files may be changed while mutants are tried."""
    return shipped(package)


def touched(package: Package, changed: Mapping[str, str]) -> set[str] | None:
    """The functions that differ from what ships; None if something else does."""
    out: set[str] = set()
    for module, text in changed.items():
        old, new = _functions(ships(package)[module]), _functions(text)
        if old.keys() != new.keys() or old[""] != new[""]:
            return None
        out |= {f"{module}.{name}" for name in old if old[name] != new[name]}
    return out


def _functions(text: str) -> dict[str, str]:
    """A module's functions and methods, each as text; and, under "", the rest."""
    tree = ast.parse(text)
    out: dict[str, str] = {}

    def take(body: list[ast.stmt], prefix: str) -> None:
        for node in list(body):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                out[prefix + node.name] = ast.unparse(node)
                body[body.index(node)] = ast.Pass()
            elif isinstance(node, ast.ClassDef):
                take(node.body, f"{prefix}{node.name}.")

    take(tree.body, "")
    out[""] = ast.unparse(tree)
    return out


def _try(
    sections: tuple[Section, ...],
    package: Package,
    engine: Callable[[Mapping[str, str]], Engine],
    changed: Mapping[str, str],
) -> Verdict:
    def trial() -> None:
        concerned = _concerned(sections, package, changed)
        for section in [s for s in sections if s in concerned]:
            e = engine(ships(package) | dict(changed))
            _needed(section, e)
            watched = e.goals = Watched()
            section(e)
            watched.end()

    return verdict(trial)


def killed(changed: Mapping[str, str]) -> Verdict:
    """What layer 1 says of this code."""
    return _try(LAYER_1, CORE, _core, changed)


def killed_application(changed: Mapping[str, str]) -> Verdict:
    """What layer 4 says of this code."""
    return _try(LAYER_4, PACKAGE, applications.engine, changed)


def _concerned(
    sections: tuple[Section, ...], package: Package, changed: Mapping[str, str]
) -> frozenset[Section]:
    """The sections that a change may matter to; all, if nothing is changed."""
    functions = touched(package, changed)
    if not functions:
        return frozenset(sections)
    modules = {
        max((m for m in package.modules if f.startswith(m + ".")), key=len) for f in functions
    }
    may = [s for s in sections if s not in PART_OF or modules & modules_of(PART_OF[s])]
    return frozenset(s for s in may if functions & executed(s))


def killed_specification(text: str) -> Verdict:
    """What layer 3 says of this specification."""

    def trial() -> None:
        engine = Engine(prover.INVARIANTS)
        ranges.prove(engine)
        end = of_goals([*contract(text), *register.goals(engine, text)])
        if end.killed:
            raise Killed(end)

    return verdict(trial)
