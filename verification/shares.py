"""How much of the shipped code the proof executes: computed, for the page.

Counted are the functions that the proof names as executed, with all that the core's ones call: the
same that `mutants` changes.  Their lines are those of their bodies, without docstrings, blank lines
and comments.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from verification import applications, prover
from verification.source import WORMSPACE

HERE = Path(__file__).resolve().parent
EXECUTOR = ("source", "symex", "loops", "lint", "procedures")
"""The modules that execute: they are trusted."""
TOP = "(top level)"


def _functions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, list[ast.stmt]]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node.body
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{prefix}{node.name}.")


def _lines(text: str, body: list[ast.stmt]) -> int:
    """The lines of code of a function's body."""
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    if not body:
        return 0
    rows = text.splitlines()[body[0].lineno - 1 : body[-1].end_lineno]
    return sum(1 for row in rows if row.strip() and not row.strip().startswith("#"))


def bodies() -> dict[str, int]:
    """The lines of the body of every shipped function, by "package.module.function"."""
    out: dict[str, int] = {}
    for file in sorted(WORMSPACE.rglob("*.py")):
        module = ".".join(file.relative_to(WORMSPACE).with_suffix("").parts)
        text = file.read_text()
        for name, body in _functions(ast.parse(text).body, ""):
            out[f"{module}.{name}"] = out.get(f"{module}.{name}", 0) + _lines(text, body)
    return out


def proved() -> set[str]:
    """The functions that the proof executes symbolically, and all that they call there."""
    core = {f"paxos.{name}" for name in prover.check_lint()}
    above = {*applications.check_lint(), *applications.PROCEDURES}
    return core | above | {"registers.spec.capture", "registers.spec.write", "registers.spec.read"}


def shares() -> dict[str, tuple[int, int]]:
    """By package: the lines of the functions that are executed, and of all."""
    every, named = bodies(), proved()
    missing = named - every.keys()
    if missing:
        raise LookupError(f"the proof names functions that do not ship: {sorted(missing)}")
    out: Mapping[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, lines in every.items():
        package = name.split(".")[0]
        package = package if (WORMSPACE / package).is_dir() else TOP
        out[package][0] += lines if name in named else 0
        out[package][1] += lines
    return {package: (a, b) for package, (a, b) in sorted(out.items())}


def executor() -> int:
    """The lines of what is trusted to execute, without blank lines and comments."""
    texts = [(HERE / f"{name}.py").read_text() for name in EXECUTOR]
    rows = [row.strip() for text in texts for row in text.splitlines()]
    return sum(1 for row in rows if row and not row.startswith("#"))


def page(seconds: float) -> list[str]:
    """What the page says of it; `seconds` of CPU time were taken by the whole proof."""
    found = shares()
    done, total = (sum(pair[i] for pair in found.values()) for i in (0, 1))
    lines = [
        "## How much of the code",
        "",
        f"The proof executes {done:,} of {total:,} lines of function bodies "
        f"({100 * done / total:.0f} %); what is above or beside them is tested and simulated. What "
        f"executes them, and is trusted, has {executor():,} lines ({', '.join(EXECUTOR)}).",
        "",
        "| package | executed | lines | share |",
        "|---|---|---|---|",
    ]
    shares_first = sorted(found.items(), key=lambda item: -item[1][0] / item[1][1])
    for package, (a, b) in shares_first:
        lines.append(f"| {package} | {a:,} | {b:,} | {100 * a / b:.0f} % |")
    rounded = max(round(seconds / 50) * 50, 50)
    return [*lines, "", f"The whole proof took about {rounded} s of CPU time, Coq included.", ""]
