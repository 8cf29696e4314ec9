"""The site that `make docs` makes has every page of docs/, and whatever programs import."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = (ROOT / "mkdocs.yml").read_text()
PAGES_TOOL = ROOT / "tools" / "docs" / "pages.py"
NOT_FOR_PROGRAMS = {"wormspace.bench", "wormspace.cli"}
"""What our own examples use to start servers."""


def constant(name: str) -> object:
    """A constant of the tool, which cannot be imported where MkDocs is not installed."""
    values = {"ERRORS": "wormspace.errors"}
    for node in ast.parse(PAGES_TOOL.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return eval(ast.unparse(node.value), {}, values)
    raise AssertionError(f"no {name} in {PAGES_TOOL}")


def imported() -> set[str]:
    """The modules that the examples import: those in examples/, and those on pages."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    texts = [path.read_text() for path in (ROOT / "examples").rglob("*.py")]
    for page in pages:
        texts += re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    found = re.findall(r"^\s*(?:from|import) (wormspace[\w.]*)", "\n".join(texts), re.MULTILINE)
    return {name for name in found if not any(name.startswith(n) for n in NOT_FOR_PROGRAMS)}


def test_every_page_is_in_the_navigation_once() -> None:
    named = re.findall(r"^ +- (?:[\w ]+: )?(\S+\.md)$", SETTINGS, re.MULTILINE)
    moved = constant("AT_THE_ROOT")
    assert isinstance(moved, dict)
    there = [path.name for path in (ROOT / "docs").glob("*.md")] + list(moved.values())
    assert sorted(named) == sorted(there)


def test_what_programs_import_has_a_page_in_the_reference() -> None:
    reference = constant("REFERENCE")
    assert isinstance(reference, list)
    assert imported() <= set(reference)
    for module in reference:
        assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("setting", ["strict: true", "font: false", "anchors: warn", "- offline"])
def test_it_is_checked_and_needs_no_network(setting: str) -> None:
    assert setting in SETTINGS


def test_what_makes_it_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    locked = (ROOT / "requirements-docs.lock").read_text()
    for requirement in project["dependency-groups"]["docs"]:
        name = re.split(r"[>\[]", requirement)[0]
        assert f"{name}==" in locked
