"""Symbolic execution of real Python functions, by running them again.

A proxy stands for a value that is not known.  Comparing two gives a `SymBool`; asking that for
its truth asks the current run which way to go, and the run that took the other way is done
later.  So it is CPython that executes the function's own bytecode, and no subset of Python is
modelled.  What a proxy cannot follow raises `Unsupported`; what would go wrong *silently*
(identity, reflection, exceptions that are caught) is refused beforehand by `lint`.

Loops over sequences of unknown length are cut by an invariant, see `loops`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import z3

from verification import theory as th

MAX_DECISIONS = 60
"""On one path; the longest through what ships has about twenty."""


class Unsupported(Exception):
    """The function does something that a symbolic value cannot follow."""


@dataclass(frozen=True)
class Turn:
    """A branch that was taken.

    Attributes:
        module: of the shipped code that asked; "" if none of it did.
        line: there.
        what: the name of what was chosen, if the scene chose it.
        choice: yes or no.
    """

    module: str
    line: int
    what: str
    choice: bool


@dataclass
class Path:
    """One way through a function.

    Attributes:
        conditions: the branches taken.
        facts: what the invariants of the loops on the way say.
        result: what was returned; or
        error: what was raised.
        turns: the branches taken, by the lines of the code that took them.
        names: the arguments, or the variables of a loop, by name.
    """

    conditions: list[z3.BoolRef]
    facts: list[z3.BoolRef]
    result: Any = None
    error: Any = None
    turns: list[Turn] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=dict)

    @property
    def hypotheses(self) -> list[z3.BoolRef]:
        """All that is known on this path."""
        return self.conditions + self.facts


@dataclass
class Run:
    """One execution: decisions to repeat, then new ones, True first.

    Attributes:
        prune: whether the facts, too, say which ways are possible (`told`: so many of them so far).
    """

    forced: list[bool]
    solver: z3.Solver
    trail: list[bool] = field(default_factory=list)
    conditions: list[z3.BoolRef] = field(default_factory=list)
    facts: list[z3.BoolRef] = field(default_factory=list)
    pending: list[list[bool]] = field(default_factory=list)
    prune: bool = False
    told: int = 0
    turns: list[Turn] = field(default_factory=list)

    def decide(self, condition: z3.BoolRef) -> bool:
        """The truth of `condition` on this path."""
        condition = z3.simplify(condition)
        if z3.is_true(condition):
            return True
        if z3.is_false(condition):
            return False
        if len(self.trail) < len(self.forced):
            choice = self.forced[len(self.trail)]
        elif len(self.trail) >= MAX_DECISIONS:
            raise Unsupported("a loop that does not seem to end")
        else:  # what the solver does not know counts as possible
            if self.prune:
                self.solver.add(*self.facts[self.told :])
                self.told = len(self.facts)
            choice = self.solver.check(condition) != z3.unsat
            if choice and self.solver.check(z3.Not(condition)) != z3.unsat:
                self.pending.append([*self.trail, False])
        self.trail.append(choice)
        self.turns.append(_turn(condition, choice))
        taken = condition if choice else z3.Not(condition)
        self.conditions.append(taken)
        self.solver.add(taken)
        return choice


def _turn(condition: z3.BoolRef, choice: bool) -> Turn:
    frame = sys._getframe(2)
    while frame.f_back is not None and "__loop__" not in frame.f_globals:
        frame = frame.f_back
    shipped = "__loop__" in frame.f_globals
    module = frame.f_code.co_filename.removesuffix(".py") if shipped else ""
    what = str(condition).split("!")[0] if z3.is_const(condition) else ""
    return Turn(module, frame.f_lineno, what, choice)


_runs: list[Run] = []


def current() -> Run:
    """The run that is under way."""
    if not _runs:
        raise Unsupported("a symbolic value was branched on outside of explore()")
    return _runs[-1]


def explore(
    function: Callable[..., Any],
    *args: Any,
    assume: Sequence[z3.BoolRef] = (),
    max_paths: int = 4000,
    prune: bool = False,
    axioms: Sequence[z3.BoolRef] = th.BALLOTS,
) -> list[Path]:
    """Every feasible path of `function(*args)`, given the `assume`d formulas.

    With `prune`, paths that the facts met on the way exclude are left out as well.  Fewer `axioms`
    leave in paths that cannot be taken, of which all is true: quantifiers are slow.
    """
    solver = z3.Solver()
    solver.set("timeout", 2000)
    solver.add(*axioms, *assume)
    paths: list[Path] = []
    todo: list[list[bool]] = [[]]
    while todo:
        solver.push()
        run = Run(todo.pop(), solver, prune=prune)
        _runs.append(run)
        result, error = None, None
        try:
            result = function(*args)
        except Unsupported:
            raise
        except Exception as raised:  # noqa: BLE001 - what the function raises is a result
            error = raised
        finally:
            _runs.pop()
            solver.pop()
        paths.append(Path(run.conditions, run.facts, result, error, run.turns))
        todo += run.pending
        if len(paths) > max_paths:
            raise Unsupported(f"more than {max_paths} paths through {function.__name__}")
    return paths


def _refuse(operation: str) -> Callable[..., NoReturn]:
    def refuse(self: Sym, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise Unsupported(f"__{operation}__ of a {type(self).__name__}")

    return refuse


class Sym:
    """A value that is not known; `z` is the term that stands for it."""

    __slots__ = ("z",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, z: z3.ExprRef) -> None:
        self.z = z

    for _name in (
        *("index", "int", "float", "str", "repr", "format", "len", "iter", "contains", "getitem"),
        *("call", "reduce_ex", "bytes", "add", "radd", "sub", "rsub", "mul", "floordiv", "mod"),
        *("and", "or", "xor", "lshift", "rshift", "neg", "invert", "lt", "le", "gt", "ge"),
    ):
        locals()[f"__{_name}__"] = _refuse(_name)
    del _name

    def __bool__(self) -> bool:
        raise Unsupported(f"the truth of a {type(self).__name__}, which is not a comparison")

    def lift(self, other: Any) -> z3.ExprRef:
        """The term for `other`, to compare with."""
        if type(other) is type(self):
            return other.z
        raise Unsupported(f"a {type(self).__name__} compared with {other!r}")

    def __eq__(self, other: object) -> SymBool:  # type: ignore[override]
        return SymBool(self.z == self.lift(other))

    def __ne__(self, other: object) -> SymBool:  # type: ignore[override]
        return SymBool(self.z != self.lift(other))


class SymBool(Sym):
    """The outcome of a comparison."""

    __slots__ = ()

    def lift(self, other: Any) -> z3.ExprRef:
        return other.z if isinstance(other, SymBool) else z3.BoolVal(bool(other))

    def __bool__(self) -> bool:
        return current().decide(self.z)


class SymValue(Sym):
    """A register's value: compared for equality only."""

    __slots__ = ()


