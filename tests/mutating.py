"""Mistakes in shipped functions, as edits of their source, made while a test runs.

A mutant says where, what the source says there, and what it says instead.  The function is compiled
anew from its edited source and given the new code, so that everybody who imported it has the
mistake too, and the product needs no hooks.  An edit that fits no longer is an error: who changes
the function looks whether the mistake can still be made.
"""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType


@dataclass(frozen=True)
class Mutant:
    """`old` becomes `new` in `where`, which is "module:function" or "module:Class.method".

    `seed` is of the run that showed it when somebody looked last.
    """

    where: str
    old: str
    new: str
    seed: int = 0

    def seeds(self, count: int) -> list[int]:
        """Those of `count` runs, the likeliest first."""
        return [self.seed, *(seed for seed in range(count) if seed != self.seed)]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The product with this mistake in it."""
        function = self._find()
        shipped = function.__code__
        function.__code__ = self._compiled(function)
        try:
            yield
        finally:
            function.__code__ = shipped

    def _find(self) -> FunctionType:
        module, _, path = self.where.partition(":")
        found = importlib.import_module(module)
        for name in path.split("."):
            found = inspect.getattr_static(found, name)
        if isinstance(found, classmethod | staticmethod):
            found = found.__func__
        if isinstance(found, property):
            found = found.fget
        return inspect.unwrap(found)

    def _compiled(self, function: FunctionType) -> CodeType:
        module = inspect.getmodule(function)
        lines = inspect.getsource(module).splitlines(keepends=True)
        first, last = _place(ast.parse("".join(lines)), function.__qualname__)
        source = "".join(lines[first - 1 : last])
        old, new = self._fitted(source)
        source = source.replace(old, new)
        whole = "".join([*lines[: first - 1], source, *lines[last:]])
        code = compile(whole, inspect.getsourcefile(function), "exec", dont_inherit=True)
        return _code_of(code, function.__qualname__)

    def _fitted(self, source: str) -> tuple[str, str]:
        """`old` and `new` with the indentation that the source has there."""
        old, new = textwrap.dedent(self.old).strip("\n"), textwrap.dedent(self.new).strip("\n")
        for depth in range(10):
            indent = " " * 4 * depth
            one = textwrap.indent(old, indent).lstrip()
            if source.count(one) == 1 and (
                "\n" in old or indent == _indent_of(source, source.index(one))
            ):
                return one, textwrap.indent(new, indent).lstrip()
        raise LookupError(f"{self.where} does not say, just once: {old!r}")


def _indent_of(source: str, at: int) -> str:
    """The blanks before the line in which a place lies."""
    line = source[source.rfind("\n", 0, at) + 1 :]
    return line[: len(line) - len(line.lstrip())]


def _place(tree: ast.AST, qualname: str) -> tuple[int, int]:
    """First and last line of a function."""
    node = tree
    for name in qualname.split("."):
        node = next(
            child
            for child in ast.walk(node)
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and child.name == name
        )
    return node.lineno, node.end_lineno


def _code_of(code: CodeType, qualname: str) -> CodeType:
    """The code of a function within that of its module."""
    found = [code]
    while found:
        one = found.pop()
        if one.co_qualname == qualname:
            return one
        found += [constant for constant in one.co_consts if isinstance(constant, CodeType)]
    raise LookupError(f"there is no {qualname}")
