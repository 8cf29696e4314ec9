"""What is done to a function to make it wrong: one change of its syntax tree at a time."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from typing import Any, cast

from verification import lint

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
        elif _acts(node):
            yield i, "leave out", None


def _acts(node: ast.AST) -> bool:
    """A statement that does something: it calls, or changes what it did not make."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Attribute | ast.Subscript)
    return isinstance(node, ast.AugAssign)


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
    elif kind == "leave out":
        return ast.Pass()
    elif kind == "shorten":
        return ast.Tuple(node.elts[:-1], ast.Load())
    return None


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def changes(module: str, name: str, text: str) -> Iterator[tuple[str, Function]]:
    """The mutants of one function or "Class.method": a name, and the mutant."""
    function = lint.find({module: text}, f"{module}.{name}")
    paced = _paced(function)
    seen = {ast.unparse(function)}
    for number, kind, how in list(_sites(function)):
        mutant = copy.deepcopy(function)
        node = list(ast.walk(mutant))[number]
        if getattr(node, "lineno", 0) in paced:
            continue
        before = ast.unparse(node).splitlines()[0]
        new = _change(node, kind, how)
        if new is not None:
            _Replace(node, new).visit(mutant)
        after = ast.unparse(new or node).splitlines()[0]
        result = ast.unparse(ast.fix_missing_locations(mutant))
        if result not in seen:
            seen.add(result)
            line = getattr(node, "lineno", 0) - function.lineno
            yield f"{module}.{name} +{line}: {before} -> {after}", mutant


def of_function(module: str, name: str, text: str) -> Iterator[tuple[str, str]]:
    """The mutants of one function or "Class.method": a name, and the module's text."""
    for title, mutant in changes(module, name, text):
        tree = ast.parse(text)
        function = lint.find({module: text}, f"{module}.{name}", tree)
        yield title, ast.unparse(_Replace(function, mutant).visit(tree))


def _paced(function: ast.AST) -> set[int]:
    """The lines that only say how long to wait, or what to tell people."""
    lines: set[int] = set()
    for node in ast.walk(function):
        text = ast.unparse(node) if isinstance(node, ast.Assign | ast.Expr | ast.Raise) else ""
        if text.startswith(("await asyncio.sleep(", "pause = ", "deadline = ", "log.", "raise ")):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))  # type: ignore[attr-defined]
    return lines
