"""Docstrings are as tools show them: examples are indented, arguments are there, errors are named.

Examples: an example at the docstring's own margin would run into the prose.  Sections: `make docs`
makes tables of what is under `Args:` and `Raises:`, and fails where it cannot.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "wormspace"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (ast.Module, ast.ClassDef, *FUNCTIONS)
ITEM = re.compile(r"^ {4}(\S.*)$", re.MULTILINE)
ERRORS = re.compile(r"[\w.]+(?:, [\w.]+)*\.?|[\w.]+(?:, [^:]+)?:(?: .+)?")
"""`A, B.`, or `A, B: when`."""


Docstring = tuple[str, ast.AST, str]


@functools.cache
def docstrings() -> tuple[Docstring, ...]:
    """Every docstring of what ships, with its place and what it is of."""
    return tuple(every_docstring())


def every_docstring() -> Iterator[Docstring]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, DEFINITIONS) and (text := ast.get_docstring(node, clean=False)):
                name = getattr(node, "name", "(module)")
                yield f"{path.relative_to(PACKAGE)}: {name}", node, inspect.cleandoc(text)


def is_code(paragraph: str) -> bool:
    """Whether it is Python that does something: prose does not parse, and a word does nothing.

    A section of a manual, such as `fsync(2)`, is prose.
    """
    if re.fullmatch(r"\w+\(\d\)", paragraph):
        return False
    try:
        body = ast.parse(paragraph, type_comments=False).body
    except SyntaxError:
        return False
    nothing = (ast.Name, ast.Constant, ast.Tuple)
    return any(not (isinstance(s, ast.Expr) and isinstance(s.value, nothing)) for s in body)


def not_indented(docstring: str) -> list[str]:
    """The paragraphs that are examples, and that whoever shows docstrings finds at the margin.

    That is so too of an example that ends its docstring: it is the margin, unless prose follows.
    """
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    return [p for p in paragraphs if not p.startswith(" ") and is_code(p)]


def items(docstring: str, title: str) -> list[str]:
    """The first line of each item of a section."""
    block = re.search(rf"^{title}:\n((?: +.*\n?|\n)+)", docstring, re.MULTILINE)
    return ITEM.findall(block.group(1)) if block else []


def parameters(node: ast.AST) -> set[str]:
    """Those of a function, or of what makes an object of a class."""
    if isinstance(node, ast.ClassDef):
        makers = [f for f in node.body if isinstance(f, FUNCTIONS) and f.name == "__init__"]
        return set().union(*map(parameters, makers))
    if not isinstance(node, FUNCTIONS):
        return set()
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {a.arg for a in every if a is not None}


def test_every_example_in_a_docstring_is_indented() -> None:
    found = [f"{where}: {e}" for where, _, text in docstrings() for e in not_indented(text)]
    assert not found


def test_every_argument_that_a_docstring_explains_is_there() -> None:
    found = [
        f"{where}: {item}"
        for where, node, text in docstrings()
        if (given := parameters(node))
        for item in items(text, "Args")
        if item.partition(":")[0] not in given
    ]
    assert not found, "one line for each parameter: `name: what it is`"


def test_every_line_of_raises_names_errors() -> None:
    found = [
        f"{where}: {item}"
        for where, _, text in docstrings()
        for item in items(text, "Raises")
        if not ERRORS.fullmatch(item)
    ]
    assert not found, "`Trimmed, Unavailable.`, or `Trimmed: when`"


@pytest.mark.parametrize(
    "example",
    ["import a\na.b()", "class A(B):\n    c: int\n\n    def d(self): ...", "await a.b(1)", "x = 1"],
)
def test_an_example_at_the_margin_is_seen(example: str) -> None:
    assert not_indented(f"What it is.\n\n{example}\n")
    indented = "\n".join(f"    {line}" for line in example.splitlines())
    assert not not_indented(f"What it is.\n\n{indented}\n\nMore prose.\n")
    assert not_indented(f"What it is.\n\n{indented}\n")


@pytest.mark.parametrize(
    "prose", ["None", "Nothing is written.", "`a` or `b`.", "name: what it is."]
)
def test_prose_is_none(prose: str) -> None:
    assert not not_indented(f"{prose}\n\n{prose}\n")


def test_sections_are_found_with_their_items() -> None:
    text = "What.\n\nArgs:\n    a: x, and\n        more.\n    b: y.\n\nRaises:\n    A, B.\n\nEnd.\n"
    assert items(text, "Args") == ["a: x, and", "b: y."]
    assert items(text, "Raises") == ["A, B."]
    assert items("What.\n", "Raises") == []
