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
from collections.abc import Iterable
from pathlib import Path

from tools.mutants import universe
from tools.mutants.universe import ROOT, Place

HERE = Path(__file__).resolve().parent
MAP = HERE / "judges.json"
SUITE = ["-m", "not soak and not processes", "-p", "no:cacheprovider", "-q", "--tb=line"]
LEFT_OUT = ("verification", "docs", "house", "cli", "processes")
"""Tests of the proof, of pages and of the repository; and those of processes, which cost most."""
MOST = 24
"""Judges kept for a block: the cheapest, and of the others one from each file."""
MOST_CPU_S = 60.0
"""A test that takes longer is no judge."""


def test_files() -> list[str]:
    """The files of tests that judge: not those whose tests make mistakes of their own."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    names = [path.relative_to(ROOT).as_posix() for path in found]
    return [
        name
        for name in names
        if not name.endswith(("mutants.py", "mutations.py", "test_demo_story.py"))
        and name.split("/")[1] not in LEFT_OUT
    ]


class Judges:
    """The map: for each test, its CPU seconds; for each function, the tests of each block.

    Attributes:
        files: the files of tests that were run for it, with their digests.
    """

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.reached: dict[str, tuple[str, dict[int, list[str]]]] = {}
        self.on_import: set[str] = set()

    def of(self, place: Place, line: int) -> list[str]:
        """The tests for a line, cheapest first."""
        digest, blocks = self.reached.get(str(place), ("", {}))
        if digest == place.digest:
            found: Iterable[str] = blocks.get(universe.block_at(place, line) - place.first, [])
        elif blocks:
            found = _cheapest({t for tests in blocks.values() for t in tests}, self.seconds)
        else:
            near = [b for n, (_, b) in self.reached.items() if n.startswith(place.path + ":")]
            every = {t for one in near for tests in one.values() for t in tests}
            found = _cheapest(every, self.seconds)
        return sorted(found, key=lambda t: (self.seconds[t], t))

    def runs_on_import(self, place: Place, line: int) -> bool:
        """Whether a line runs when its module is loaded, perhaps then alone."""
        return line < place.body or str(place) in self.on_import

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
            if test and 0 < seconds < MOST_CPU_S:
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
            new = {n: _cheapest(tests, self.seconds) for n, tests in sorted(kept.items()) if tests}
            self.reached[str(place)] = (place.digest if place in found else digest, new)

    def save(self) -> None:
        """Write the map, each test's name once."""
        used = {t for _, b in self.reached.values() for tests in b.values() for t in tests}
        names = sorted(used)
        number = {name: i for i, name in enumerate(names)}
        held = {
            "files": self.files,
            "tests": names,
            "seconds": [round(self.seconds[n], 2) for n in names],
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
    if MAP.exists():
        held = json.loads(MAP.read_text())
        names = held["tests"]
        out.files, out.on_import = held["files"], set(held["on_import"])
        out.seconds = dict(zip(names, held["seconds"], strict=True))
        for place, (digest, blocks) in held["reached"].items():
            out.reached[place] = (
                digest,
                {int(n): [names[t] for t in ts] for n, ts in blocks.items()},
            )
    return out


def refresh(jobs: int, only: str = "") -> None:
    """Run the files of tests that are new or changed, folder by folder, and take what they reach.

    The map is saved after each folder, so that what was interrupted goes on.

    Args:
        only: a part of the names of the files.
    """
    judges = load()
    folders: dict[str, list[str]] = defaultdict(list)
    digests = {
        name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest()[:12] for name in test_files()
    }
    for name, digest in digests.items():
        if only in name and judges.files.get(name) != digest:
            folders[str(Path(name).parent)].append(name)
    for folder, names in sorted(folders.items(), key=lambda one: (len(one[1]), one[0])):
        print(f"{folder}: {len(names)} files", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            options = ["-n", str(jobs), "--dist", "loadgroup", "-p", "tools.mutants.reach"]
            subprocess.run(
                [
                    *(sys.executable, "-m", "pytest", *SUITE, *options),
                    *(f"--basetemp={scratch}/tmp", *names),
                ],
                cwd=ROOT,
                env={**os.environ, **paths(), "WORMSPACE_REACH": scratch},
                check=False,
            )
            judges = load()
            judges.take(Path(scratch))
        judges.files |= {name: digests[name] for name in names}
        judges.save()


def paths() -> dict[str, str]:
    """The environment in which modules can be loaded from another text."""
    return {"PYTHONPATH": f"{HERE / 'site'}{os.pathsep}{ROOT}"}


def _cheapest(tests: set[str], seconds: dict[str, float]) -> list[str]:
    ordered = sorted((t for t in tests if t in seconds), key=lambda t: (seconds[t], t))
    kept = ordered[: MOST // 2]
    files = {test.partition("::")[0] for test in kept}
    for test in ordered[MOST // 2 :]:
        file = test.partition("::")[0]
        if file not in files and len(kept) < MOST:
            files.add(file)
            kept.append(test)
    return kept
