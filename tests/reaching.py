"""What simulated runs reach in passing, and what therefore must come up in a run of all tests.

`tools/reach.py` names lines that must come up sometimes (`SOMETIMES`).  While a campaign's tests
run, those of its world are compiled with a counter before each, so that to watch costs next to
nothing.  At the end of a run in which a campaign passed whole, a line that never came up in it
fails the run: a check of what never happens proves nothing.

The hooks are for `tests/conftest.py`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

WHERE = {
    "registers": ("test_campaign.py::test_every_claim_holds", 13),
    "the crowded": ("passes_in_a_shape_where_they_fail[crowded]", 1),
    "the forgetful": ("passes_in_a_shape_where_they_fail[forgetful]", 1),
    "logs": ("test_log_faults.py::", 30),
    "replicas": ("test_smr_worlds.py::test_histories_are", 20),
    "snapshots": ("test_smr_mutants.py::test_replicas_that_live_by_snapshots_lose", 3),
    "transfers": ("test_tx_campaign.py::", 4),
}
"""World: what the ids of its tests have in them, and how many there are; all must have passed."""

REACHED: dict[str, int] = {}
"""How often each line came up in this process."""

_passed: dict[str, int] = {}


def came_up(name: str) -> None:
    """The line of this name is about to run."""
    REACHED[name] = REACHED.get(name, 0) + 1


@cache
def tool() -> Any:
    """`tools/reach.py`, wherever tests are run from."""
    path = Path(__file__).parents[1] / "tools" / "reach.py"
    spec = importlib.util.spec_from_file_location("reach", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _counted(name: str) -> tuple[FunctionType, CodeType]:
    """The function that has the line of this name, and its code with the counter."""
    source = tool().SOURCE
    file, number = tool().line_of(name)
    module = importlib.import_module("wormspace." + file.removesuffix(".py").replace("/", "."))
    tree = ast.parse((source / file).read_text())
    path = _insert(tree, number, ast.parse(f"__import__('reaching').came_up({name!r})"))
    code: CodeType = compile(ast.fix_missing_locations(tree), str(source / file), "exec")
    found: Any = module
    for part in path:
        found = getattr(found, part)
        code = next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == part)
    return found, code


def _insert(tree: ast.Module, number: int, counter: ast.Module) -> list[str]:
    """Put the counter before the statement of a line; returns the names that lead to it."""
    path: list[str] = []
    node: ast.AST = tree
    while True:
        for field in ("body", "orelse", "finalbody", "handlers"):
            inner = getattr(node, field, [])
            at = next((i for i, s in enumerate(inner) if _has(s, number)), None)
            if at is not None:
                break
        else:
            raise LookupError(f"line {number} is no statement's")
        child = inner[at]
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            path.append(child.name)
        elif not isinstance(child, ast.ExceptHandler) and not _has_inside(child, number):
            inner[at:at] = counter.body
            return path
        node = child


def _has(node: ast.AST, number: int) -> bool:
    return node.lineno <= number <= (node.end_lineno or 0)  # type: ignore[attr-defined]


def _has_inside(node: ast.AST, number: int) -> bool:
    """Whether a statement within this one has the line."""
    fields = ("body", "orelse", "finalbody", "handlers")
    return any(_has(s, number) for field in fields for s in getattr(node, field, ()))


@contextmanager
def counting(world: str) -> Iterator[None]:
    """Count what comes up of a world's lines."""
    with ExitStack() as stack:
        for name, (where, *_) in tool().SOMETIMES.items():
            if where == world:
                function, code = _counted(name)
                stack.callback(setattr, function, "__code__", function.__code__)
                function.__code__ = code
        yield


def _world_of(nodeid: str) -> str | None:
    return next((world for world, (part, _) in WHERE.items() if part in nodeid), None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Count while a campaign's test runs."""
    world = _world_of(item.nodeid)
    if world is None or item.get_closest_marker("soak"):
        return (yield)
    with counting(world):
        return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test has passed, in this process or in one that works for it."""
    world = _world_of(report.nodeid)
    if world is not None and report.when == "call" and report.passed:
        _passed[world] = _passed.get(world, 0) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """One that works for this one has ended."""
    for name, count in getattr(node, "workeroutput", {}).get("reached", {}).items():
        REACHED[name] = REACHED.get(name, 0) + count


def never() -> list[str]:
    """What must come up in campaigns that passed whole, and did not."""
    whole = {world for world, (_, least) in WHERE.items() if _passed.get(world, 0) >= least}
    return [
        name
        for name, (world, *_) in tool().SOMETIMES.items()
        if world in whole and not REACHED.get(name)
    ]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the one this works for what came up; or fail, if something never did."""
    workeroutput = getattr(session.config, "workeroutput", None)
    if workeroutput is not None:
        workeroutput["reached"] = REACHED
    elif never():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how often each line came up, and which never did."""
    if REACHED:
        counts = ", ".join(f"{name}: {count}" for name, count in sorted(REACHED.items()))
        terminalreporter.write_line(f"came up in campaigns: {counts}")
    for name in never():
        terminalreporter.write_line(f"NEVER came up in campaigns: {name}", red=True)
