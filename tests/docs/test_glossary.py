"""Each word of docs/glossary.md is there once in its section, and lives where the page says."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "wormspace"
PAGE = (ROOT / "docs" / "glossary.md").read_text()
ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
WORDS = [row for row in ROWS if row[0] != "word"]
PLACE = re.compile(r"`([\w/]+\.py)` `([\w.]+)`")


def names(path: Path) -> set[str]:
    """What a file defines at its top: classes with their methods, functions and constants."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            functions = (ast.FunctionDef, ast.AsyncFunctionDef)
            found |= {f"{node.name}.{c.name}" for c in node.body if isinstance(c, functions)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found


@pytest.mark.parametrize("row", WORDS, ids=lambda row: row[0])
def test_it_lives_where_the_page_says(row: tuple[str, str, str, str]) -> None:
    where = row[3].strip()
    if where == "none":
        return
    place = PLACE.fullmatch(where)
    assert place is not None, f"{where} is no place"
    file, name = place.groups()
    assert (PACKAGE / file).exists(), f"there is no {file}"
    assert name in names(PACKAGE / file), f"{file} has no {name}"


def test_each_section_says_a_word_once() -> None:
    for section in PAGE.split("\n## ")[1:]:
        rows = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)
        assert max(Counter(rows).values()) == 1, section.partition("\n")[0]
    assert len(WORDS) > 80


WERE = r"tapes?|seams?|packs?|tenures?|reigns?|stretch(es)?|charters?|wish(es)?|parcels?|ballot box"
WAS = re.compile(rf"(?<![\w.`])({WERE})\b(?!\()", re.IGNORECASE)
"""Words of our own for what has a word of the field."""


def told_in(path: Path) -> Iterator[str]:
    """The prose of a page; of a module, its comments, and its strings, which people may read."""
    if path.suffix == ".md":
        yield path.read_text()
        return
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.string


def test_a_word_that_was_given_up_is_not_said_any_more() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    pages.remove(ROOT / "docs" / "glossary.md")
    said = [
        f"{path.name}: {match[0]}"
        for path in [*pages, *PACKAGE.rglob("*.py")]
        for text in told_in(path)
        for match in WAS.finditer(text)
    ]
    assert not said
