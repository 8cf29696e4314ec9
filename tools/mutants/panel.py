"""The trial of a mutant: a fork of a process that has the tests loaded, with one function changed.

A pytest plugin whose loop runs mutants in place of tests.  A mutant is killed by the first test
that fails with it, or by running for much longer than its tests take.  Where the changed line runs
when its module is loaded, and in processes that a test starts, the module is loaded from the
changed text (`site/sitecustomize.py`).
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NoReturn

import pytest

from tools.mutants import judges
from tools.mutants.judges import Judges
from tools.mutants.universe import ROOT, SOURCE, Mutant

KILLED, ENDLESS, SURVIVED, UNREACHED = "killed", "endless", "survived", "not reached"
PATIENCE, SLACK_CPU_S = 3, 10.0
"""A trial may take so many times the CPU of its tests, and so much more: a hang is a kill."""
SLOWEST = 12
"""A trial may last so many times its CPU limit: the machine may have other work."""


class Unfit(Exception):
    """The function's code cannot be replaced: the module must be loaded anew."""


@dataclass
class _Trial:
    mutant: Mutant
    scratch: Path
    ends_s: float

    def verdict(self, status: int) -> tuple[str, str]:
        by = self.scratch / "by"
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return SURVIVED, ""
        if os.WIFSIGNALED(status):
            return ENDLESS, ""
        return KILLED, by.read_text() if by.exists() else "a run of its own"


class Panel:
    """Runs mutants as they come, and tells each verdict."""

    def __init__(
        self,
        mutants: Iterator[Mutant],
        known: Judges,
        jobs: int,
        tell: Callable[[Mutant, str, str], None],
    ) -> None:
        self._mutants, self._known, self._jobs, self._tell = mutants, known, jobs, tell
        self._running: dict[int, _Trial] = {}
        self._items: dict[str, pytest.Item] = {}
        self._by: Path | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run mutants instead of tests."""
        self._items = {item.nodeid: item for item in session.items}
        session.config.pluginmanager.unregister(name="terminalreporter")
        while True:
            while len(self._running) < self._jobs and (mutant := next(self._mutants, None)):
                self._begin(mutant)
            if not self._running:
                return True
            self._await_one()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The first failure ends a trial."""
        if report.failed and self._by is not None:
            self._by.write_text(report.nodeid)
            os._exit(1)

    def _begin(self, mutant: Mutant) -> None:
        tests = [t for t in self._known.of(mutant.place, mutant.line) if t in self._items]
        if not tests:
            self._tell(mutant, UNREACHED, "")
            return
        seconds = sum(self._known.seconds[t] for t in tests)
        limit = int(PATIENCE * seconds + SLACK_CPU_S)
        scratch = Path(tempfile.mkdtemp(prefix="mutant-"))
        changed = {"module": mutant.place.module, "text": mutant.text()}
        (scratch / "mutant.json").write_text(json.dumps(changed))
        sys.stdout.flush()
        if pid := os.fork():
            self._running[pid] = _Trial(mutant, scratch, time.monotonic() + SLOWEST * limit)
        else:
            self._run(mutant, tests, limit, scratch)

    def _await_one(self) -> None:
        """Wait until a trial has ended, or end one whose time is over."""
        pid, status = os.waitpid(-1, os.WNOHANG)
        late = [p for p, trial in self._running.items() if time.monotonic() > trial.ends_s]
        for one in late:
            os.kill(one, signal.SIGKILL)
        if pid not in self._running:
            time.sleep(0.02)
            return
        trial = self._running.pop(pid)
        try:
            os.killpg(pid, signal.SIGKILL)  # what its tests started
        except ProcessLookupError:
            pass
        verdict = trial.verdict(status)
        shutil.rmtree(trial.scratch, ignore_errors=True)
        self._tell(trial.mutant, *verdict)

    def _run(self, mutant: Mutant, tests: list[str], limit: int, scratch: Path) -> NoReturn:
        """In the fork: what its tests say."""
        status = 1
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
            os.environ |= judges.paths() | {"WORMSPACE_MUTANT": str(scratch / "mutant.json")}
            nowhere = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(nowhere, fd)
            try:
                if self._known.runs_on_import(mutant.place, mutant.line):
                    raise Unfit
                _apply(mutant)
            except Unfit:
                command = [sys.executable, "-m", "pytest", "-x", *judges.SUITE]
                os.chdir(ROOT)
                os.execv(sys.executable, [*command, f"--basetemp={scratch}/tmp", *tests])
            self._by = scratch / "by"
            items = [self._items[t] for t in tests]
            items[0].config._tmp_path_factory._basetemp = scratch  # type: ignore[attr-defined]
            for item, after in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            status = 0
        except BaseException as e:  # noqa: BLE001 - whatever stops a test is a kill
            (scratch / "by").write_text(f"{type(e).__name__}: {e}")
        finally:
            os._exit(status)


def _apply(mutant: Mutant) -> None:
    """Give a function, wherever it was imported, its changed code.

    Raises:
        Unfit: it is not a function with code of its own any more, or closes over other names.
    """
    found: Any = importlib.import_module(mutant.place.module)
    for name in mutant.place.name.split("."):
        found = inspect.getattr_static(found, name)
    for wrapper in ("__func__", "fget", "func"):
        found = getattr(found, wrapper, None) or found
    found = inspect.unwrap(found)
    if not isinstance(found, FunctionType) or found.__module__ != mutant.place.module:
        raise Unfit
    path = str(SOURCE / mutant.place.path)
    code = compile(mutant.text(), path, "exec", dont_inherit=True)
    try:
        found.__code__ = _code_of(code, found.__qualname__)
    except ValueError as e:
        raise Unfit from e


def _code_of(code: CodeType, qualname: str) -> CodeType:
    """The code of the first function of this name within that of its module."""
    waiting = [code]
    while waiting:
        one = waiting.pop(0)
        if one.co_qualname == qualname:
            return one
        waiting += [c for c in one.co_consts if isinstance(c, CodeType)]
    raise Unfit
