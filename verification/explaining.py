"""What the prover says to people: a counterexample in the code's own names, and what to do.

The solver refutes a claim with a *model*: a value for every symbol.  Here it is read back: the
arguments by the names of the parameters, the branches by the lines that took them, and what the
function returned.  Ballots are numbered in their order; those that are not told apart are equal.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import z3

from verification import theory as th
from verification.lint import LintError
from verification.source import NotAFold, Package
from verification.symex import Path, Sym, Unsupported

ROOT = FilePath(__file__).resolve().parent.parent
BUILT_IN = (TypeError, AttributeError, NameError, LookupError, ValueError)
"""Errors that Python raises by itself: shipped code raises none of them on purpose."""
LONGEST = 40


@dataclass(frozen=True)
class Scene:
    """Where a goal comes from.

    Attributes:
        package: whose code was executed.
        sources: its text, by module.
        path: the way through it.
        names: the arguments (or the variables of a loop) by name.
        hint: what to do if the goal fails.
    """

    package: Package
    sources: Mapping[str, str]
    path: Path
    names: Mapping[str, Any] = field(default_factory=dict)
    hint: str = ""


def place(package: Package, module: str, line: int) -> str:
    """A line of the shipped source, as editors know it."""
    return f"{(package.folder / module.replace('.', '/')).relative_to(ROOT)}.py:{line}"


def defined(function: Any) -> str:
    """Where something of the proof is defined: FILE:LINE NAME."""
    function = getattr(function, "func", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return repr(function)
    file = FilePath(code.co_filename).resolve().relative_to(ROOT)
    return f"{file}:{code.co_firstlineno} {function.__qualname__.split('.<locals>')[0]}"


def like(name: str, names: Iterable[str]) -> str:
    """The names that there are, the likeliest first."""
    every = list(names)
    near = difflib.get_close_matches(name, every, len(every), 0.0)
    return ", ".join([*near, *(n for n in every if n not in near)]) or "none"


# ------------------------------------------------------------------ a counterexample


def runs(scene: Scene | None) -> bool:
    """Whether the code ran as the proof has it: else a failed goal says nothing of its safety."""
    return scene is None or not isinstance(scene.path.error, BUILT_IN)


def story(scene: Scene | None, model: z3.ModelRef | None) -> Iterator[str]:
    """A counterexample, line by line; nothing where there is none."""
    if scene is None:
        return
    if model is not None:
        values = Values(model)
        if scene.names:
            yield "with " + ", ".join(f"{k} = {values.show(v)}" for k, v in scene.names.items())
        yield from _ways(scene)
        if scene.path.error is None:
            yield f"gives {values.show(scene.path.result)}"
    error = scene.path.error
    if error is not None:
        yield f"raises {type(error).__name__}: {error}{_raised(scene, error)}"
        if not runs(scene):
            yield (
                "Python itself raised this: if something was renamed, or has another form, then "
                "the proof calls or answers the code as it was before; see that first."
            )
    if scene.hint:
        yield scene.hint


def _ways(scene: Scene) -> Iterator[str]:
    for turn in scene.path.turns[:LONGEST]:
        text = scene.sources.get(turn.module, "").splitlines()
        line = text[turn.line - 1].strip() if 0 < turn.line <= len(text) else ""
        said = "yes" if turn.choice else "no"
        what = f"{turn.what}: " if turn.what else ""
        yield f"{place(scene.package, turn.module, turn.line)}: {line}  -> {what}{said}"


def _raised(scene: Scene, error: BaseException) -> str:
    """The line of the code, or else of the proof, that an error comes from."""
    modules = {f"{name}.py": name for name in scene.package.modules}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in modules:
            at = place(scene.package, modules[frame.filename], frame.lineno or 0)
            return f" ({at})"
        if FilePath(frame.filename).parent == ROOT / "verification":
            return f" ({FilePath(frame.filename).relative_to(ROOT)}:{frame.lineno})"
    return ""


class Values:
    """What the solver's model gives to symbolic values."""

    def __init__(self, model: z3.ModelRef) -> None:
        self.model = model
        self.ballots = self._ordered()

    def _ordered(self) -> dict[str, str]:
        """The model's ballots, by their names in it: the two special ones, then b1 < b2 < ..."""
        universe = list(self.model.get_universe(th.Ballot) or [])

        def rank(ballot: z3.ExprRef) -> int:
            below = [self.model.eval(th.ble(x, ballot), True) for x in universe]
            return sum(1 for truth in below if z3.is_true(truth))

        special = {str(self.model.eval(x, True)): str(x) for x in (th.NOTHING, th.UNSAFE)}
        names = [str(x) for x in sorted(universe, key=rank)]
        plain = [name for name in names if name not in special]
        return special | {name: f"b{i}" for i, name in enumerate(plain, 1)}

    def show(self, value: Any) -> str:
        """One value, as Python would write it."""
        if isinstance(value, Sym):
            return self._term(value.z)
        if isinstance(value, z3.ExprRef):
            return self._term(value)
        fields = getattr(value, "__struct_fields__", None)
        if fields is not None:
            inner = ", ".join(f"{name}={self.show(getattr(value, name))}" for name in fields)
            return f"{type(value).__name__}({inner})"
        if isinstance(value, tuple | list):
            return f"({', '.join(self.show(v) for v in value)})"
        if isinstance(value, dict):
            return ", ".join(f"{k} = {self.show(v)}" for k, v in value.items())
        if type(value).__module__.startswith("verification.") or hasattr(value, "sequence"):
            return self._unknown(value)
        return repr(value)

    def _unknown(self, value: Any) -> str:
        """A sequence that is not known, or the end of a procedure."""
        ended = getattr(value, "error", None)
        if hasattr(value, "met"):
            return f"raises {ended!r}" if ended is not None else self.show(value.result)
        return f"<any {type(getattr(value, 'sequence', value)).__name__}>"

    def _term(self, term: z3.ExprRef) -> str:
        if z3.is_array(term):  # a set of servers
            nodes = list(self.model.get_universe(th.Node) or [])
            among = [z3.is_true(self.model.eval(z3.IsMember(n, term), True)) for n in nodes]
            return "{" + ", ".join(f"server {i}" for i, one in enumerate(among) if one) + "}"
        value = self.model.eval(term, True)
        if z3.is_bool(value):
            return str(z3.is_true(value))
        if value.sort() == th.Ballot:
            return self.ballots.get(str(value), str(value))
        return str(value).replace("!val!", " ").lower() if value.sort() != th.Offset else str(value)


# ------------------------------------------------------------------ what does not fit


def misfit(error: Exception) -> str:
    """Why the proof could not even be stated, and what to do."""
    if isinstance(error, LintError):
        return (
            f"not supported: {error}\n  A symbolic value cannot follow that. Write it with `for` "
            "loops, comparisons and calls of functions that pass; verification/lint.py lists what "
            "may stand in a proved function."
        )
    if isinstance(error, Unsupported | NotAFold):
        return f"not supported: {error}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith("/")]
    own = [f for f in frames if FilePath(f.filename).parent == ROOT / "verification"]
    at = f"{FilePath(own[-1].filename).relative_to(ROOT)}:{own[-1].lineno}" if own else "the proof"
    line = f": {own[-1].line}" if own else ""
    return (
        f"the proof does not fit the code any more: {at}{line}\n"
        f"  {type(error).__name__}: {error}\n"
        "  If a function, field or variable was renamed, rename it there, too."
    )
