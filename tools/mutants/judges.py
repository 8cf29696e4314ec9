"""Which tests can judge a mutant: those that reach its block of statements, cheapest first.

Found by running the suite once with marks in what ships (`make mutants-map`; after a change, only
the files of tests that changed).  A function that has changed since is judged by all tests that
reach any of it, one that is new by those that reach its file.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest

from tools.mutants import lent, universe
from tools.mutants.universe import ROOT, Place

HERE = Path(__file__).resolve().parent
MAP = HERE / "judges.json"
SUITE = [
    "-m",
    "not soak and (databases or not processes)",
    "-p",
    "no:cacheprovider",
    "-q",
    "--tb=line",
]
LEFT_OUT = ("verification", "docs", "house", "cli", "processes")
"""Tests of the proof, of pages and of the repository; and those of processes, which cost most."""
COSTLY = (
    *("log/test_log_command", "log/test_log_processes", "log/test_log_in_servers"),
    *("tx/test_tx_cli", "tx/test_tx_processes"),
)
"""Tests that start processes: each trial would start its own."""
CPU_S = 20.0
"""The tests that judge a mutant take so much together, unless more is asked for."""
CHEAP_CPU_S = 0.3
"""A test that kills within this is asked in CI, too."""
FILES_AT_ONCE = 8
"""The map is saved after so many files of tests."""


def test_files() -> list[str]:
    """The files of tests that judge: not those whose tests make mistakes of their own."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    names = [path.relative_to(ROOT).as_posix() for path in found]
    return [
        name
        for name in names
        if not name.endswith(("mutants.py", "mutations.py", "test_demo_story.py"))
        and name.split("/")[1] not in LEFT_OUT
        and not name.startswith(tuple(f"tests/{one}" for one in COSTLY))
    ]


