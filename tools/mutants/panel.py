"""The trial of a mutant: a fork of a process that has the tests loaded, with one function changed.

A pytest plugin whose loop runs mutants in place of tests.  A mutant is killed by the first test
that fails with it, or takes much longer than without; but that test is run without the mutant too,
and if it fails all the same, it judges nothing and the others are asked.  Where the changed line
runs when its module is loaded, and in processes that a test starts, the module is loaded from the
changed text (`site/sitecustomize.py`).

Tests that work with databases share these (`lent`), so one such trial runs at a time.  They wait
for other processes, and so may fail on a busy machine: of them a kill is believed that comes twice,
and between the two the test passes without the mutant.
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
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NoReturn

import pytest

from tools.mutants import judges, lent, witness
from tools.mutants.universe import ROOT, SOURCE, Mutant

KILLED, TIMED_OUT, SURVIVED, UNREACHED = "killed", "timed out", "survived", "not reached"
SLOWEST = 12
"""A test may last so many times its CPU limit: the machine may have other work."""
IDLE_S, IDLE_CPU_S = 20.0, 0.2
"""Who uses so little for so long waits for what does not come."""
PATIENCE_WITH_DATABASES = 2
"""Who waits for databases may wait so many times as long."""
MOST_MEMORY = 4 << 30
"""Bytes of a trial's data: a mutant may collect without end."""


class Unfit(Exception):
    """The function's code cannot be replaced: the module must be loaded anew."""


@dataclass
class Case:
    """A mutant and those who judge it.

    Attributes:
        tests: in the order in which they are asked.
        seconds: of CPU, of each.
        anew: whether the line runs when its module is loaded.
    """

    mutant: Mutant
    tests: list[str]
    seconds: dict[str, float]
    anew: bool


@dataclass
class _Trial:
    """A process that runs tests: with a case's mutant, or without one to see whether they pass."""

    case: Case | None
    tests: list[str]
    seconds: dict[str, float]
    borrows: bool
    scratch: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="mutant-")))
    _test: str = ""
    _began_s: float = 0.0
    _looked_s: float = 0.0
    _cpu_s: float = 0.0

    def by(self) -> str:
        """The test that runs, or ran last."""
        by = self.scratch / "by"
        return by.read_text() if by.exists() else ""

    def is_late(self, pid: int) -> bool:
        """Whether the test that runs has lasted too long, or only waits."""
        now, test = time.monotonic(), self.by()
        patience = PATIENCE_WITH_DATABASES if self.borrows else 1
        if test != self._test or not self._began_s:
            self._test, self._began_s = test, now
            self._looked_s, self._cpu_s = now, cpu_s(pid)
        if now - self._looked_s > patience * IDLE_S:
            before, self._looked_s, self._cpu_s = self._cpu_s, now, cpu_s(pid)
            if self._cpu_s - before < IDLE_CPU_S:
                return True
        longest_s = SLOWEST * witness.limit_s(self.seconds.get(test, 0.0))
        return now - self._began_s > patience * longest_s