class SymBallot(Sym):
    """A ballot: compared for order only, with ballots and with the two special ones."""

    __slots__ = ()

    def lift(self, other: Any) -> z3.ExprRef:
        return ballot_term(other)

    def __lt__(self, other: object) -> SymBool:
        return SymBool(th.blt(self.z, self.lift(other)))

    def __gt__(self, other: object) -> SymBool:
        return SymBool(th.blt(self.lift(other), self.z))

    def __le__(self, other: object) -> SymBool:
        return SymBool(th.ble(self.z, self.lift(other)))

    def __ge__(self, other: object) -> SymBool:
        return SymBool(th.ble(self.lift(other), self.z))


class SymInt(Sym):
    """An offset or a count."""

    __slots__ = ()

    def lift(self, other: Any) -> z3.ExprRef:
        return int_term(other)

    def __lt__(self, other: object) -> SymBool:
        return SymBool(self.z < self.lift(other))

    def __gt__(self, other: object) -> SymBool:
        return SymBool(self.z > self.lift(other))

    def __le__(self, other: object) -> SymBool:
        return SymBool(self.z <= self.lift(other))

    def __ge__(self, other: object) -> SymBool:
        return SymBool(self.z >= self.lift(other))

    def __add__(self, other: object) -> SymInt:
        return type(self)(self.z + self.lift(other))

    __radd__ = __add__

    def __sub__(self, other: object) -> SymInt:
        return type(self)(self.z - self.lift(other))

    def __floordiv__(self, other: object) -> SymInt:
        if type(other) is int and other > 0:
            return SymInt(self.z / other)  # on integers z3 rounds down, as Python does
        raise Unsupported(f"division of a SymInt by {other!r}")


