"""The proof of the proof: what is proved must stop being provable when the code is made wrong.

`code()` and `procedures()` mutate the syntax trees of every proved function: comparisons, branches,
boolean operators, fields, arguments, results.  `specification()` does so to the register's, and
`model()` leaves out every part of every guard of layers 2 and 4 in turn.  A mutant that the proof
does not notice is a *survivor*, and has to be explained, by name, in survivors.txt.

    python -m verification.mutants            all of them (`make prove-mutants`)
    python -m verification.mutants on_write   those whose name has this in it
"""

from __future__ import annotations

import ast
import copy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from verification import (
    acceptor,
    applications,
    asking,
    captures,
    commit,
    leading,
    lint,
    proposer,
    protocol,
    prover,
    ranges,
    register,
    replicas,
    tallies,
    tape,
    tenure,
    voting,
)
from verification.goals import Goal, check
from verification.loops import Engine
from verification.register import SPEC
from verification.source import shipped
from verification.state import State
from verification.system import contract

SURVIVORS = Path(__file__).resolve().parent / "survivors.txt"
COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
FIELDS = {
    "lo": ["hi"],
    "hi": ["lo"],
    "ballot": [],
    "granted": ["promised", "rejected"],
    "promised": ["granted", "rejected"],
    "rejected": ["granted"],
    "answered": [],
    "offset": [],
}
Function = ast.FunctionDef | ast.AsyncFunctionDef
LIMIT_MS = 3000
"""A goal that a mutant makes hard is not proved: that is a kill, and quick."""


def _annotations(function: Function) -> Iterator[ast.AST]:
    for node in ast.walk(function):
        for hint in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(hint, ast.AST):
                yield hint


def _sites(function: Function) -> Iterator[tuple[int, str, object]]:
    """Every place in a function that can be changed, and how."""
    types = {id(node) for hint in _annotations(function) for node in ast.walk(hint)}
    for i, node in enumerate(ast.walk(function)):
        if id(node) in types:
            continue
        if isinstance(node, ast.Compare):
            for op in COMPARISONS:
                if type(node.ops[0]) is not op and isinstance(node.ops[0], COMPARISONS):
                    yield i, "compare", op
        elif isinstance(node, ast.BoolOp):
            yield i, "and/or", None
        elif isinstance(node, ast.If | ast.IfExp):
            yield i, "if", True
            yield i, "if", False
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            for other in FIELDS.get(node.attr, []):
                yield i, "field", other
        elif isinstance(node, ast.Call) and len(node.args) >= 2:
            for k in range(len(node.args) - 1):
                yield i, "swap", k
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.Not):
            yield i, "drop", None
        elif isinstance(node, ast.BinOp) and isinstance(
            node.op, ast.BitAnd | ast.BitOr | ast.Add | ast.Sub
        ):
            yield i, "operator", None
        elif isinstance(node, ast.Tuple) and len(node.elts) > 1 and isinstance(node.ctx, ast.Load):
            yield i, "shorten", None


def _change(node: Any, kind: str, how: Any) -> ast.AST | None:
    """Change a node in place; or say what to put in its place."""
    if kind == "compare":
        node.ops[0] = how()
    elif kind == "and/or":
        node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
    elif kind == "if":
        node.test = ast.Constant(how)
    elif kind == "field":
        node.attr = how
    elif kind == "swap":
        args = node.args
        args[how], args[how + 1] = args[how + 1], args[how]
    elif kind == "operator":
        other = {ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Add: ast.Sub, ast.Sub: ast.Add}
        node.op = other[type(node.op)]()
    elif kind == "drop":
        return cast(ast.AST, node.operand)
    elif kind == "shorten":
        return ast.Tuple(node.elts[:-1], ast.Load())
    return None


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def of_function(module: str, name: str, text: str) -> Iterator[tuple[str, str]]:
    """The mutants of one function or "Class.method": a name, and the module's text."""
    tree = ast.parse(text)
    function = lint.find({module: text}, f"{module}.{name}", tree)
    paced = _paced(function)
    seen = {ast.unparse(tree)}
    for number, kind, how in list(_sites(function)):
        mutant = copy.deepcopy(tree)
        where = lint.find({module: text}, f"{module}.{name}", mutant)
        node = list(ast.walk(where))[number]
        if getattr(node, "lineno", 0) in paced:
            continue
        before = ast.unparse(node).splitlines()[0]
        new = _change(node, kind, how)
        if new is not None:
            _Replace(node, new).visit(where)
        after = ast.unparse(new or node).splitlines()[0]
        result = ast.unparse(ast.fix_missing_locations(mutant))
        if result not in seen:
            seen.add(result)
            line = getattr(node, "lineno", 0) - function.lineno
            yield f"{module}.{name} +{line}: {before} -> {after}", result


