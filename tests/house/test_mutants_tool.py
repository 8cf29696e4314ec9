"""`tools/mutants` makes every small mistake, and finds for each the tests that judge it."""

from __future__ import annotations

import ast
import json
import subprocess
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tools.mutants import judges, universe
from tools.mutants.judges import Judges
from tools.mutants.panel import KILLED
from tools.mutants.universe import Place

REPOSITORY = Path(__file__).resolve().parents[2]
Source = Callable[[str], Path]


@pytest.fixture
def source(tmp_path, monkeypatch) -> Source:
    """Writes the one file that ships; its path."""
    root = tmp_path / "shipped"
    (root / "log").mkdir(parents=True)
    monkeypatch.setattr(universe, "SOURCE", root)

    def write(text: str) -> Path:
        path = root / "log" / "it.py"
        path.write_text(textwrap.dedent(text))
        universe.blocks_of.cache_clear()
        return path

    return write


def changes(path: Path) -> list[str]:
    """What is said of each mutant, without its place."""
    return [m.name.partition(": ")[2] for m in universe.mutants(path)]


class TestTheMistakes:
    @pytest.mark.parametrize(
        ("statement", "expected"),
        [
            ("return a < b", {f"a < b -> a {op} b" for op in ("<=", ">", ">=", "==", "!=")}),
            ("return a and b", {"a and b -> a or b"}),
            ("return a if b else 0", {"a if b else 0 -> a if True else 0",
                                      "a if b else 0 -> a if False else 0"}),
            ("return not a", {"not a -> a"}),
            ("return a - b", {"a - b -> a + b"}),
            ("return a, b", {"(a, b) -> (a,)"}),
            ("a.b = b", {"a.b = b -> pass"}),
            ("a += b", {"a += b -> pass"}),
            ("a()", {"a() -> pass"}),
            ("return a(b, 1)", {"a(b, 1) -> a(1, b)"}),
            ("return max(a, b)", set()),
            ("c = b", set()),
            ("log.info(a)", set()),
            ("raise ValueError(a - b)", set()),
        ],
    )  # fmt: skip
    def test_each_kind_of_expression_and_statement_has_its_own(self, source, statement, expected):
        path = source(f"def f(a, b):\n    {statement}\n")
        assert set(changes(path)) == expected

    def test_what_is_said_for_people_is_not_changed(self, source):
        path = source("class C:\n    def __repr__(self):\n        return self.a + self.b\n")
        assert changes(path) == []

    def test_two_of_one_name_are_told_apart(self, source):
        path = source("def f(a):\n    return g(not a, not a)\n")
        assert changes(path) == ["not a -> a", "not a -> a #2"]

    def test_a_mutant_is_one_change_of_one_function(self, source):
        path = source(
            """
            class C:
                def f(self, a, b):
                    if a < b:
                        self.n += 1
                    return a, b

            def g(a, b):
                return a < b

            class D:
                @overload
                def h(self, a): ...
                def h(self, a, b=0):
                    return a < b
            """
        )
        before = ast.parse(path.read_text())
        for mutant in universe.mutants(path):
            after = ast.parse(mutant.text())
            differ = [
                ast.unparse(old)
                for old, new in zip(_functions(before), _functions(after), strict=True)
                if ast.unparse(old) != ast.unparse(new)
            ]
            assert len(differ) == 1, mutant.name
            assert differ[0].startswith(f"def {mutant.place.name.rpartition('.')[2]}(")

    def test_a_name_and_digest_last_as_long_as_the_function(self, source):
        text = "def f(a, b):\n    return a - b\n"
        (before,) = universe.mutants(source(text))
        (moved,) = universe.mutants(source("X = 1\n\n\n" + text))
        (changed,) = universe.mutants(source(text.replace("a - b", "a  -  b")))
        assert (before.name, before.place.digest) == (moved.name, moved.place.digest)
        assert before.line + 3 == moved.line
        assert before.place.digest != changed.place.digest


