"""Every mutant of what ships: one change of one function, named so that it keeps its name.

A name says the file, the function, the line within it and what became what.  It changes when the
function does, so a verdict is good for as long as its name is found.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from verification.mutating import Function, _change, _paced, _Replace, _sites

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "wormspace"
PACKAGES = (
    *("log", "smr", "tx", "writer", "space", "registers"),
    *("server", "store", "wire", "rpc", "runtime"),
)


@dataclass(frozen=True)
class Place:
    """One function of one file.

    Attributes:
        path: of the file, below the package's source.
        name: "function" or "Class.method".
        first, body, last: the lines of its `def`, of its first statement, and of its end.
        digest: of its source.
    """

    path: str
    name: str
    first: int
    body: int
    last: int
    digest: str

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"

    @property
    def package(self) -> str:
        """The first folder of its path."""
        return self.path.partition("/")[0]

    @property
    def module(self) -> str:
        """The name it is imported by."""
        dotted = "wormspace." + self.path.removesuffix(".py").replace("/", ".")
        return dotted.removesuffix(".__init__")


@dataclass(frozen=True)
class Mutant:
    """One change of one function.

    Attributes:
        line: of the file.
        number, kind, how: which node of the function is changed, and into what.
    """

    place: Place
    name: str
    line: int
    number: int
    kind: str
    how: object

    def text(self) -> str:
        """The whole file, changed."""
        text = (SOURCE / self.place.path).read_text()
        tree = ast.parse(text)
        function = _find(tree, text.splitlines(), self.place)
        node = list(ast.walk(function))[self.number]
        new = _change(node, self.kind, self.how)
        if new is not None:
            _Replace(node, new).visit(function)
        return ast.unparse(ast.fix_missing_locations(tree))


def files() -> list[Path]:
    """The files whose functions are changed."""
    return [path for package in PACKAGES for path in sorted((SOURCE / package).rglob("*.py"))]


def functions(path: Path) -> Iterator[tuple[Place, Function]]:
    """The functions and methods of a file."""
    short = path.relative_to(SOURCE).as_posix()
    text = path.read_text()
    lines = text.splitlines()
    for node in ast.parse(text).body:
        within = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for function in within:
            if isinstance(function, Function):
                first, last = function.lineno, function.end_lineno or function.lineno
                body, digest = function.body[0].lineno, _digest(lines, function)
                yield Place(short, prefix + function.name, first, body, last, digest), function


def _digest(lines: list[str], function: Function) -> str:
    source = "\n".join(lines[function.lineno - 1 : function.end_lineno])
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def blocks(function: Function) -> Iterator[tuple[list[ast.stmt], int, int]]:
    """The blocks of statements of a function, each with its first and last line.

    What is in one block runs together, unless an exception or a jump ends it.
    """
    for node in ast.walk(function):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list) and block:
                yield block, block[0].lineno, block[-1].end_lineno or block[-1].lineno


@cache
def blocks_of(path: Path) -> dict[str, list[tuple[int, int]]]:
    """The first and last lines of the blocks of each function of a file."""
    return {
        place.name: [(lo, hi) for _, lo, hi in blocks(function)]
        for place, function in functions(path)
    }


def block_at(place: Place, line: int) -> int:
    """The first line of the innermost block around a line."""
    found = [lo for lo, hi in blocks_of(SOURCE / place.path)[place.name] if lo <= line <= hi]
    return max(found, default=place.body)


def mutants(path: Path) -> Iterator[Mutant]:
    """The mutants of a file; a second one of the same name is told apart by a number."""
    seen = Counter[str]()
    for place, function in functions(path):
        paced, nodes = _paced(function), list(ast.walk(function))
        for number, kind, how in _sites(function):
            node = copy.deepcopy(nodes[number])
            line = getattr(node, "lineno", function.lineno)
            if line in paced or place.name.endswith(("__repr__", "__str__")):
                continue
            if kind == "swap" and ast.unparse(nodes[number].func) in ("min", "max"):  # type: ignore[attr-defined]
                continue
            before = ast.unparse(node)
            after = ast.unparse(_change(node, kind, how) or node)
            if after == before:
                continue
            before, after = before.splitlines()[0], after.splitlines()[0]
            name = f"{place} +{line - function.lineno}: {before} -> {after}"
            seen[name] += 1
            if seen[name] > 1:
                name += f" #{seen[name]}"
            yield Mutant(place, name, line, number, kind, how)


def _find(tree: ast.Module, lines: list[str], place: Place) -> Function:
    owner, dot, _ = place.name.rpartition(".")
    body: list[ast.stmt] = tree.body
    if dot:
        body = next(n.body for n in body if isinstance(n, ast.ClassDef) and n.name == owner)
    # By its digest: overloads have its name, too, and its lines may have moved meanwhile.
    found = (n for n in body if isinstance(n, Function))
    return next(n for n in found if _digest(lines, n) == place.digest)