def _paced(function: ast.AST) -> set[int]:
    """The lines that only say how long to wait, or what to tell people."""
    lines: set[int] = set()
    for node in ast.walk(function):
        text = ast.unparse(node) if isinstance(node, ast.Assign | ast.Expr | ast.Raise) else ""
        if text.startswith(("await asyncio.sleep(", "pause = ", "deadline = ", "log.", "raise ")):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))  # type: ignore[attr-defined]
    return lines


def code() -> Iterator[tuple[str, dict[str, str]]]:
    """Mutants of every function of the core that is proved, or called by one that is."""
    sources = shipped()
    for qualified in sorted(prover.check_lint()):
        module, name = qualified.split(".")
        if (module, name) in {("effects", "to_all"), ("quorum", "members"), ("quorum", "everyone")}:
            continue  # who is sent what: safe whatever it is
        for title, text in of_function(module, name, sources[module]):
            yield title, {module: text}


SECTIONS: dict[str, tuple[Callable[[Engine], None], ...]] = {
    "space.space": (tape.allocating,),
    "log.tape": (tape.filling,),
    "log.tenure": (tenure.handing_out,),
    "smr.sessions": (replicas.applying,),
    "smr.engine": (replicas.applying,),
    "smr.writing": (leading.completing, leading.proposing),
    "smr.leaderless": (leading.proposing,),
    "tx.deciding": (commit.judging, voting.settling),
    "tx.box": (voting.casting,),
    "tx.parts": (voting.obeying,),
    "tx.matters": (voting.obeying,),
    "tx.resolver": (voting.settling,),
}
"""Which part of layer 4 executes a module of the applications."""


def procedures() -> Iterator[tuple[str, dict[str, str]]]:
    """Mutants of every function of the applications that is executed."""
    sources = shipped(applications.PACKAGE)
    names = sorted({*applications.check_lint(), *applications.PROCEDURES})
    for qualified in names:
        module = max((m for m in sources if qualified.startswith(m + ".")), key=len)
        name = qualified.removeprefix(module + ".")
        for title, text in of_function(module, name, sources[module]):
            yield title, {module: text}


def killed_application(changed: dict[str, str]) -> str:
    """Why layer 4 fails for this code; empty if it does not."""
    try:
        e = applications.engine(changed)
        done = 0
        for module in changed or SECTIONS:
            for section in SECTIONS[module]:
                section(e)
                for goal in e.goals[done:]:
                    if not check(goal, second=False).proved:
                        return f"{goal.theorem}: {goal.name}"
                done = len(e.goals)
    except Exception as e:  # noqa: BLE001 - whatever stops the proof is a kill
        return f"{type(e).__name__}: {e}".splitlines()[0]
    return ""


def specification() -> Iterator[tuple[str, str]]:
    """Mutants of the register's specification."""
    text = SPEC.read_text()
    for name in ("capture", "write", "read"):
        yield from of_function("spec", name, text)


PARTS = {
    "ranges": (ranges, acceptor),
    "acceptor": (ranges, acceptor),
    "quorum": (tallies, proposer, captures, asking),
    "writing": (tallies, asking),
    "capturing": (proposer, captures, asking),
    "reading": (proposer, asking),
    "telling": (asking,),
}
"""Which part of layer 1 speaks of a module, or of something that calls it, in order."""


ASKED = {
    *("capturing.half", "capturing.begin", "writing.finished", "writing.lost", "writing.contested"),
    *("writing.begin", "writing.message", "reading.on_report", "reading.without"),
    *("reading.begin", "reading.widen"),
}
"""Functions of which only `asking` speaks."""