class Judges:
    """The map: for each test, its CPU seconds; for each function, the tests of each block.

    Attributes:
        files: the files of tests that were run for it, with their digests, and the most CPU that
            a test might take.
    """

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, float]] = {}
        self.seconds: dict[str, float] = {}
        self.reached: dict[str, tuple[str, dict[int, list[str]]]] = {}
        self.on_import: set[str] = set()

    def of(self, place: Place, line: int, cpu_s: float = CPU_S) -> list[str]:
        """The tests for a line, in the order in which they are asked, of so much CPU together."""
        digest, blocks = self.reached.get(str(place), ("", {}))
        if digest == place.digest:
            found = set(blocks.get(universe.block_at(place, line) - place.first, []))
        elif blocks:
            found = {t for tests in blocks.values() for t in tests}
        else:
            near = [b for n, (_, b) in self.reached.items() if n.startswith(place.path + ":")]
            found = {t for one in near for tests in one.values() for t in tests}
        return self._in_turn(found, cpu_s)

    def _in_turn(self, tests: set[str], cpu_s: float) -> list[str]:
        """Cheap ones first, but those of one file are much alike: the n-th counts n times."""
        rank: dict[str, int] = defaultdict(int)
        weighed = []
        for test in sorted(tests, key=lambda t: (self.seconds[t], t)):
            file = test.partition("::")[0]
            rank[file] += 1
            weighed.append((self.seconds[test] * rank[file], test))
        chosen, left = [], cpu_s
        for _, test in sorted(weighed):
            if self.seconds[test] <= left:
                chosen.append(test)
                left -= self.seconds[test]
        return chosen

    def runs_on_import(self, place: Place, line: int) -> bool:
        """Whether a line runs when its module is loaded, perhaps then alone."""
        return line < place.body or str(place) in self.on_import

    def is_cheap(self, place: Place, line: int, test: str) -> bool:
        """Whether a test kills a mutant of this line so fast that CI can do it each time."""
        fast = self.seconds.get(test, float("inf")) <= CHEAP_CPU_S
        lent_to = lent.borrows(test.partition("::")[0])
        return fast and not lent_to and not self.runs_on_import(place, line)

    # ------------------------------------------------------------------ making it

    def take(self, directory: Path) -> None:
        """Take what a run with marks left."""
        places = {
            (place.path, block): place
            for path in universe.files()
            for place, function in universe.functions(path)
            for _, block, _ in universe.blocks(function)
        }
        lines: dict[str, tuple[float, set[str]]] = {}
        for file in sorted(directory.glob("*.jsonl")):
            for test, seconds, blocks in map(json.loads, file.read_text().splitlines()):
                held = lines.get(test, (0.0, set()))
                lines[test] = max(held[0], seconds), held[1] | set(blocks)
        found: dict[Place, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for test, (seconds, blocks) in lines.items():
            if test and seconds > 0:
                self.seconds[test] = seconds
            elif test:
                continue
            for block in blocks:
                path, _, line = block.rpartition(":")
                place = places.get((path, int(line)))
                if place is not None and test:
                    found[place][int(line) - place.first].add(test)
                elif place is not None:
                    self.on_import.add(str(place))
        self._merge(found, set(lines))

    def take_run(self, names: list[str], cpu_s: float) -> None:
        """Run these files of tests, and take what they reach."""
        # A test that is stopped may leave a file system mounted there.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            status = TOO_LONG
            while status == TOO_LONG:
                status = _run_marked(names, scratch, cpu_s)
            if status not in (0, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
                raise RuntimeError(f"these tests do not run (pytest ended with {status})")
            self.take(Path(scratch))

    def keep(self, files: set[str]) -> None:
        """Forget the tests of files that are gone."""
        gone = {t for t in self.seconds if t.partition("::")[0] not in files}
        self.files = {name: held for name, held in self.files.items() if name in files}
        self._merge({}, gone)

    def _merge(self, found: dict[Place, dict[int, set[str]]], again: set[str]) -> None:
        for place in {p for path in universe.files() for p, _ in universe.functions(path)}:
            digest, known = self.reached.get(str(place), ("", {}))
            if digest not in (place.digest, ""):
                known = {} if place in found else known
            if place not in found and not known:
                continue
            kept = {n: {t for t in tests if t not in again} for n, tests in known.items()}
            for n, tests in found.get(place, {}).items():
                kept[n] = kept.get(n, set()) | tests
            new = {n: sorted(tests) for n, tests in sorted(kept.items()) if tests}
            self.reached[str(place)] = (place.digest if place in found else digest, new)

    def save(self) -> None:
        """Write the map, each test's name once."""
        used = {t for _, b in self.reached.values() for tests in b.values() for t in tests}
        names = sorted(used)
        number = {name: i for i, name in enumerate(names)}
        held = {
            "files": self.files,
            "tests": names,
            "seconds": [round(self.seconds[n], 3) for n in names],
            "on_import": sorted(self.on_import),
            "reached": {
                place: [digest, {str(n): [number[t] for t in ts] for n, ts in blocks.items()}]
                for place, (digest, blocks) in sorted(self.reached.items())
            },
        }
        MAP.write_text(json.dumps(held, separators=(",", ":")).replace('],"', '],\n"') + "\n")


def load() -> Judges:
    """The map as it was made last; an empty one, if none was."""
    out = Judges()
    if not MAP.exists():
        return out
    held = json.loads(MAP.read_text())
    names = held["tests"]
    out.files = {name: (digest, most_s) for name, (digest, most_s) in held["files"].items()}
    out.on_import = set(held["on_import"])
    out.seconds = dict(zip(names, held["seconds"], strict=True))
    for place, (digest, blocks) in held["reached"].items():
        out.reached[place] = digest, {int(n): [names[t] for t in ts] for n, ts in blocks.items()}
    return out


def remembered(kills: dict[tuple[str, str], tuple[str, str]]) -> Judges:
    """In place of a map: who killed a mutant of a function may judge all of that function.

    Args:
        kills: what killed.txt says.
    """
    out = Judges()
    for (name, _), (_, by) in kills.items():
        out.seconds[by] = CHEAP_CPU_S
        blocks = out.reached.setdefault(name.partition(" +")[0], ("", {0: []}))[1]
        blocks[0].append(by)
    return out


TOO_LONG = 70
"""How a run ends of which a test took too long; see `reach`."""


def refresh(only: str = "", cpu_s: float = CPU_S) -> None:
    """Run the files of tests that are new or changed, some at a time, and take what they reach.

    The map is saved each time, so that what was interrupted goes on.

    Args:
        only: a part of the names of the files.
        cpu_s: a test that takes longer is left out; those left out before for less are run.

    Raises:
        RuntimeError: tests could not be loaded.
    """
    judges = load()
    digests = {
        name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest()[:12] for name in test_files()
    }
    judges.keep(set(digests))
    judges.save()
    known = {n: digest for n, (digest, most_s) in judges.files.items() if most_s >= cpu_s}
    todo = [n for n, digest in digests.items() if only in n and known.get(n) != digest]
    todo.sort(key=lambda n: n.split("/")[1] in ("log", "sim"))  # campaigns, the most expensive
    with lent.databases(todo):
        for first in range(0, len(todo), FILES_AT_ONCE):
            names = todo[first : first + FILES_AT_ONCE]
            print(f"{first} of {len(todo)} files: {' '.join(names)}", flush=True)
            judges.take_run(names, cpu_s)
            judges.files |= {name: (digests[name], cpu_s) for name in names}
            judges.save()


def _run_marked(files: list[str], scratch: str, cpu_s: float) -> int:
    """Run those tests of files that have not been run yet; how pytest ended."""
    options = ["-p", "tools.mutants.reach", f"--basetemp={scratch}/tmp"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *SUITE, *options, *files],
        cwd=ROOT,
        env={
            **(os.environ | paths()),
            "WORMSPACE_REACH": scratch,
            "WORMSPACE_REACH_CPU_S": str(cpu_s),
        },
        check=False,
    )
    return ran.returncode


def paths() -> dict[str, str]:
    """The environment in which modules can be loaded from another text."""
    return {"PYTHONPATH": f"{HERE / 'site'}{os.pathsep}{ROOT}"}
