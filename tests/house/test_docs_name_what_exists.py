"""Every file, test and name of the code that a page, or a docstring, names is there."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "wormspace"
AT_THE_ROOT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*AT_THE_ROOT, *sorted((ROOT / "docs").glob("*.md"))]

FOLDERS = ("src", "tests", "explorer", "verification", "tools", "benchmarks", "examples")
ROOMS = [path.name for base in (ROOT, PACKAGE) for path in base.iterdir() if path.is_dir()]
PATH = re.compile(rf"(?<![\w./<-])(?:wormspace/)?(?:{'|'.join(map(re.escape, ROOMS))})/[\w./*-]*")
FILE = re.compile(r"(?<![\w./<*-])\w+\.(?:py|md)\b")
TEST = re.compile(r"\btest_\w+(?!\w*\.)")
LINK = re.compile(r"\]\(([^)#\s]+)")
CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
TEXT = re.compile(r"\b\w+\.txt\b")
NAME = re.compile(r"\b_?[A-Za-z]+_\w+")

NOT_OURS = {"XA_RECOVER_ADMIN", "flush_wal", "io_submit", "pg_prepared_xacts"}
METRIC = re.compile(r"wormspace_|_\w+_(total|seconds)$")


def prose(page: Path) -> str:
    """The page without its examples: what an example names, it makes."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def code_spans(page: Path) -> list[str]:
    return re.findall(CODE_SPAN, prose(page))


def is_there(path: str) -> bool:
    """Whether it is in the repository, named from its root, from src/ or from the package."""
    pattern = path.rstrip("./")
    return any(any(base.glob(pattern)) for base in (ROOT, ROOT / "src", PACKAGE))


@functools.cache
def defined_tests() -> frozenset[str]:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")))
    return frozenset(re.findall(r"def (test_\w+)", text))


@functools.cache
def sources() -> tuple[Path, ...]:
    return tuple(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@functools.cache
def words_of_the_code() -> frozenset[str]:
    return frozenset(
        word
        for path in (*sources(), ROOT / "pyproject.toml")
        if path != Path(__file__)
        for word in re.findall(r"\w+", re.sub(CODE_SPAN, "", path.read_text()))
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_a_page_names_is_there(page: Path) -> None:
    spans = code_spans(page)
    missing = {path for span in spans for path in PATH.findall(span) if not is_there(path)}
    everywhere = {path.name for path in (*sources(), *PAGES)}
    missing |= {name for span in spans for name in FILE.findall(span)} - everywhere
    links = [link for link in LINK.findall(prose(page)) if "://" not in link]
    missing |= {link for link in links if not (page.parent / link).exists()}
    assert not missing, f"{page.name} names {sorted(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_test_a_page_names_is_there(page: Path) -> None:
    defined = defined_tests()
    modules = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    named = {name for span in code_spans(page) for name in TEST.findall(span)}
    missing = {
        name
        for name in named - defined - modules
        if not any(test.startswith(name) for test in defined)
    }
    assert not missing, f"{page.name} names {sorted(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_text_file_a_page_names_is_there(page: Path) -> None:
    there = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.txt")}
    named = {name for span in code_spans(page) if "/" not in span for name in TEXT.findall(span)}
    assert not named - there, f"{page.name} names {sorted(named - there)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_name_of_the_code_that_a_page_mentions_is_in_the_code(page: Path) -> None:
    named = {
        name
        for span in code_spans(page)
        if not PATH.search(span) and not TEXT.search(span)
        for name in NAME.findall(span)
        if not (TEST.fullmatch(name) or METRIC.match(name) or name in NOT_OURS)
    }
    missing = named - words_of_the_code()
    assert not missing, f"{page.name} names {sorted(missing)}"


def test_every_name_and_file_that_a_docstring_mentions_is_there() -> None:
    names = words_of_the_code() | {path.stem for path in sources()}
    files = {path.name for path in sources()}
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        for span in CODE_SPAN.findall(text):
            if re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", span) and span not in files:
                words = re.findall(r"[A-Za-z_]\w+", span)
                missing += [f"{path.name}: {span}" for word in words if word not in names]
        paths = re.findall(r"\b(?:docs|tests|verification|benchmarks|tools)/[\w./]+\.\w+", text)
        missing += [f"{path.name}: {name}" for name in paths if not is_there(name)]
    assert not missing
