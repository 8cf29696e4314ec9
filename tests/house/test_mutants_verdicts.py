"""`tools/mutants` believes the right verdicts, goes on where it was, and asks for explanations."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tools.mutants import __main__ as tool
from tools.mutants import account, panel
from tools.mutants.account import Account
from tools.mutants.judges import Judges
from tools.mutants.panel import KILLED, SURVIVED, TIMED_OUT, UNREACHED
from tools.mutants.universe import Mutant, Place

ROOT = Path(__file__).resolve().parents[2]


def mutant(name: str, package: str = "log", digest: str = "d") -> Mutant:
    place = Place(f"{package}/it.py", "f", 1, 2, 9, digest)
    return Mutant(place, f"{place} +1: {name}", 2, 0, "drop", None)


class TestExplanations:
    def faults(self, capsys, known: dict[str, str], *verdicts: tuple[Mutant, str]) -> str:
        held = Account({mutant(name).name: why for name, why in known.items()}, None)
        held.look_for_left_over([m for m, _ in verdicts])
        for one, verdict in verdicts:
            held.take(one, verdict)
        out = capsys.readouterr().out
        assert held.faults == out.count("\n")
        return out

    @pytest.mark.parametrize("verdict", [SURVIVED, UNREACHED])
    def test_a_survivor_must_be_explained(self, capsys, verdict):
        assert "not explained: log/it.py:f +1: a" in self.faults(capsys, {}, (mutant("a"), verdict))
        assert self.faults(capsys, {"a": "same"}, (mutant("a"), verdict)) == ""

    @pytest.mark.parametrize("verdict", [KILLED, TIMED_OUT])
    def test_what_is_killed_must_not_be(self, capsys, verdict):
        assert self.faults(capsys, {}, (mutant("a"), verdict)) == ""
        out = self.faults(capsys, {"a": "same"}, (mutant("a"), verdict))
        assert "no survivor any more: log/it.py:f +1: a" in out

    def test_nor_what_is_not_there(self, capsys):
        assert "no such mutant" in self.faults(capsys, {"a": "same"}, (mutant("b"), KILLED))

    def test_a_reason_is_given(self, capsys):
        assert "no reason" in self.faults(capsys, {"a": ""}, (mutant("a"), SURVIVED))

    def test_they_are_read_line_by_line(self):
        text = "# why\nlog/it.py:f +1: a -> b || it is || the same\n"
        assert account.explained(text) == {"log/it.py:f +1: a -> b": "it is || the same"}


class TestShares:
    @pytest.mark.parametrize(
        ("killed", "of", "low", "high"),
        [(0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (45, 50, 0.786, 0.957), (0, 0, 0.0, 1.0)],
    )
    def test_an_interval_is_wilsons(self, killed, of, low, high):
        assert account.interval(killed, of) == pytest.approx((low, high), abs=0.001)

    def test_packages_count_by_their_size_and_the_explained_do_not(self):
        held = Account({mutant(f"same{too}").name: "it is" for too in ("", " too")}, None)
        for i in range(4):
            held.take(mutant(f"{i}"), KILLED if i else TIMED_OUT)
        held.take(mutant("same"), SURVIVED)
        held.take(mutant("same too"), KILLED)  # by a test that fails now and then
        held.take(mutant("r0", "rpc"), KILLED)
        held.take(mutant("r1", "rpc"), SURVIVED)
        every = [mutant(f"{i}") for i in range(300)] + [mutant(f"{i}", "rpc") for i in range(100)]
        log, rpc, whole = held.summary(every)
        assert log.startswith("log: 4 of 4 killed, 100%")
        assert "2 explained; 300 in all" in log
        assert rpc.startswith("rpc: 1 of 2 killed, 50%")
        assert whole.startswith("all of these: 87.5%")  # 300 at 1, 100 at a half
        spread = math.sqrt(300**2 * (5 / 6) * (1 / 6) / 4 + 100**2 * 0.25 / 2) / 400
        assert whole.endswith(f"{1.96 * spread:.1%}")


class TestGoingOn:
    @pytest.fixture
    def tried(self, monkeypatch) -> list[str]:
        """The names of the mutants that are tried; each is killed by t.py::x."""
        tried: list[str] = []

        class Killing(panel.Panel):
            def __init__(self, cases, jobs, tell):
                super().__init__(cases, jobs, tell)
                for case in cases:
                    tried.append(case.mutant.name)
                    tell(case.mutant, KILLED, "t.py::x")

        monkeypatch.setattr(tool, "Panel", Killing)
        monkeypatch.setattr(pytest, "main", lambda *_, **__: 0)
        return tried

    def run(self, every: list[Mutant], log: Path, *options: str) -> Account:
        held = Account({}, log)
        tool.judge(tool.arguments(["--log", str(log), *options]), every, held)
        return held

    def test_what_has_a_verdict_is_not_tried_again(self, tried, tmp_path):
        log, every = tmp_path / "log", [mutant("a"), mutant("b")]
        assert len(self.run(every[:1], log).results) == 1
        assert len(self.run(every, log).results) == 2
        assert tried == [m.name for m in every]

    def test_unless_its_function_changed(self, tried, tmp_path):
        log = tmp_path / "log"
        self.run([mutant("a")], log)
        self.run([mutant("a", digest="other")], log)
        assert len(tried) == 2

    def test_who_survived_is_tried_again_when_asked(self, tried, tmp_path):
        log, every = tmp_path / "log", [mutant("a"), mutant("b"), mutant("c")]
        verdicts = zip((SURVIVED, KILLED, UNREACHED), every, strict=True)
        log.write_text("".join(account.line_of(v, m, "t.py::x") for v, m in verdicts))
        self.run(every, log, "--retry")
        assert tried == [every[0].name, every[2].name]
        self.run(every, log, "--retry")  # the later verdict counts
        assert len(tried) == 2

    def test_when_its_time_is_over_no_more_are_begun(self, tried, tmp_path):
        held = self.run([mutant("a")], tmp_path / "log", "--seconds", "0")
        assert tried == []
        assert held.results == []


class TestTheSample:
    def draw(self, *options: str) -> list[str]:
        every = [mutant(f"{i}", package) for package in ("log", "rpc") for i in range(50)]
        return [m.name for m in tool.choose(tool.arguments([*options]), every)]

    def test_so_many_of_each_package(self):
        drawn = self.draw("--sample", "20")
        assert sum(name.startswith("log/") for name in drawn) == 20
        assert len(set(drawn)) == 40

    def test_the_same_each_time_and_more_goes_on_from_fewer(self):
        assert self.draw("--sample", "9") == self.draw("--sample", "9")
        assert set(self.draw("--sample", "9")) < set(self.draw("--sample", "20"))
        assert self.draw("--sample", "9") != self.draw("--sample", "9", "--seed", "1")

    def test_so_many_of_each_function(self):
        every = [mutant(f"{i}", package) for package in ("log", "rpc") for i in range(50)]
        places = {m.place for m in every}
        drawn = tool.choose(tool.arguments(["--each", "1"]), every)
        assert len(drawn) == len({m.place for m in drawn}) == len(places)

    def test_what_changed_is_read_from_a_diff(self):
        diff = (
            "+++ b/src/wormspace/log/it.py\n@@ -1,0 +4,2 @@ def f\n+a\n+b\n@@ -9 +11 @@\n-a\n+b\n"
            "+++ b/src/wormspace/rpc/it.py\n@@ -3,2 +2,0 @@\n-a\n-b\n"
        )
        assert tool.touched_lines(diff) == {("log/it.py", n) for n in (4, 5, 11)}


class TestWhatIsKept:
    def test_what_was_killed_cheaply_and_is_still_there(self, tmp_path, monkeypatch):
        kept, again = tmp_path / "killed.txt", tmp_path / "log"
        monkeypatch.setattr(tool, "AGAIN", kept)
        known = Judges()
        known.seconds = {"t.py::quick": 0.1, "t.py::slow": 3.0}
        here = {name: mutant(name) for name in ("old", "new", "slow", "lives", "late")}
        kept.write_text("# said\n" + account.line_of(KILLED, here["old"], "t.py::quick"))
        with again.open("w") as log:
            for name, verdict, by in (
                ("new", KILLED, "quick"), ("slow", KILLED, "slow"), ("lives", SURVIVED, "quick"),
                ("late", TIMED_OUT, "quick"), ("gone", KILLED, "quick"),
            ):  # fmt: skip
                log.write(account.line_of(verdict, mutant(name), f"t.py::{by}"))
        lines = tool.keep(here.values(), known, again).splitlines()[1:]
        assert [line.split("\t")[2].rpartition(" ")[2] for line in lines] == ["old", "new"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0, SURVIVED), (1 << 8, KILLED), (3 << 8, KILLED), (signal.SIGSEGV, KILLED),
        (signal.SIGXCPU, TIMED_OUT), (signal.SIGKILL, TIMED_OUT),
    ],
)  # fmt: skip
def test_how_a_trial_ended_is_its_verdict(status, expected):
    assert panel.verdict(status) == expected


TESTS = """
from wormspace.registers.spans import OffsetSet