def _goals(changed: dict[str, str], function: str = "") -> Iterator[Goal]:
    """The goals that a change may touch, part by part, so that the first that fails ends it."""
    prover.check_lint(changed)
    engine = Engine(prover.INVARIANTS, changed)
    done = 0
    parts = dict.fromkeys(part for module in changed or PARTS for part in PARTS[module])
    for part in [asking] if function in ASKED else parts:
        part.prove(engine)
        yield from engine.goals[done:]
        done = len(engine.goals)
    if not changed or changed.keys() & {"ranges", "acceptor"}:
        linked = protocol.goals(engine)
        yield from (goal for goal in linked if "path of the handler" in goal.theorem)


def killed(changed: dict[str, str], function: str = "") -> str:
    """Why the proof fails for this code; empty if it does not."""
    try:
        for goal in _goals(changed, function):
            outcome = check(goal, second=False)
            if not outcome.proved:
                return f"{goal.theorem}: {goal.name}"
    except Exception as e:  # noqa: BLE001 - whatever stops the proof is a kill
        return f"{type(e).__name__}: {e}".splitlines()[0]
    return ""


def killed_specification(text: str) -> str:
    """Why the refinement fails for this specification; empty if it does not."""
    try:
        engine = Engine(prover.INVARIANTS)
        ranges.prove(engine)
        for goal in [*contract(text), *register.goals(engine, text)]:
            if not check(goal, second=False).proved:
                return f"{goal.theorem}: {goal.name}"
    except Exception as e:  # noqa: BLE001 - whatever stops the proof is a kill
        return f"{type(e).__name__}: {e}".splitlines()[0]
    return ""


def model() -> Iterator[tuple[str, list[Goal]]]:
    """Actions with one part of the guard left out, and the goals that they have to keep."""
    engine = Engine(prover.INVARIANTS)
    ranges.prove(engine)
    for action in protocol.all_actions(engine):
        for k, part in enumerate(action.guard(State())):
            text = " ".join(str(part).split())[:90]
            yield f"guard of {action.name!r}, part {k}: {text}", protocol.kept(action, without=k)
    for system in applications.systems(applications.engine()):
        for name in system.actions:
            for k in system.guards(name):
                text = " ".join(str(system.step(name)[2][k]).split())[:90]
                title = f"guard of {system.name}, {name!r}, part {k}: {text}"
                yield title, system.kept(name, without=k)


def explained() -> dict[str, str]:
    """survivors.txt: the survivor's name, and why it changes nothing that matters."""
    out: dict[str, str] = {}
    if not SURVIVORS.exists():
        return out
    for line in SURVIVORS.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, why = line.partition(" || ")
            out[name] = why
    return out


def main() -> int:
    """Run them; 0 if every survivor is explained."""
    from verification import goals

    goals.TIMEOUT_MS = LIMIT_MS
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    began, counts = time.perf_counter(), {"killed": 0, "survived": 0}
    known, faults, survivors = explained(), 0, set()

    def judge(name: str, why: str) -> None:
        nonlocal faults
        counts["killed" if why else "survived"] += 1
        if not why:
            survivors.add(name)
            if not known.get(name):
                faults += 1
                print(f"SURVIVED, not explained: {name}", flush=True)

    if why := killed_application({}):
        print(f"the proof fails for what ships: {why}")
        return 1
    for module in PARTS:  # a proof that fails anyway would kill them all
        why = killed({module: shipped()[module] + "\n"})
        if why:
            print(f"the proof fails for what ships: {why}")
            return 1
    for name, changed in code():
        if only in name:
            judge(name, killed(changed, name.split()[0]))
    for name, changed in procedures():
        if only in name:
            judge(name, killed_application(changed))
    for name, text in specification():
        if only in name:
            judge(name, killed_specification(text))
    for name, todo in model():
        if only in name:
            failed = (goal.name for goal in todo if not check(goal, second=False).proved)
            judge(name, next(failed, ""))
    stale = set() if only else set(known) - survivors
    for name in sorted(stale):
        print(f"explained, but no survivor any more: {name}")
    seconds = time.perf_counter() - began
    print(f"{counts['killed']} killed, {counts['survived']} survived, {seconds:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
