"""The files of a package import one another without a circle: each can be read after those below.

An import counts wherever it stands: under `if TYPE_CHECKING` and inside a function it hides a
circle from Python, and not from who reads or changes the files.  `from wormspace.x import y` is an
import of the file `x/y.py` if there is one, and else of `x/__init__.py`; that one imports the files
of its package, so a file that imports from its own package's `__init__` closes a circle.  (Python
runs that `__init__` before any file of the package; this is not counted: it is so for every file.)
"""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = [ROOT / "src" / "wormspace", ROOT / "benchmarks", ROOT / "explorer"]

Graph = dict[str, dict[str, int]]
"""What each module imports, and in which line."""


def sources() -> dict[str, str]:
    """The text of each module, by its name; that of a package ends in `.__init__`."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts): path.read_text()
        for package in PACKAGES
        for path in sorted(package.rglob("*.py"))
    }


def import_graph(texts: dict[str, str]) -> Graph:
    """Which module imports which: those that are in `texts` only."""

    def module(name: str) -> str:
        return f"{name}.__init__" if f"{name}.__init__" in texts else name

    graph: Graph = {}
    for importer, text in texts.items():
        found = graph.setdefault(importer, {})
        for node in ast.walk(ast.parse(text)):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [module(alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = importer.split(".")[: -node.level] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                files = [module(f"{base}.{alias.name}") for alias in node.names]
                names = [name if name in texts else module(base) for name in files]
            for name in names:
                if name in texts and name != importer:
                    found.setdefault(name, node.lineno)
    return graph


def shortest_circle(graph: Graph, start: str) -> list[str]:
    """From a module back to itself, by the fewest imports; empty if no way leads back."""
    ways = [[start]]
    seen: set[str] = set()
    for way in ways:
        for name in graph[way[-1]]:
            if name == start:
                return [*way, start]
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return []


def circles(graph: Graph) -> dict[str, list[str]]:
    """A shortest circle through each module that is in any."""
    found = {name: shortest_circle(graph, name) for name in graph}
    return {name: circle for name, circle in found.items() if circle}


def described(graph: Graph, circle: list[str]) -> str:
    steps = [f"{one} (line {graph[one][other]}) imports" for one, other in pairwise(circle)]
    return f"{' '.join(steps)} {circle[-1]}"


def test_no_files_import_one_another_in_a_circle() -> None:
    graph = import_graph(sources())
    found = {described(graph, circle) for circle in circles(graph).values()}
    assert not found, (
        "these files can be read, tested and changed only together:\n  "
        + "\n  ".join(sorted(found))
        + "\nLet the lower file say what it needs of the upper one, as a narrow Protocol of its "
        "own, or move what both need to a file below both. An import inside a function, or under "
        "TYPE_CHECKING, is a circle all the same."
    )


def found_in(texts: dict[str, str]) -> set[str]:
    return set(circles(import_graph(texts)))


def test_an_import_counts_wherever_it_stands() -> None:
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from w.a import A\n"
    late = "def f():\n    import w.a\n"
    relative = "from . import a\n"
    for text in (hidden, late, relative):
        assert found_in({"w.a": "import w.b\n", "w.b": text, "w.c": "import w.a\n"}) == {
            "w.a",
            "w.b",
        }


def test_the_init_of_ones_own_package_closes_a_circle() -> None:
    texts = {"w.p.__init__": "from w.p.a import A\n", "w.p.a": "A = 1\n", "w.p.b": "import w.p.a\n"}
    assert found_in(texts) == set()
    assert found_in({**texts, "w.p.a": "from w.p import B\n"}) == {"w.p.__init__", "w.p.a"}
    assert found_in({**texts, "w.p.a": "from w.p import b\n", "w.p.b": ""}) == set()
    assert found_in({**texts, "w.p.a": "from . import B\n"}) == {"w.p.__init__", "w.p.a"}


def test_a_circle_is_told_file_by_file() -> None:
    graph = import_graph({"a": "\nimport b\n", "b": "import c\n", "c": "import a\nimport b\n"})
    assert described(graph, circles(graph)["a"]) == (
        "a (line 2) imports b (line 1) imports c (line 1) imports a"
    )
