"""What a test reaches: marks at the head of each block of statements, and who passed them.

A pytest plugin (`-p tools.mutants.reach`).  It writes a line for each test that passed: its name,
the CPU seconds of it and its processes, and the blocks reached, each as "path:line".  Blocks
reached before the first test, on import, are in the lines of a test named "".
"""

from __future__ import annotations

import ast
import atexit
import builtins
import importlib
import json
import os
import resource
import signal
import time
from collections.abc import Generator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "wormspace"
SET = "__wormspace_reached__"
MOST_CPU_S = float(os.environ.get("WORMSPACE_REACH_CPU_S", "inf"))
"""A test that takes longer is stopped, and is no judge; nor is it with other arguments."""
LONGEST_S = 60.0
"""So is one that lasts longer."""
TOO_LONG = 70
"""How this process ends then: the others are still to be run."""
TEST = "PYTEST_CURRENT_TEST"
reached: set[str] = set()
vars(builtins)[SET] = reached
failed: set[str] = set()
begun: list[str] = []


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
    """A line of what was reached; the seconds of a process are in those of its test."""
    directory = Path(os.environ["WORMSPACE_REACH"])
    with (directory / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps([test, round(seconds, 3), sorted(reached)]) + "\n")


def _cpu_s() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def _stop(*_: object) -> None:
    """End this process, whose test takes too long: nothing less leaves the next one undisturbed."""
    _note("long", begun[-1].partition("[")[0])
    os._exit(TOO_LONG)


def _note(what: str, test: str) -> None:
    with (Path(os.environ["WORMSPACE_REACH"]) / what).open("a") as file:
        file.write(f"{test}\n")


def _noted(what: str) -> set[str]:
    path = Path(os.environ["WORMSPACE_REACH"]) / what
    return set(path.read_text().splitlines()) if path.exists() else set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Go on after the test that took too long, and do not begin it with other arguments."""
    done, long = _noted("done"), _noted("long")
    items[:] = [i for i in items if i.nodeid not in done and i.nodeid.partition("[")[0] not in long]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Note what the test reaches."""
    if not hasattr(item.session, "reached_on_import"):
        signal.signal(signal.SIGPROF, _stop)
        signal.signal(signal.SIGALRM, _stop)
        item.session.reached_on_import = True  # type: ignore[attr-defined]
        for late in ("worm", "server.embedded"):  # else the first test would pay for them
            importlib.import_module(f"wormspace.{late}")
        _write("", 0)
    begun.append(item.nodeid)
    reached.clear()
    began = _cpu_s()
    signal.setitimer(signal.ITIMER_PROF, min(MOST_CPU_S, LONGEST_S))
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    result = yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    _note("done", item.nodeid)
    if item.nodeid not in failed:
        _write(item.nodeid, max(_cpu_s() - began, 0.001))
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test that failed or was skipped judges nothing."""
    if not report.passed:
        failed.add(report.nodeid)


if TEST in os.environ:  # in a process that a test started
    atexit.register(_write, os.environ[TEST].rpartition(" ")[0], 0.0)