def cpu_s(pid: int) -> float:
    """The CPU seconds of a process and of those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def verdict(status: int) -> str:
    """What the end of a trial says, as `os.waitpid` tells it."""
    if os.WIFSIGNALED(status):
        return TIMED_OUT if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else KILLED
    return SURVIVED if os.WEXITSTATUS(status) == 0 else KILLED


class Panel:
    """Runs mutants as they come, and tells each verdict and the test it is by.

    Attributes:
        unsound: tests that fail without a mutant.
    """

    def __init__(
        self, cases: Iterator[Case], jobs: int, tell: Callable[[Mutant, str, str], None]
    ) -> None:
        self.unsound: set[str] = set()
        self._cases, self._jobs, self._tell = cases, jobs, tell
        self._waiting: list[_Trial] = []
        self._running: dict[int, _Trial] = {}
        self._items: dict[str, pytest.Item] = {}
        self._sound: set[str] = set()
        self._came_once: set[tuple[str, str]] = set()
        self._doubted: dict[str, list[tuple[Case, str]]] = defaultdict(list)
        self._in_trial = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run mutants instead of tests."""
        self._items = {item.nodeid: item for item in session.items}
        session.config.pluginmanager.unregister(name="terminalreporter")
        while True:
            while len(self._running) < self._jobs and (trial := self._next()):
                self._begin(trial)
            if not self._running:
                return True
            self._await_one()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The first failure ends a trial."""
        if self._in_trial:
            witness.pytest_runtest_logreport(report)

    def _next(self) -> _Trial | None:
        """Who begins now; None: there is nobody, or nobody who need not wait for the databases."""
        while not self._waiting and (case := next(self._cases, None)):
            self._line_up(case)
        lent_out = any(trial.borrows for trial in self._running.values())
        for trial in self._waiting:
            if not (lent_out and trial.borrows):
                self._waiting.remove(trial)
                return trial
        return None

    def _line_up(self, case: Case) -> None:
        tests = [t for t in case.tests if t in self._items and t not in self.unsound]
        if tests:
            borrows = any(map(self._borrows, tests))
            self._waiting.append(_Trial(case, tests, case.seconds, borrows))
        else:
            self._tell(case.mutant, UNREACHED, "")

    def _borrows(self, test: str) -> bool:
        return self._items[test].get_closest_marker(lent.MARK) is not None

    def _begin(self, trial: _Trial) -> None:
        seconds = {t: trial.seconds[t] for t in trial.tests}
        (trial.scratch / "seconds.json").write_text(json.dumps(seconds))
        if trial.case is not None:
            mutant = trial.case.mutant
            changed = {"module": mutant.place.module, "text": mutant.text()}
            (trial.scratch / "mutant.json").write_text(json.dumps(changed))
        sys.stdout.flush()
        if pid := os.fork():
            self._running[pid] = trial
        else:
            self._run(trial)

    def _await_one(self) -> None:
        """Wait until a trial has ended, or end one whose test lasts too long."""
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid not in self._running:
            for one in [p for p, trial in self._running.items() if trial.is_late(p)]:
                os.kill(one, signal.SIGKILL)
            time.sleep(0.01)
            return
        trial = self._running.pop(pid)
        try:
            os.killpg(pid, signal.SIGKILL)  # what its tests started
        except ProcessLookupError:
            pass
        by, found = trial.by(), verdict(status)
        shutil.rmtree(trial.scratch, ignore_errors=True)
        if trial.case is None:
            self._hear_of(trial.tests[0], found)
        elif found == SURVIVED:
            self._tell(trial.case.mutant, found, "")
        elif by not in self._items:
            self._tell(trial.case.mutant, found, by or "the module cannot be loaded")
        elif by in self._sound or (trial.case.mutant.name, by) in self._came_once:
            self._tell(trial.case.mutant, found, by)
        else:
            self._doubt(by, trial.case, found)

    def _doubt(self, test: str, case: Case, found: str) -> None:
        """See whether the test passes without a mutant, before it is believed."""
        self._doubted[test].append((case, found))
        if len(self._doubted[test]) == 1:
            self._waiting.append(_Trial(None, [test], case.seconds, self._borrows(test)))

    def _hear_of(self, test: str, found: str) -> None:
        """How a test did without a mutant."""
        if found != SURVIVED:
            self.unsound.add(test)
        elif not self._borrows(test):
            self._sound.add(test)
        for case, verdict_with in self._doubted.pop(test):
            if test in self._sound:
                self._tell(case.mutant, verdict_with, test)
            else:
                self._came_once.add((case.mutant.name, test))
                self._line_up(replace(case, tests=case.tests[case.tests.index(test) :]))

    def _run(self, trial: _Trial) -> NoReturn:
        """In the fork: what its tests say."""
        status = 1
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
            nowhere = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(nowhere, fd)
            if trial.case is not None:
                self._change(trial, trial.case)
            self._in_trial = True
            items = [self._items[t] for t in trial.tests]
            items[0].config._tmp_path_factory._basetemp = trial.scratch  # type: ignore[attr-defined]
            for item, after in zip(items, [*items[1:], None], strict=True):
                witness.begin(trial.scratch, item.nodeid, trial.seconds[item.nodeid])
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            status = 0
        finally:
            os._exit(status)

    def _change(self, trial: _Trial, case: Case) -> None:
        """Give this process the mutant; where it must load it from the beginning, a new one."""
        scratch = trial.scratch
        os.environ |= judges.paths() | {"WORMSPACE_MUTANT": str(scratch / "mutant.json")}
        try:
            if case.anew:
                raise Unfit
            apply(case.mutant)
        except Unfit:
            os.environ["WORMSPACE_TRIAL"] = str(scratch)
            os.chdir(ROOT)
            command = [sys.executable, "-m", "pytest", *judges.SUITE]
            command += ["-p", "tools.mutants.witness", f"--basetemp={scratch}/tmp"]
            os.execv(sys.executable, [*command, *trial.tests])


def apply(mutant: Mutant) -> None:
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
    """The code of the one function of this name within that of its module.

    Raises:
        Unfit: there is none, or there are several: overloads, or both halves of a property.
    """
    waiting, found = [code], []
    while waiting:
        one = waiting.pop(0)
        if one.co_qualname == qualname:
            found.append(one)
        waiting += [c for c in one.co_consts if isinstance(c, CodeType)]
    if len(found) != 1:
        raise Unfit
    return found[0]