def _functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


SHIPPED = """
def f(a):
    if a:
        return a - 1
    return a + 1


def g(a):
    return -a
"""
F, THEN, G = 2, 4, 9
"""Lines: of the statements of `f`, of those within its `if`, and of those of `g`."""


def lines_of(tests: Iterable[tuple[str, float, list[int]]]) -> str:
    return "".join(json.dumps([t, s, [f"log/it.py:{n}" for n in at]]) + "\n" for t, s, at in tests)


def reached(directory: Path, *tests: tuple[str, float, list[int]]) -> Path:
    """What a run of tests with marks leaves."""
    directory.mkdir(exist_ok=True)
    (directory / "1.jsonl").write_text(lines_of(tests))
    return directory


class TestTheMap:
    @pytest.fixture
    def known(self, source, tmp_path) -> Judges:
        source(SHIPPED)
        known = Judges()
        known.take(
            reached(
                tmp_path / "run",
                ("", 0.0, [G]),
                ("t/a.py::slow", 2.0, [F + 1, THEN, G]),
                ("t/a.py::quick", 0.1, [F + 1]),
                ("t/b.py::other", 0.2, [F + 1, THEN]),
            )
        )
        return known

    def place(self, name: str) -> Place:
        return next(
            p for p, _ in universe.functions(universe.SOURCE / "log/it.py") if p.name == name
        )

    def test_a_line_is_judged_by_those_who_reach_its_block(self, known):
        f = self.place("f")
        assert known.of(f, THEN) == ["t/b.py::other", "t/a.py::slow"]
        assert known.of(f, F + 1) == ["t/a.py::quick", "t/b.py::other", "t/a.py::slow"]
        assert known.of(self.place("g"), G) == ["t/a.py::slow"]

    def test_more_than_its_cpu_is_not_asked_for(self, known):
        assert known.of(self.place("f"), F + 1, cpu_s=1.0) == ["t/a.py::quick", "t/b.py::other"]

    def test_the_nth_test_of_a_file_counts_n_times(self, known):
        known.seconds |= {f"t/a.py::{i}": 0.1 for i in range(9)} | {"t/c.py::x": 0.35}
        asked = known._in_turn(set(known.seconds), 10.0)
        assert asked.index("t/c.py::x") == 4  # as much as the fourth of a.py, and a bit

    def test_what_runs_on_import_is_known(self, known):
        assert known.runs_on_import(self.place("g"), G)
        assert not known.runs_on_import(self.place("f"), THEN)
        assert known.runs_on_import(self.place("f"), self.place("f").first)  # its defaults

    def test_a_changed_function_is_judged_by_all_who_reached_any_of_it(self, known, source):
        source(SHIPPED.replace("a - 1", "a - 2"))
        assert set(known.of(self.place("f"), THEN)) == {
            "t/a.py::quick", "t/b.py::other", "t/a.py::slow",
        }  # fmt: skip

    def test_a_new_function_is_judged_by_all_who_reached_its_file(self, known, source):
        source(SHIPPED + "\n\ndef h(a):\n    return a + 1\n")
        assert len(known.of(self.place("h"), 14)) == 3

    def test_a_test_that_ran_again_reaches_what_it_reaches_now(self, known, tmp_path):
        known.take(reached(tmp_path / "run", ("t/b.py::other", 0.2, [F + 1])))
        assert known.of(self.place("f"), THEN) == ["t/a.py::slow"]
        assert "t/b.py::other" in known.of(self.place("f"), F + 1)

    def test_it_is_read_as_it_was_written(self, known, tmp_path, monkeypatch):
        monkeypatch.setattr(judges, "MAP", tmp_path / "map.json")
        assert judges.load().reached == {}
        known.save()
        read = judges.load()
        assert (read.reached, read.seconds) == (known.reached, known.seconds)
        assert read.on_import == known.on_import

    def test_only_files_of_tests_that_changed_are_run_again(self, source, tmp_path, monkeypatch):
        source(SHIPPED)
        monkeypatch.setattr(judges, "MAP", tmp_path / "map.json")
        monkeypatch.setattr(judges, "ROOT", tmp_path)
        monkeypatch.setattr(judges, "FILES_AT_ONCE", 2)
        files = [f"tests/t/test_{i}.py" for i in range(3)]
        (tmp_path / "tests" / "t").mkdir(parents=True)
        for file in files:
            (tmp_path / file).write_text("")
        ran: list[list[str]] = []

        status = 0

        def run(
            command: list[str], *, env: dict[str, str], **_: object
        ) -> subprocess.CompletedProcess[str]:
            ran.append([one for one in command if one.startswith("tests/")])
            at = Path(env["WORMSPACE_REACH"])
            reached(at, *((f"{one}::it", 0.1, [F + 1]) for one in ran[-1]))
            if len(ran) == interrupted:
                raise KeyboardInterrupt
            return subprocess.CompletedProcess(command, status)

        monkeypatch.setattr(subprocess, "run", run)
        interrupted = 2
        with pytest.raises(KeyboardInterrupt):
            judges.refresh()
        interrupted = 0
        judges.refresh()
        assert ran == [files[:2], files[2:], files[2:]]  # what was done is not done again
        (tmp_path / files[0]).write_text("# changed")
        judges.refresh()
        assert ran[3:] == [files[:1]]
        judges.refresh()
        assert len(ran) == 4
        judges.refresh("test_2", cpu_s=judges.CPU_S + 1)  # longer tests judge, too
        assert ran[4:] == [files[2:]]
        (tmp_path / files[1]).unlink()
        judges.refresh()
        left = judges.load()
        assert set(left.files) == {files[0], files[2]}
        assert len(left.of(self.place("f"), F + 1)) == 2
        (tmp_path / files[0]).write_text("what is no test")
        status = int(pytest.ExitCode.INTERRUPTED)
        with pytest.raises(RuntimeError, match="do not run"):
            judges.refresh()
        assert judges.load().files[files[0]] == left.files[files[0]]  # to be run again

    def test_a_test_that_takes_too_long_is_left_out_and_the_others_judge(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(judges, "ROOT", tmp_path)
        monkeypatch.setattr(judges, "paths", lambda: {"PYTHONPATH": str(REPOSITORY)})
        monkeypatch.delenv("PYTEST_CURRENT_TEST")  # or it takes itself for a process of this one
        (tmp_path / "test_it.py").write_text(
            "import pytest\n"
            "def test_first(): pass\n"
            "@pytest.mark.parametrize('n', [1, 2])\n"
            "def test_long(n):\n"
            "    while True: pass\n"
            "def test_fails(): assert False\n"
            "def test_last(): pass\n"
        )
        ends = [judges._run_marked(["test_it.py"], str(tmp_path), 0.2) for _ in range(2)]
        assert ends == [judges.TOO_LONG, pytest.ExitCode.TESTS_FAILED]
        told = [path.read_text() for path in tmp_path.glob("*.jsonl")]
        names = {json.loads(line)[0] for text in told for line in text.splitlines()}
        assert names - {""} == {"test_it.py::test_first", "test_it.py::test_last"}
        assert judges._run_marked(["test_it.py"], str(tmp_path), 0.2) == 5  # nothing is left

    def test_without_one_those_judge_who_killed(self, source):
        source(SHIPPED)
        kills = {
            ("log/it.py:f +2: a - 1 -> a + 1", "abc"): (KILLED, "t/a.py::x"),
            ("log/it.py:g +1: -a -> a", "abc"): (KILLED, "t/a.py::y"),
        }
        known = judges.remembered(kills)
        assert known.of(self.place("f"), THEN) == ["t/a.py::x"]
        assert known.of(self.place("g"), G) == ["t/a.py::y"]