def test_that_fails_anyway():
    assert False

def test_one():
    held = OffsetSet(); held.add(3)
    assert held.missing(0, 4, 9) == [(0, 3)]

def test_many():
    held = OffsetSet(); held.add_span(0, 4)
    assert held.missing(0, 4, 9) == []
"""
SCRIPT = """
import json, sys, pytest
from tools.mutants import panel, universe, witness

witness.PATIENCE, witness.SLACK_CPU_S = 1, 0.1
tests = ["test_it.py::test_" + name for name in ("that_fails_anyway", "one", "many")]
cases = [
    panel.Case(mutant, tests, dict.fromkeys(tests, 0.1), anew="anew" in sys.argv)
    for mutant in universe.mutants(universe.SOURCE / "registers/spans.py")
    if mutant.name.partition("OffsetSet.")[2] in sys.argv
]
told = []
judge = panel.Panel(iter(cases), 2, lambda m, *said: told.append([m.name, *said]))
pytest.main(["-q", "-p", "no:cacheprovider", "test_it.py"], plugins=[judge])
print(json.dumps([told, sorted(judge.unsound)]))
"""
KILLS = "add +4: chunks[at] = chunks.get(at, 0) | 1 << (offset & _MASK) -> pass"
HANGS = "add_span +2: lo < hi -> lo <= hi"
LIVES = "missing +9: start > lo -> start != lo"


def trials(at: Path, *wanted: str) -> tuple[dict[str, list[str]], list[str]]:
    """The verdicts on mutants of `OffsetSet` by tests of which one fails anyway; and that one."""
    (at / "test_it.py").write_text(TESTS)
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *wanted],
        cwd=at,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    told, unsound = json.loads(ran.stdout.splitlines()[-1])
    return {name.partition("OffsetSet.")[2]: said for name, *said in told}, unsound


def test_a_mutant_is_judged_by_the_tests_that_pass_without_it(tmp_path):
    told, unsound = trials(tmp_path, KILLS, HANGS, LIVES)
    assert told == {
        KILLS: [KILLED, "test_it.py::test_one"],
        HANGS: [TIMED_OUT, "test_it.py::test_many"],
        LIVES: [SURVIVED, ""],
    }
    assert unsound == ["test_it.py::test_that_fails_anyway"]
