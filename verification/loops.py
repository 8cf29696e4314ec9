"""Loops over sequences of unknown length, cut by invariants.

A loop that `source` rewrote calls `Engine.loop`.  For a sequence that is not known:

* where the loop's own function is being proved (`Engine.establish`), for arbitrary arguments, it
  emits the two obligations of induction: the invariant holds before the first element, and the
  body keeps it for an arbitrary element;
* everywhere else, the loop's outcome is fresh and all that is known of it is the invariant.  A
  loop whose invariant has not been established cannot be used.

So a function that contains loops, or calls one that does, is executed as a whole, as it stands.

A body that may `return` or raise is first allowed to: for an arbitrary element, after any number
of others.  What is then left is the case that no element made it leave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import z3

from verification import theory as th
from verification.goals import Goal
from verification.source import CORE, Core, Package, load
from verification.symex import Path, SymBool, Unsupported, current, explore

Facts = list[z3.BoolRef]
Claims = dict[str, z3.BoolRef]


@dataclass(frozen=True)
class Splice:
    """All elements of a sequence that is not known, where Python unpacked it."""

    sequence: Any


class Symbolic:
    """A sequence that is not known.  Unpacking it leaves one mark: `(*xs, y)` is (mark, y)."""

    def __iter__(self) -> Any:
        yield self.splice()

    def splice(self) -> Any:
        """The mark that stands for all elements."""
        return Splice(self)

    def __bool__(self) -> bool:
        """Either: a sequence that is not known may be empty, and all is proved of it anyway."""
        return bool(SymBool(th.fresh("nonempty", th.Bool)))


@dataclass
class Invariant:
    """What stays true in a loop.

    Attributes:
        arbitrary: any set of elements seen so far.
        empty: the set of none.
        element: any element, and what every element satisfies.
        add: a set and one element more.
        seen: the set of all elements of a sequence.
        havoc: given what the loop carries at first and the function's variables, a maker of
            what it might carry at any later time.  Called per execution: proxies may be mutable.
        holds: the invariant itself, clause by clause, of (elements seen, carried at first,
            carried now, the function's variables).
        leaves: whether the body may return or raise.
        among: that some elements, and one more, are elements of a sequence; needed only where
            what makes the body leave matters.
    """

    arbitrary: Callable[[], Any]
    empty: Callable[[], Any]
    element: Callable[[Core], tuple[Any, Facts]]
    add: Callable[[Any, Any], Any]
    seen: Callable[[Any], Any]
    havoc: Callable[[Core, Sequence[Any], Mapping[str, Any]], Callable[[], Sequence[Any]]]
    holds: Callable[[Any, Sequence[Any], Sequence[Any], Mapping[str, Any]], Claims]
    leaves: bool = False
    among: Callable[[Any, Any], Facts] = lambda some, every: []


class Engine:
    """Executes the core symbolically and collects what remains to be shown."""

    def __init__(
        self,
        invariants: Mapping[str, Invariant],
        changed: Mapping[str, str] | None = None,
        package: Package = CORE,
    ) -> None:
        self.invariants = dict(invariants)
        self.core = load(self.loop, changed, package)
        self.established: set[str] = set()
        self.goals: list[Goal] = []
        self._now = ""
        self._emitted: set[tuple[str, tuple[bool, ...]]] = set()

    # ------------------------------------------------------------------ running

    def paths(self, function: str, *args: Any, assume: Sequence[z3.BoolRef] = ()) -> list[Path]:
        """Every path through a function of the core, "module.name"."""
        module, name = function.rsplit(".", 1)
        return explore(getattr(self.core.modules[module], name), *args, assume=assume)

    def establish(self, function: str, *args: Any, assume: Sequence[z3.BoolRef] = ()) -> list[Path]:
        """Prove the invariants of the loops of a function, for these (arbitrary) arguments."""
        self._now = function
        self._emitted.clear()
        try:
            paths = self.paths(function, *args, assume=assume)
        finally:
            self._now = ""
        sites = {site for site, _ in self._emitted if site.startswith(function + ":")}
        missing = {s for s in self.invariants if s.startswith(function + ":")} - sites
        if missing:
            raise Unsupported(f"no such loop any more: {', '.join(sorted(missing))}")
        self.established |= sites
        return paths

    def claim(
        self, theorem: str, name: str, hypotheses: Sequence[z3.BoolRef], conclusion: z3.BoolRef
    ) -> None:
        """Add a goal about the code."""
        self.goals.append(Goal(theorem, name, [*th.BALLOTS, *hypotheses], conclusion))

    def each(
        self,
        theorem: str,
        paths: Sequence[Path],
        conclusion: Callable[[Any], z3.BoolRef | Claims],
        given: Sequence[z3.BoolRef] = (),
    ) -> None:
        """Add, for every path, the goal that its result satisfies `conclusion`, without errors."""
        for i, path in enumerate(paths):
            if path.error is not None:
                name = f"path {i} raises {path.error!r}: it cannot happen"
                self.claim(theorem, name, [*given, *path.hypotheses], z3.BoolVal(False))
                continue
            claims = conclusion(path.result)
            if not isinstance(claims, dict):
                claims = {"": claims}
            for clause, formula in claims.items():
                name = f"path {i} {clause}".rstrip()
                self.claim(theorem, name, [*given, *path.hypotheses], formula)

    def summarise(self, function: str, summary: Callable[..., Any]) -> None:
        """From now on, what has been proved of a function stands for the function."""
        module, name = function.split(".")
        self.core.modules[module].__dict__[name] = summary

    # ------------------------------------------------------------------ the hook

    def loop(
        self,
        site: str,
        body: Callable[..., Any],
        sequence: Any,
        carried: tuple[Any, ...],
        known: dict[str, Any],
    ) -> tuple[tuple[Any, ...], Sequence[Any]]:
        """Run a loop of the core; called by the rewritten functions."""
        if isinstance(sequence, tuple | list) and not any(isinstance(x, Splice) for x in sequence):
            for element in sequence:
                early, carried = body(*carried, element)
                if early:
                    return early, carried
            return (), carried
        rule = self.invariants.get(site)
        if rule is None:
            raise Unsupported(f"{site}: a loop over a sequence that is not known, no invariant")
        if site.split(":")[0] == self._now:
            self._obligations(site, rule, body, carried, known)
        elif site not in self.established:
            raise Unsupported(f"{site}: the invariant is used before it is established")
        run = current()
        every = rule.seen(sequence)
        if rule.leaves and bool(SymBool(th.fresh("leaves", th.Bool))):
            some, now = rule.arbitrary(), rule.havoc(self.core, carried, known)()
            element, facts = rule.element(self.core)
            run.facts += [*facts, *rule.holds(some, carried, now, known).values()]
            run.facts += rule.among(rule.add(some, element), every)
            early, last = body(*now, element)
            if not early:
                run.facts.append(z3.BoolVal(False))  # this element did not leave
            return early, last
        after = rule.havoc(self.core, carried, known)()
        run.facts += rule.holds(every, carried, after, known).values()
        return (), after

    def _obligations(
        self, site: str, rule: Invariant, body: Any, carried: tuple[Any, ...], known: dict[str, Any]
    ) -> None:
        run = current()
        reached = site, tuple(run.trail)
        if reached in self._emitted:  # by the same way, when the function was run again
            return
        self._emitted.add(reached)
        here = [*run.conditions, *run.facts]
        theorem = f"loop {site}: invariant"
        for clause, formula in rule.holds(rule.empty(), carried, carried, known).items():
            self.claim(theorem, f"{clause}: before the first element", here, formula)
        some = rule.arbitrary()
        havoc = rule.havoc(self.core, carried, known)
        element, facts = rule.element(self.core)
        given = [*here, *facts, *rule.holds(some, carried, havoc(), known).values()]
        more = rule.add(some, element)
        for i, path in enumerate(explore(lambda: body(*havoc(), element), assume=here)):
            if path.error is not None or path.result[0]:
                if not rule.leaves:
                    leaves = [*given, *path.hypotheses]
                    self.claim(theorem, f"path {i} leaves the loop", leaves, z3.BoolVal(False))
                continue
            for clause, formula in rule.holds(more, carried, path.result[1], known).items():
                name = f"{clause}: kept by the body, path {i}"
                self.claim(theorem, name, [*given, *path.hypotheses], formula)
