"""What a test reaches: marks at the head of each block of statements, and who passed them.

A pytest plugin (`-p tools.mutants.reach`).  It writes a line for each test that passed: its name,
the CPU seconds of it and its processes, and the blocks reached, each as "path:line".  Blocks
reached before the first test, on import, are in the lines of a test named "".
"""

from __future__ import annotations

import ast
import atexit
import builtins
import json
import os
from collections.abc import Generator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "wormspace"
SET = "__wormspace_reached__"
TEST = "PYTEST_CURRENT_TEST"
reached: set[str] = set()
vars(builtins)[SET] = reached
failed: set[str] = set()


def marked(path: str) -> ast.Module:
    """A file of what ships, with its marks."""
    short = Path(path).resolve().relative_to(SOURCE).as_posix()
    tree = ast.parse(Path(path).read_text())
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    done: set[int] = set()
    for function in functions:
        for node in ast.walk(function):
            for field in ("body", "orelse", "finalbody"):
                block = getattr(node, field, None)
                if isinstance(block, list) and block and id(block) not in done:
                    done.add(id(block))
                    _mark(block, f"{short}:{block[0].lineno}")
    return ast.fix_missing_locations(tree)


def _mark(block: list[ast.stmt], name: str) -> None:
    mark = ast.parse(f"{SET}.add({name!r})").body[0]
    for node in ast.walk(mark):
        if "lineno" in node._attributes:
            ast.copy_location(node, block[0])
    first = block[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    block.insert(1 if documented else 0, mark)


def _write(test: str, seconds: float) -> None:
    directory = Path(os.environ["WORMSPACE_REACH"])
    with (directory / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps([test, round(seconds, 3), sorted(reached)]) + "\n")


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Note what the test reaches."""
    if not hasattr(item.session, "reached_on_import"):
        item.session.reached_on_import = True  # type: ignore[attr-defined]
        _write("", 0)
    reached.clear()
    began = _cpu_s()
    result = yield
    if item.nodeid not in failed:
        _write(item.nodeid, _cpu_s() - began)
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test that failed or was skipped judges nothing."""
    if not report.passed:
        failed.add(report.nodeid)


if TEST in os.environ:  # in a process that a test started
    atexit.register(_write, os.environ[TEST].rpartition(" ")[0], 0.0)
