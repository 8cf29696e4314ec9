"""A file holds one concept, and a function one thought: both have an end (in lines)."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "wormspace"
FOLDERS = [(PACKAGE, PACKAGE), (ROOT, ROOT / "benchmarks"), (ROOT, ROOT / "explorer")]
"""What is measured; each with where its paths begin."""

FILE, FUNCTION = 500, 60

LONGER: dict[str, int] = {}
"""Files that are longer still, and may not grow: each line here is a split to be made."""

LONG_FUNCTIONS: list[str] = []
"""The same of functions."""


def sources() -> dict[str, str]:
    """The text of each file, by its path below the package, or below the root."""
    return {
        path.relative_to(base).as_posix(): path.read_text()
        for base, folder in FOLDERS
        for path in sorted(folder.rglob("*.py"))
    }


def test_no_file_is_longer_than_it_may_be() -> None:
    lengths = {name: text.count("\n") for name, text in sources().items()}
    long = {name: n for name, n in lengths.items() if n > LONGER.get(name, FILE)}
    assert not long, f"split by concept: {long}"
    done = {name for name in LONGER if lengths.get(name, 0) <= FILE}
    assert not done, f"short enough now, take them out of LONGER: {done}"


def test_no_function_is_longer_than_it_may_be() -> None:
    long = [
        f"{name}: {node.name}"
        for name, text in sources().items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION
    ]
    assert long == LONG_FUNCTIONS, f"of more than {FUNCTION} lines: {long}"
