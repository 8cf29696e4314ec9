"""Mutants of all shipped code: `make mutants`.

    python -m tools.mutants                  all of them: some hours
    python -m tools.mutants --sample 25      so many of each package, drawn by a seed (--seed)
    python -m tools.mutants --each 2         so many of each function, drawn by the same seed
    python -m tools.mutants --changed REV    of functions that were changed since REV
    python -m tools.mutants --only log/marks with this in their names
    python -m tools.mutants --again          of those in killed.txt whose function is the same
    python -m tools.mutants --log FILE       notes each verdict there, and goes on after it
    python -m tools.mutants --log FILE --retry   those that survived in it
    python -m tools.mutants --log FILE --keep    writes what was killed in it to killed.txt
    python -m tools.mutants --map            what each test reaches, where tests changed
    python -m tools.mutants --map --cpu 2    leaving out tests of more CPU seconds (20)

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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tools.mutants import account, judges, lent, universe
from tools.mutants.account import Account
from tools.mutants.judges import Judges
from tools.mutants.panel import KILLED, SURVIVED, UNREACHED, Case, Panel
from tools.mutants.universe import Mutant

HERE = Path(__file__).resolve().parent
SURVIVORS, AGAIN = HERE / "survivors.txt", HERE / "killed.txt"
HEAD = "# Mutants that were killed, each with the digest of its function: they must be again.\n"


def changed_functions(revision: str) -> set[str]:
    """The functions with a line that was added or changed since `revision`."""
    diff = subprocess.run(
        ["git", "diff", "--unified=0", revision, "--", "src/wormspace"],
        cwd=universe.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    touched = touched_lines(diff)
    return {
        str(place)
        for file in universe.files()
        for place, _ in universe.functions(file)
        if any((place.path, n) in touched for n in range(place.first, place.last + 1))
    }


def touched_lines(diff: str) -> set[tuple[str, int]]:
    """The paths and numbers of the lines that a diff without context adds or changes."""
    touched: set[tuple[str, int]] = set()
    path = ""
    for line in diff.splitlines():
        if line.startswith("+++ "):
            path = line.removeprefix("+++ b/src/wormspace/")
        elif line.startswith("@@"):
            first, _, count = line.split("+")[1].split(" ")[0].partition(",")
            touched |= {(path, int(first) + i) for i in range(int(count or 1))}
    return touched


def choose(given: argparse.Namespace, every: list[Mutant]) -> list[Mutant]:
    """The mutants asked for, in a deterministic order; more of a sample begin with fewer of it."""
    among = changed_functions(given.changed) if given.changed else None
    again = account.logged(AGAIN) if given.again else None
    wanted = [
        m
        for m in every
        if given.only in m.name
        and (among is None or str(m.place) in among)
        and (again is None or (m.name, m.place.digest) in again)
    ]
    if given.sample:
        return drawn(given.sample, given.seed, wanted, lambda m: m.place.package)
    if given.each:
        return drawn(given.each, given.seed, wanted, lambda m: str(m.place))
    return wanted


def drawn(
    count: int, seed: int, among: list[Mutant], kind: Callable[[Mutant], str]
) -> list[Mutant]:
    """So many of each kind, in the order of the kinds."""
    groups: dict[str, list[Mutant]] = {}
    for mutant in among:
        groups.setdefault(kind(mutant), []).append(mutant)
    for name, own in groups.items():
        random.Random(f"{seed} {name}").shuffle(own)
    return [m for own in groups.values() for m in own[:count]]


def cases(given: argparse.Namespace, mutants: list[Mutant], known: Judges) -> Iterator[Case]:
    """Each mutant with its judges: who killed it before is asked first."""
    before = account.logged(AGAIN)
    for mutant in mutants:
        tests = known.of(mutant.place, mutant.line, given.cpu)
        _, by = before.get((mutant.name, mutant.place.digest), ("", ""))
        if by:
            tests = [by, *(t for t in tests if t != by)]
        anew = known.runs_on_import(mutant.place, mutant.line)
        yield Case(mutant, tests, {t: known.seconds.get(t, 0.0) for t in tests}, anew)


def keep(every: Iterable[Mutant], known: Judges, log: Path) -> str:
    """The text of killed.txt: what was killed, there or in a log, and is cheap to kill again."""
    found = account.logged(AGAIN) | account.logged(log)
    lines = []
    for mutant in every:
        verdict, by = found.get((mutant.name, mutant.place.digest), ("", ""))
        if verdict == KILLED and known.is_cheap(mutant.place, mutant.line, by):
            lines.append(account.line_of(verdict, mutant, by))
    return HEAD + "".join(lines)


def judge(given: argparse.Namespace, every: list[Mutant], account_: Account) -> int:
    """Try what was chosen and has no verdict yet; how many were chosen.

    Raises:
        RuntimeError: the tests could not be loaded.
    """
    chosen, before = choose(given, every), account.logged(given.log)
    known = judges.load() if judges.MAP.exists() else judges.remembered(account.logged(AGAIN))
    if given.retry:
        lived = {key for key, (v, _) in before.items() if v in (SURVIVED, UNREACHED)}
        chosen = [m for m in chosen if (m.name, m.place.digest) in lived]
        before = {}
    todo = []
    for mutant in chosen:
        if (mutant.name, mutant.place.digest) in before:
            account_.take(mutant, before[mutant.name, mutant.place.digest][0])
        else:
            todo.append(mutant)
    files = {test.partition("::")[0] for case in cases(given, todo, known) for test in case.tests}
    present = sorted(file for file in files if (universe.ROOT / file).exists()) or [str(HERE)]
    end = time.monotonic() + given.seconds
    in_time = (case for case in cases(given, todo, known) if time.monotonic() < end)
    os.chdir(universe.ROOT)
    panel = Panel(in_time, given.jobs, account_.tell)
    with lent.databases(present):
        command = [*judges.SUITE, "--no-header", *present]
        status = pytest.main(command, plugins=[panel]) if todo else 0
    for test in sorted(panel.unsound):
        print(f"fails here without a mutant, and judged nothing: {test}")
    if status not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError("the tests could not be loaded")
    return len(chosen)


def arguments(line: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--map", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--retry", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--each", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--changed", default="", metavar="REV")
    parser.add_argument("--only", default="")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cpu", type=float, default=judges.CPU_S, help="seconds of each's tests")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="then begin none")
    parser.add_argument("--report", action="store_true", help="survivors are told, and no failure")
    return parser.parse_args(line)


def main() -> int:
    """Run them; 0 if every survivor is explained, and nothing else."""
    given = arguments(sys.argv[1:])
    if given.map:
        judges.refresh(given.only, given.cpu)
        return 0
    every = [m for path in universe.files() for m in universe.mutants(path)]
    if given.keep:
        AGAIN.write_text(keep(every, judges.load(), given.log))
        return 0
    began = time.monotonic()
    verdicts = Account(account.explained(SURVIVORS.read_text()), given.log)
    if not given.again:  # CI fails for a check that was lost, not for a function that was changed
        verdicts.look_for_left_over(every)
    chosen = judge(given, every, verdicts)
    print(*verdicts.summary(every), sep="\n")
    print(f"{len(verdicts.results)} of {chosen} mutants, {time.monotonic() - began:.0f} s")
    return 1 if verdicts.faults and not given.report else 0


if __name__ == "__main__":
    sys.exit(main())
