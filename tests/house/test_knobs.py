"""What `wormspace/knobs.py` says of its fields."""

from __future__ import annotations

import ast
import dataclasses
import tomllib
from collections.abc import Iterator
from pathlib import Path

from wormspace.knobs import Knobs, least

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "wormspace"
NAMES = [field.name for field in dataclasses.fields(Knobs)]


def layers() -> list[str]:
    """The packages, bottom to top, as the import rules have them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [rule] = [c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    return [
        name.strip().removeprefix("wormspace.")
        for layer in reversed(rule["layers"])
        for name in layer.split("|")
    ]


def reads(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "KNOBS":
            yield node.attr


def trees() -> dict[str, ast.Module]:
    return {str(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def test_every_knob_begins_with_its_package_and_they_are_grouped_bottom_to_top() -> None:
    order = layers()
    packages = [name.partition("_")[0] for name in NAMES]
    assert set(packages) <= set(order)
    assert packages == sorted(packages, key=order.index)


def test_every_knob_is_read_by_its_package_and_none_that_is_not_there() -> None:
    read = {name: set(reads(tree)) for name, tree in trees().items()}
    assert set().union(*read.values()) == set(NAMES)


def test_no_knob_is_copied_where_it_would_not_be_turned() -> None:
    """Only the bodies of functions read one: no constant, class attribute, default or decorator."""
    for path, tree in trees().items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                function.body = [ast.Pass()]
            elif isinstance(function, ast.Lambda):
                function.body = ast.Constant(None)
        assert not set(reads(tree)), path


def test_the_least_of_each_is_no_more_than_what_ships() -> None:
    shipped = Knobs()
    assert all(0 <= size <= getattr(shipped, name) for name, size in least().items())
