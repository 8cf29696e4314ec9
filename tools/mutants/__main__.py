"""Mutants of all shipped code: `make mutants`.

    python -m tools.mutants                  all of them: some hours
    python -m tools.mutants --sample 200     so many, drawn by a seed (--seed)
    python -m tools.mutants --changed REV    of functions that were changed since REV
    python -m tools.mutants --only log/marks with this in their names
    python -m tools.mutants --again          of those in killed.txt whose function is the same
    python -m tools.mutants --map            what each test reaches, where tests changed
    python -m tools.mutants --log FILE       notes each verdict there, and goes on after it

A mutant is tried by the tests that reach its line, cheapest first, until one fails.  One that none
notices is a hole in the checks, or is explained, by name, in survivors.txt beside this file.  Ends
with 1 if one that survives is not explained, or one that is explained is killed or gone.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.mutants import judges, universe
from tools.mutants.panel import ENDLESS, KILLED, SURVIVED, UNREACHED, Panel
from tools.mutants.universe import Mutant

HERE = Path(__file__).resolve().parent
SURVIVORS, AGAIN = HERE / "survivors.txt", HERE / "killed.txt"


def changed_functions(revision: str) -> set[str]:
    """The functions with a line that was added or changed since `revision`."""
    diff = subprocess.run(
        ["git", "diff", "--unified=0", revision, "--", "src/wormspace"],
        cwd=universe.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    touched: set[tuple[str, int]] = set()
    path = ""
    for line in diff.splitlines():
        if line.startswith("+++ "):
            path = line.removeprefix("+++ b/src/wormspace/")
        elif line.startswith("@@"):
            first, _, count = line.split("+")[1].split(" ")[0].partition(",")
            touched |= {(path, int(first) + i) for i in range(int(count or 1))}
    return {
        str(place)
        for file in universe.files()
        for place, _ in universe.functions(file)
        if any((place.path, n) in touched for n in range(place.first, place.last + 1))
    }


def explained() -> dict[str, str]:
    """survivors.txt: the survivor's name, and why it changes nothing that matters."""
    lines = SURVIVORS.read_text().splitlines()
    pairs = [line.partition(" || ") for line in lines if line and not line.startswith("#")]
    return {name: why for name, _, why in pairs}


def logged(log: Path | None) -> dict[tuple[str, str], tuple[str, str]]:
    """The verdicts in a log, by name and the function's digest."""
    lines = log.read_text().splitlines() if log is not None and log.exists() else []
    fields = [line.split("\t") for line in lines if not line.startswith("#")]
    return {(name, digest): (verdict, by) for verdict, digest, name, by in fields}


def choose(arguments: argparse.Namespace, every: list[Mutant]) -> list[Mutant]:
    """The mutants asked for, in a deterministic order."""
    among = changed_functions(arguments.changed) if arguments.changed else None
    again = logged(AGAIN) if arguments.again else None
    wanted = [
        m
        for m in every
        if arguments.only in m.name
        and (among is None or str(m.place) in among)
        and (again is None or (m.name, m.place.digest) in again)
    ]
    if arguments.sample and arguments.sample < len(wanted):
        wanted = random.Random(arguments.seed).sample(wanted, arguments.sample)
    return wanted


class Account:
    """The verdicts, and what is wrong with them."""

    def __init__(self, log: Path | None) -> None:
        self.results: list[tuple[Mutant, str]] = []
        self.faults = 0
        self._log, self._known = log, explained()

    def tell(self, mutant: Mutant, verdict: str, by: str) -> None:
        """A verdict of this run."""
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(f"{verdict}\t{mutant.place.digest}\t{mutant.name}\t{by}\n")
        self.take(mutant, verdict)

    def take(self, mutant: Mutant, verdict: str) -> None:
        """A verdict, of this run or of an earlier one."""
        self.results.append((mutant, verdict))
        lives = verdict in (SURVIVED, UNREACHED)
        if lives and mutant.name not in self._known:
            self.faults += 1
            print(f"{verdict.upper()}, not explained: {mutant.name}", flush=True)
        elif not lives and mutant.name in self._known:
            self.faults += 1
            print(f"explained, but no survivor any more: {mutant.name}", flush=True)

    def look_for_left_over(self, every: list[Mutant]) -> None:
        """An explanation is of a mutant that there is, and says something."""
        names = {m.name for m in every}
        for name, why in self._known.items():
            if name not in names or not why:
                self.faults += 1
                print(f"explained, but there is no such mutant, or no reason: {name}")

    def summary(self) -> Iterator[str]:
        """The share of killed, package by package."""
        for package in universe.PACKAGES:
            own = Counter(v for m, v in self.results if m.place.path.startswith(package + "/"))
            if own:
                killed = own[KILLED] + own[ENDLESS]
                how = ", ".join(f"{n} {verdict}" for verdict, n in own.most_common())
                yield f"{package}: {killed} of {own.total()} killed ({how})"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--map", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--changed", default="", metavar="REV")
    parser.add_argument("--only", default="")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="then begin none")
    parser.add_argument("--report", action="store_true", help="survivors are told, and no failure")
    return parser.parse_args()


def main() -> int:
    """Run them; 0 if every survivor is explained, and nothing else."""
    given = arguments()
    if given.map:
        judges.refresh(given.jobs, given.only)
        return 0
    began = time.monotonic()
    known, before, account = judges.load(), logged(given.log), Account(given.log)
    every = [m for path in universe.files() for m in universe.mutants(path)]
    account.look_for_left_over(every)
    chosen = choose(given, every)
    for mutant in chosen:
        if (mutant.name, mutant.place.digest) in before:
            account.take(mutant, before[mutant.name, mutant.place.digest][0])
    todo = [m for m in chosen if (m.name, m.place.digest) not in before]
    tests = {test for m in todo for test in known.of(m.place, m.line)}
    files = sorted({test.partition("::")[0] for test in tests})
    present = [file for file in files if (universe.ROOT / file).exists()] or [str(HERE)]
    in_time = (m for m in todo if time.monotonic() - began < given.seconds)
    os.chdir(universe.ROOT)
    panel = Panel(in_time, known, given.jobs, account.tell)
    status = pytest.main([*judges.SUITE, "--no-header", *present], plugins=[panel]) if todo else 0
    print(*account.summary(), sep="\n")
    print(f"{len(account.results)} of {len(chosen)} mutants, {time.monotonic() - began:.0f} s")
    if status not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        print("the tests could not be loaded")
        return 2
    return 1 if account.faults and not given.report else 0


if __name__ == "__main__":
    sys.exit(main())
