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

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import z3

from verification import theory as th
from verification.explaining import Scene, defined, like, place
from verification.goals import Goal
from verification.source import CORE, Core, Package, load
from verification.symex import Path, SymBool, Unsupported, current, explore

Facts = list[z3.BoolRef]
Claims = dict[str, z3.BoolRef]


@dataclass(frozen=True)
class Splice:
    """All elements of a sequence that is not known, where Python unpacked it."""

    sequence: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Unsupported(
            f"{_where()}: an expression (`max`, `min`, `sum`, a comprehension) takes the elements "
            f"of a sequence of any length one by one (here, their {name}), and only a `for` loop "
            "has an invariant to be proved by; write it so: `for x in xs: acc = step(acc, x)`"
            f"{_invariants()}"
        )


def _shipped() -> tuple[Engine, FrameType] | None:
    """The shipped code that is executed, and what executes it."""
    frame = inspect.currentframe()
    while frame is not None and "__loop__" not in frame.f_globals:
        frame = frame.f_back
    return None if frame is None else (frame.f_globals["__loop__"].__self__, frame)


def _where() -> str:
    """The line of it."""
    if (found := _shipped()) is None:
        return "the proof"
    engine, frame = found
    return place(engine.package, frame.f_code.co_filename.removesuffix(".py"), frame.f_lineno)


def _invariants() -> str:
    """Where the invariants of its loops are."""
    if (found := _shipped()) is None:
        return ""
    engine, frame = found
    name = f"{frame.f_code.co_filename.removesuffix('.py')}.{frame.f_code.co_qualname}"
    own = [s for s in engine.invariants if s.split(":")[0] == name.split(".<locals>")[0]]
    return "".join(f"; {engine.told(site)} is there already" for site in own)


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


class Variables(dict[str, Any]):
    """The variables that a loop finds set, for its invariant to speak of."""

    def __init__(self, known: Mapping[str, Any], loop: str) -> None:
        super().__init__(known)
        self.loop = loop

    def __missing__(self, name: str) -> Any:
        raise Unsupported(
            f"{self.loop} speaks of a variable {name!r}, which is not set there any more; set are: "
            f"{like(name, self)}; if it was renamed, rename it in the invariant, too"
        )


class Engine:
    """Executes the core symbolically and collects what remains to be shown."""

    def __init__(
        self,
        invariants: Mapping[str, Invariant],
        changed: Mapping[str, str] | None = None,
        package: Package = CORE,
    ) -> None:
        self.invariants = dict(invariants)
        self.package = package
        self.core = load(self.loop, changed, package)
        self.established: set[str] = set()
        self.goals: list[Goal] = []
        self._now = ""
        self._emitted: set[tuple[str, tuple[bool, ...]]] = set()

    # ------------------------------------------------------------------ running

    def paths(self, function: str, *args: Any, assume: Sequence[z3.BoolRef] = ()) -> list[Path]:
        """Every path through a function of the core, "module.name"."""
        module, name = function.rsplit(".", 1)
        executed = getattr(self.core.modules[module], name)
        paths = explore(executed, *args, assume=assume)
        names = _names(executed, args)
        for path in paths:
            path.names = names
        return paths

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
            gone = "; ".join(self.told(site) for site in sorted(missing))
            raised = [path.error for path in paths if path.error is not None]
            why = f" (it raises {type(raised[0]).__name__}: {raised[0]})" if raised else ""
            raise Unsupported(
                f"{function} does not reach the loop that it is proved by{why}: there is {gone}; "
                "if it was given another form, write it so: `for x in xs: acc = step(acc, x)`"
            )
        self.established |= sites
        return paths

    def claim(
        self,
        theorem: str,
        name: str,
        hypotheses: Sequence[z3.BoolRef],
        conclusion: z3.BoolRef,
        path: Path | None = None,
        hint: str = "",
    ) -> None:
        """Add a goal about the code; `path` and `hint` are for people, should it fail."""
        known = [*th.BALLOTS, *hypotheses]
        self.goals.append(self._goal(theorem, name, known, conclusion, path, hint))

    def _goal(
        self, theorem: str, name: str, known: Facts, claim: z3.BoolRef, path: Path | None, hint: str
    ) -> Goal:
        scene = None
        if path is not None:
            scene = Scene(self.package, self.core.sources, path, path.names, hint)
        return Goal(theorem, name, known, claim, scene=scene)

    def each(
        self,
        theorem: str,
        paths: Sequence[Path],
        conclusion: Callable[[Any], z3.BoolRef | Claims],
        given: Sequence[z3.BoolRef] = (),
    ) -> None:
        """Add, for every path, the goals that its result satisfies `conclusion`, without errors."""
        for i, path in enumerate(paths):
            known = [*th.BALLOTS, *given, *path.hypotheses]
            if path.error is not None:
                claims = {f"raises {path.error!r}: it cannot happen": z3.BoolVal(False)}
            else:
                concluded = conclusion(path.result)
                claims = concluded if isinstance(concluded, dict) else {"": concluded}
            self.goals.extend(
                [
                    self._goal(theorem, f"path {i} {clause}".rstrip(), known, formula, path, "")
                    for clause, formula in claims.items()
                ]
            )

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
            raise Unsupported(
                f"{site}: a loop over a sequence that is not known, and there is no invariant of "
                "that name; say what stays true in it, among the INVARIANTS of verification/"
            )
        known = Variables(known, self.told(site))
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
        theorem, hint = f"loop {site}: invariant", self._changed(site, body)
        variables = inspect.getfullargspec(body).args
        before = dict(zip(variables, carried, strict=False))
        first = Path([], [], before, None, run.turns, {**known})
        for clause, formula in rule.holds(rule.empty(), carried, carried, known).items():
            self.claim(theorem, f"{clause}: before the first element", here, formula, first, hint)
        some = rule.arbitrary()
        havoc = rule.havoc(self.core, carried, known)
        element, facts = rule.element(self.core)
        given = [*here, *facts, *rule.holds(some, carried, havoc(), known).values()]
        more = rule.add(some, element)
        for i, path in enumerate(explore(lambda: body(*havoc(), element), assume=here)):
            path.names = {**known, **dict(zip(variables, [*havoc(), element], strict=True))}
            if path.error is not None or path.result[0]:
                if not rule.leaves:
                    leaves = [*given, *path.hypotheses]
                    name = f"path {i} leaves the loop"
                    self.claim(theorem, name, leaves, z3.BoolVal(False), path, hint)
                continue
            after = path.result[1]
            path.result = dict(zip(variables, after, strict=False))
            for clause, formula in rule.holds(more, carried, after, known).items():
                name = f"{clause}: kept by the body, path {i}"
                self.claim(theorem, name, [*given, *path.hypotheses], formula, path, hint)

    def told(self, site: str) -> str:
        """A loop, and where its invariant is."""
        return f"the invariant of {site} ({defined(self.invariants[site].holds)})"

    def _changed(self, site: str, body: Callable[..., Any]) -> str:
        """What to do where a loop does not keep its invariant."""
        module = body.__code__.co_filename.removesuffix(".py")
        at = place(self.package, module, body.__code__.co_firstlineno)
        return (
            f"The loop at {at} does not keep its invariant, which is in "
            f"{defined(self.invariants[site].holds)}. If the loop was changed on purpose, say "
            "there what stays true in it now."
        )


def _names(function: Callable[..., Any], args: Sequence[Any]) -> dict[str, Any]:
    """The arguments, by the names of the parameters."""
    try:
        return dict(inspect.signature(function).bind(*args).arguments)
    except TypeError:  # the call has failed as well, and says why
        return {}