class SymCount(SymInt):
    """A number of which code asks whether it is zero."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return current().decide(self.z != 0)


card = z3.Function("card", z3.SetSort(th.Node), z3.IntSort())


class SymMask(Sym):
    """A set of servers, kept as a bit mask; `z` is a set of nodes."""

    __slots__ = ()

    def lift(self, other: Any) -> z3.ExprRef:
        if isinstance(other, SymMask):
            return other.z
        if type(other) is int and other == 0:
            return z3.EmptySet(th.Node)
        raise Unsupported(f"a set of servers combined with {other!r}")

    def __and__(self, other: object) -> SymMask:
        return SymMask(z3.SetIntersect(self.z, self.lift(other)))

    def __or__(self, other: object) -> SymMask:
        return SymMask(z3.SetUnion(self.z, self.lift(other)))

    __ror__ = __or__
    __rand__ = __and__

    def __invert__(self) -> SymMask:
        return SymMask(z3.SetComplement(self.z))

    def bit_count(self) -> SymInt:
        """How many servers are in the set."""
        return SymInt(card(self.z))

    def __bool__(self) -> bool:
        return current().decide(self.z != z3.EmptySet(th.Node))


class SymServer(Sym):
    """A server's number: only good for making the mask of that one server."""

    __slots__ = ()

    def __rlshift__(self, one: object) -> SymMask:
        if one != 1:
            raise Unsupported(f"{one!r} << server")
        return SymMask(z3.SetAdd(z3.EmptySet(th.Node), self.z))


_words: dict[str | bytes, int] = {}


def word_term(word: Any) -> z3.ExprRef:
    """The term for a word, or for the bytes of a value: a number for each."""
    if isinstance(word, SymWord):
        return word.z
    if type(word) is str or type(word) is bytes:
        return z3.IntVal(_words.setdefault(word, len(_words)))
    raise Unsupported(f"not a word: {word!r}")


class SymWord(Sym):
    """A word by which code names outcomes ("yes"), or a value: compared for equality only."""

    __slots__ = ()

    def lift(self, other: Any) -> z3.ExprRef:
        return word_term(other)

    def __eq__(self, other: object) -> SymBool:  # type: ignore[override]
        return SymBool(z3.BoolVal(False)) if other is None else super().__eq__(other)

    def __ne__(self, other: object) -> SymBool:  # type: ignore[override]
        return SymBool(z3.BoolVal(True)) if other is None else super().__ne__(other)


def ballot_term(ballot: Any) -> z3.ExprRef:
    """The term for a ballot, symbolic or one of the two special ones."""
    if isinstance(ballot, SymBallot):
        return ballot.z
    if type(ballot) is bytes and ballot == b"":
        return th.NOTHING
    if type(ballot) is bytes and ballot == bytes(16):
        return th.UNSAFE
    raise Unsupported(f"not a ballot that proofs may speak of: {ballot!r}")


def int_term(number: Any) -> z3.ExprRef:
    """The term for an integer, symbolic or not."""
    if isinstance(number, SymInt):
        return number.z
    if type(number) is int:
        return z3.IntVal(number)
    raise Unsupported(f"not an integer: {number!r}")


def bool_term(truth: Any) -> z3.BoolRef:
    """The term for a truth value, symbolic or not."""
    if isinstance(truth, SymBool):
        return truth.z
    if type(truth) is bool:
        return z3.BoolVal(truth)
    raise Unsupported(f"not a truth value: {truth!r}")
