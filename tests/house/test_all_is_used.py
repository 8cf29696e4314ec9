"""What ships is used by what ships: no module and no function is there for nobody, or for tests.

What a module defines is used if the module names it again, or another one imports it.  Names of
methods are counted, not resolved: one is used if its name stands anywhere else in what ships.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from itertools import chain

from test_no_circles import ROOT, import_graph, sources

BEGINNINGS = {"wormspace.__init__", "wormspace.sync.__init__"}
"""What users import; with the scripts of pyproject.toml and what `python -m` runs."""

OTHERWISE = {
    "sim/_handles.py sim/_listener.py sim/_loop.py sim/_transport.py": "asyncio calls them",
    "cli/": "click calls them",
    "sim/calls.py sim/questions.py sim/workload.py": "found by the name of what is asked: on_...",
    "smr/types.py": "users call them: commands and queries of what can be replicated",
    "smr/state.py": "users call them: what a set can do",
    "tx/postgres_session.py": "users call what is there to be refused: psycopg has it",
    "sim/linearizability.py: ret": "a test's history is written by the test",
    "sim/network.py: set_latency": "a test's world is laid out by the test",
    "sim/world.py: counting_delays draws_real_store": "the same",
    "store/journal_file.py: past_cache": "a state that nothing else shows",
}
"""What nothing that ships names, by its file, and why it is there."""


LONGEST = 60
"""A string of so many characters is prose."""


def shipped() -> dict[str, str]:
    """The text of each module that users install."""
    return {name: text for name, text in sources().items() if name.startswith("wormspace.")}


def modules_by_name(text: str) -> set[str]:
    """The modules that strings of a file name: they are imported when they are called for."""
    strings = {n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)}
    return {
        s.partition(":")[0] for s in strings if isinstance(s, str) and s.startswith("wormspace")
    }


def beginnings(texts: dict[str, str]) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    scripts = {target.partition(":")[0] for target in project["scripts"].values()}
    mains = {name for name in texts if name.endswith(".__main__")}
    return {*BEGINNINGS, *mains, *(f"{name}.__init__" for name in scripts)}


def unreached(texts: dict[str, str]) -> set[str]:
    """The modules that are imported by nothing that users can start."""
    graph = import_graph(texts)
    ways = {
        name: {*graph[name], *(modules_by_name(text) & texts.keys())}
        for name, text in texts.items()
    }
    seen: set[str] = set()
    todo = beginnings(texts)
    while todo:
        name = todo.pop()
        seen.add(name)
        packages = {f"{name.rpartition('.')[0]}.__init__"} & texts.keys()
        todo |= (ways[name] | packages) - seen
    return texts.keys() - seen


def words(text: str) -> Counter[str]:
    """The names in the code, and in its strings that are names; docstrings do not count."""
    found: Counter[str] = Counter()
    tree = ast.parse(text)
    prose = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in prose:
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] += 1
        elif isinstance(node, ast.Name):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute):
            found[node.attr] += 1
        elif isinstance(node, ast.alias):
            found[node.name] += 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(re.findall(r"\w+", node.value) if len(node.value) < LONGEST else ())
    return found


def unnamed(texts: dict[str, str]) -> dict[str, str]:
    """What is defined and never named: FILE and NAME."""
    counted = sum((words(text) for text in texts.values()), Counter[str]())
    defined = {
        name: [
            node.name
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("__")
        ]
        for name, text in texts.items()
    }
    times = Counter(chain.from_iterable(defined.values()))
    return {
        f"{module}: {name}": name
        for module, names in defined.items()
        for name in names
        if counted[name] <= times[name]
    }


def outside(texts: dict[str, str]) -> set[str]:
    """MODULE.NAME of all that some module takes from another one."""
    found: set[str] = set()
    for text in texts.values():
        tree, modules = ast.parse(text), dict[str, str]()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                    found.add(f"{node.module}.{alias.name}")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value.replace(":", "."))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found.add(f"{modules.get(node.value.id)}.{node.attr}")
    return found


def names_of(node: ast.stmt) -> list[str]:
    """What a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
    return [target.id for target in targets if isinstance(target, ast.Name)]


def untaken(texts: dict[str, str]) -> dict[str, str]:
    """What a module defines, does not name again, and no other module imports: FILE and NAME."""
    taken, found = outside(texts), {}
    for module, text in texts.items():
        tree = ast.parse(text)
        counted = [words(ast.unparse(node)) for node in tree.body]
        for at, node in enumerate(tree.body):
            for name in names_of(node):
                here = any(name in words for n, words in enumerate(counted) if n != at)
                known = f"{module.removesuffix('.__init__')}.{name}"
                if not (here or known in taken or name.startswith("__")):
                    found[f"{module}: {name}"] = name
    return found


def excused(found: str) -> bool:
    """Whether `OTHERWISE` says why it is there."""
    module, _, name = found.partition(": ")
    path = module.removeprefix("wormspace.").replace(".", "/") + ".py"
    for key in OTHERWISE:
        files, _, names = key.partition(": ")
        at_all = any(path.startswith(file) for file in files.split())
        if at_all and (not names or name in names.split()):
            return True
    return False


def test_every_module_is_imported_from_what_users_start() -> None:
    found = unreached(shipped())
    assert not found, f"nothing that ships imports {sorted(found)}: to tests/, or away"


def test_every_function_is_named_by_what_ships() -> None:
    texts = shipped()
    by_hand = {n: text for n, text in texts.items() if not n.startswith("wormspace.sync.")}
    all_found = untaken(texts) | unnamed(by_hand)
    found = sorted(name for name in all_found if not excused(name))
    assert not found, f"only tests use them, or nobody: {found}"


def test_a_module_that_only_a_test_imports_is_found() -> None:
    texts = {
        "wormspace.__init__": "import wormspace.a\nLATER = 'wormspace.b:f'\n",
        "wormspace.a": "",
        "wormspace.b": "from wormspace.p import c\n",
        "wormspace.p.__init__": "",
        "wormspace.p.c": "",
        "wormspace.p.d": "import wormspace.a\n",
        "wormspace.sync.__init__": "",
        "wormspace.cli.__init__": "",
    }
    assert unreached(texts) == {"wormspace.p.d"}


def test_a_function_that_nobody_names_is_found() -> None:
    text = 'def used(): ...\ndef unused():\n    """See `unused`."""\n    return used()  # unused\n'
    assert list(unnamed({"wormspace.a": text})) == ["wormspace.a: unused"]


def test_what_no_other_module_takes_is_found() -> None:
    texts = {
        "wormspace.a": "log = 1\ndef f(): ...\ndef g(): ...\ndef h(): f()\n",
        "wormspace.b": "from wormspace import a\nlog = 2\na.h(log)\n",
        "wormspace.c": "def g(): ...\ng()\n",
    }
    assert list(untaken(texts)) == ["wormspace.a: log", "wormspace.a: g"]
