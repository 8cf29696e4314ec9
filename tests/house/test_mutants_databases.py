"""`tools/mutants` lends databases to its trials, one at a time, and believes no kill by chance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from benchmarks import databases
from tests.tx.databases import LENT, _running
from tools.mutants import judges, lent
from tools.mutants.judges import Judges
from tools.mutants.panel import KILLED, SURVIVED, Case, Panel, _Trial
from tools.mutants.universe import Mutant, Place

ROOT = Path(__file__).resolve().parents[2]


class Served:
    """A server that is made up.

    Attributes:
        ended: the classes of those that were closed.
    """

    ended: ClassVar[list[str]] = []

    def __init__(self, *_: str) -> None:
        self.process = os.getpid()

    def close(self) -> None:
        self.ended.append(type(self).__name__)


class Postgres(Served): ...


class Maria(Served): ...


@pytest.fixture
def made_up(monkeypatch, tmp_path) -> Path:
    """No real servers; the place of a file of tests that works with them."""
    monkeypatch.setattr(databases, "PostgresServer", Postgres)
    monkeypatch.setattr(databases, "MariaDbServer", Maria)
    monkeypatch.setattr(lent, "ROOT", tmp_path)
    monkeypatch.setattr(Served, "ended", [])
    (tmp_path / "test_it.py").write_text("@pytest.mark.databases\n")
    (tmp_path / "test_other.py").write_text("")
    return tmp_path


class TestLending:
    def test_both_are_started_once_used_by_whoever_is_told_and_ended_at_the_end(self, made_up):
        with lent.databases(["test_other.py", "test_it.py"]):
            for kind in (Postgres, Maria, Maria):
                with _running(kind, "orders") as server:
                    assert type(server) is kind
            assert Served.ended == []
        assert sorted(Served.ended) == ["Maria", "Postgres"]
        assert LENT == lent.LENT not in os.environ
        with _running(Postgres, "orders"):
            pass
        assert len(Served.ended) == 3, "one that was not lent is ended by who started it"

    def test_nothing_is_started_where_no_test_works_with_them(self, made_up):
        with lent.databases(["test_other.py", "test_gone.py"]):
            assert lent.LENT not in os.environ
        assert Served.ended == []

    def test_where_one_is_not_installed_none_is_lent(self, made_up, monkeypatch):
        def missing() -> None:
            raise databases.NotInstalled

        monkeypatch.setattr(databases, "MariaDbServer", missing)
        with lent.databases(["test_it.py"]):
            assert lent.LENT not in os.environ
        assert Served.ended == ["Postgres"]

    def test_a_server_that_another_process_knows_is_not_ended_there(self):
        server = databases.Database.__new__(databases.Database)
        server.__dict__ |= {"base": Path("/b"), "_process": object()}
        assert server.__getstate__() == {"base": Path("/b"), "_process": None}

    def test_a_kill_with_databases_is_not_asked_for_in_ci(self, made_up):
        known, place = Judges(), Place("log/it.py", "f", 1, 2, 9, "d")
        known.seconds = {"test_it.py::a": 0.1, "test_other.py::a": 0.1}
        assert [known.is_cheap(place, 2, test) for test in known.seconds] == [False, True]

    def test_the_marked_are_judges_though_they_start_processes(self):
        asked = [name for name in judges.test_files() if lent.borrows(name)]
        assert "tests/tx/test_tx_sessions.py" in asked
        assert not [name for name in asked if not name.startswith("tests/tx/test_tx_")]


def test_one_trial_with_databases_runs_at_a_time() -> None:
    place = Place("log/it.py", "f", 1, 2, 9, "d")
    tests = {"t.py::alone": None, "t.py::lent": "mark"}
    cases = [
        Case(Mutant(place, name, 2, 0, "drop", None), [test], dict.fromkeys(tests, 0.1), False)
        for name, test in (("a", "t.py::lent"), ("b", "t.py::lent"), ("c", "t.py::alone"))
    ]
    panel = Panel(iter(cases), 2, lambda *_: None)
    panel._items = {
        test: SimpleNamespace(get_closest_marker=lambda _, mark=mark: mark)
        for test, mark in tests.items()
    }  # type: ignore[dict-item]

    def begun() -> _Trial:
        trial = panel._next()
        assert trial is not None
        trial.scratch.rmdir()
        return trial

    panel._running[1] = first = begun()
    assert first.borrows
    assert panel._next() is None, "the second waits for the first"
    del panel._running[1]
    second = begun()
    assert [t.case and t.case.mutant.name for t in (first, second)] == ["a", "b"]
    panel._running[2] = second
    assert not begun().borrows


TESTS = """
import os, pathlib, pytest
from wormspace.registers.spans import OffsetSet

@pytest.mark.databases
def test_that_fails_once():
    seen = pathlib.Path(os.environ["SEEN"])
    first, _ = not seen.exists(), seen.touch()
    assert not first

@pytest.mark.databases
def test_one():
    held = OffsetSet(); held.add(3)
    assert held.missing(0, 4, 9) == [(0, 3)]
"""
SCRIPT = """
import json, sys, pytest
from tools.mutants import panel, universe

tests = ["test_it.py::test_that_fails_once", "test_it.py::test_one"]
cases = [
    panel.Case(mutant, tests, dict.fromkeys(tests, 0.1), False)
    for mutant in universe.mutants(universe.SOURCE / "registers/spans.py")
    if mutant.name.partition("OffsetSet.")[2] in sys.argv
]
told = []
judge = panel.Panel(iter(cases), 2, lambda m, *said: told.append(said))
pytest.main(["-q", "-p", "no:cacheprovider", "test_it.py"], plugins=[judge])
print(json.dumps([told, sorted(judge.unsound)]))
"""
KILLS = "add +4: chunks[at] = chunks.get(at, 0) | 1 << (offset & _MASK) -> pass"
LIVES = "missing +9: start > lo -> start != lo"


@pytest.mark.parametrize(
    ("mutant", "verdict"), [(KILLS, [KILLED, "test_it.py::test_one"]), (LIVES, [SURVIVED, ""])]
)
def test_of_a_test_with_databases_a_kill_must_come_twice(tmp_path, mutant, verdict) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, mutant],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "SEEN": str(tmp_path / "seen")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout.splitlines()[-1]) == [[verdict], []]
