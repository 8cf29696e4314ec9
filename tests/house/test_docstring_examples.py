"""An example in a docstring is indented, so that it is shown as code and not run into the prose."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "wormspace"
DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


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


def test_every_example_in_a_docstring_is_indented() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {example}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, DEFINITIONS)
        for example in not_indented(ast.get_docstring(node, clean=False) or "")
    ]
    assert not found


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
