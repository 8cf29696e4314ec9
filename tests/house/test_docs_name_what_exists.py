"""Every file, test and name of the code that a page, or a docstring, names is there."""

from __future__ import annotations

import ast
import builtins
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "wormspace"
AT_THE_ROOT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*AT_THE_ROOT, *sorted((ROOT / "docs").glob("*.md"))]

FOLDERS = ("src", "tests", "explorer", "verification", "tools", "benchmarks", "examples")
ROOMS = [path.name for base in (ROOT, PACKAGE) for path in base.iterdir() if path.is_dir()]
FOLDER = re.compile(r"(?:\w+/)+")
PATH = re.compile(rf"(?<![\w./<-])(?:wormspace/)?(?:{'|'.join(map(re.escape, ROOMS))})/[\w./*-]*")
FILE = re.compile(r"(?<![\w./<*-])\w+\.(?:py|md)\b")
TEST = re.compile(r"\btest_\w+(?!\w*\.)")
LINK = re.compile(r"\]\(([^)#\s]+)")
CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
TEXT = re.compile(r"\b\w+\.txt\b")
NAME = re.compile(r"\b_?[A-Za-z]+_\w+")
MEMBER = re.compile(r"\b([A-Z]\w*[a-z]\w*)\.([A-Za-z_]\w+)")
SEE = re.compile(r"\b[Ss]ee\s+`([\w.]+)`")
HEADING = re.compile(r"# -{8,} (\w+\.[\w.]+)$", re.MULTILINE)
"""Of the functions that meet somebody's protocol."""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

GONE = {"Site.sweep"}
"""What the CHANGELOG says the new names of."""
NOT_OURS = {"XA_RECOVER_ADMIN", "flush_wal", "io_submit", "pg_prepared_xacts"}
METRIC = re.compile(r"wormspace_|_\w+_(total|seconds)$")


def prose(page: Path) -> str:
    """The page without its examples: what an example names, it makes."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def code_spans(page: Path) -> list[str]:
    return re.findall(CODE_SPAN, prose(page))


def is_there(path: str) -> bool:
    """Whether it is in the repository, named from its root, from src/ or from the package.

    A folder of which only caches are left, of files that are gone, is not there.
    """
    pattern = path.rstrip("./")
    found = [it for base in (ROOT, ROOT / "src", PACKAGE) for it in base.glob(pattern)]
    return any(it.is_file() or {*it.rglob("*.*")} - {*it.rglob("*.pyc")} for it in found)


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


def targets(node: ast.AST) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", ast.Name(""))]


def own_members(node: ast.ClassDef) -> Iterator[str]:
    """Methods, fields, and what `self` is given; also what is named in __slots__ and the like."""
    for inner in ast.walk(node):
        if isinstance(inner, (*FUNCTIONS, ast.ClassDef)):
            yield inner.name
        elif isinstance(inner, ast.Assign | ast.AnnAssign):
            for target in targets(inner):
                yield target.attr if isinstance(target, ast.Attribute) else ast.unparse(target)


@functools.cache
def members() -> dict[str, frozenset[str]]:
    """By name of a class, whatever a class of that name has, its own and inherited.

    Left out is a class that inherits from elsewhere: nobody knows from its text what it has.
    """
    own: dict[str, set[str]] = {}
    bases: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                own.setdefault(node.name, set()).update(own_members(node))
                names = {ast.unparse(base).partition("[")[0].split(".")[-1] for base in node.bases}
                bases.setdefault(node.name, set()).update(names - {"Protocol", "Generic"})

    def everything(name: str) -> set[str]:
        builtin = getattr(builtins, name, None)
        if builtin is not None:
            return set(dir(builtin))
        return own[name].union(*(everything(base) for base in bases[name] - {name}))

    def is_known(name: str) -> bool:
        ours = name in own and all(is_known(base) for base in bases[name] - {name})
        return ours or hasattr(builtins, name)

    return {name: frozenset(everything(name)) for name in own if is_known(name)}


def without_member(text: str) -> list[str]:
    known = members()
    return [
        f"{owner}.{member}"
        for span in CODE_SPAN.findall(text)
        for owner, member in MEMBER.findall(span)
        if owner in known and member not in known[owner] and not hasattr(object, member)
    ]


@functools.cache
def defined_in(folder: Path) -> frozenset[str]:
    """Modules of a package, and the classes, functions and fields that they define."""
    found = {"wormspace", *(path.name for path in PACKAGE.iterdir() if path.is_dir())}
    for path in folder.glob("*.py"):
        found.add(path.stem)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                found |= {ast.unparse(target) for target in targets(node)}
            elif isinstance(node, ast.alias):
                found.add(node.name)
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_a_page_names_is_there(page: Path) -> None:
    spans = code_spans(page)
    missing = {path for span in spans for path in PATH.findall(span) if not is_there(path)}
    everywhere = {path.name for path in (*sources(), *PAGES)}
    missing |= {name for span in spans for name in FILE.findall(span)} - everywhere
    missing |= {span for span in spans if FOLDER.fullmatch(span) and not is_there(span)}
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_member_of_a_class_that_a_page_names_is_there(page: Path) -> None:
    missing = set(without_member(prose(page)))
    assert not missing - (GONE if page.stem == "CHANGELOG" else set())


def test_every_member_of_a_class_that_a_docstring_or_a_comment_names_is_there() -> None:
    missing = {path.name: without_member(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert not {name: spans for name, spans in missing.items() if spans}


def test_what_a_docstring_sends_its_reader_to_is_in_its_own_package() -> None:
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for span in SEE.findall(path.read_text()):
            first, *others = span.split(".")
            there = first in defined_in(path.parent) or (others and first in members())
            missing += [] if there else [f"{path.relative_to(PACKAGE)}: {span}"]
    assert not missing


def test_every_protocol_that_heads_the_functions_which_meet_it_is_there() -> None:
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for heading in HEADING.findall(path.read_text()):
            *module, name = heading.split(".")
            files = [*PACKAGE.rglob("/".join(module) + ".py")]
            there = any(re.search(rf"class {name}\b", file.read_text()) for file in files)
            if module != ["asyncio"] and not there:
                missing.append(f"{path.relative_to(PACKAGE)}: {heading}")
    assert not missing


def test_a_name_follows_the_article_that_its_sound_asks_for() -> None:
    """As it does not where a name was replaced by another one, and nobody read the sentence."""
    a_vowel = re.compile(r"\b[Aa]\s+`[AEIOae]\w+|\b[Aa]n\s+`[BCDGJKPQTVWYZbcdgjkpqtvwyz]\w+")
    texts = {path.name: path.read_text() for path in [*PAGES, *PACKAGE.rglob("*.py")]}
    wrong = {name: a_vowel.findall(text) for name, text in texts.items()}
    assert not {name: found for name, found in wrong.items() if found}
