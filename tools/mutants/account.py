"""The verdicts on mutants, what is wrong with them, and what a sample says of all.

A log has one line for each verdict: the verdict, the digest of the function, the mutant's name and
the test it is by, between tabs; of two lines on one mutant the later one counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools.mutants.panel import KILLED, SURVIVED, TIMED_OUT, UNREACHED
from tools.mutants.universe import PACKAGES, Mutant

CERTAIN = 1.96
"""Standard deviations on each side of a share: it lies within in 95 of 100 samples."""


def explained(text: str) -> dict[str, str]:
    """What survivors.txt says: a survivor's name, and why it changes nothing that matters."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: why for name, _, why in (line.partition(" || ") for line in lines)}


def logged(log: Path | None) -> dict[tuple[str, str], tuple[str, str]]:
    """The verdicts of a log and the tests they are by, by name and the function's digest."""
    lines = log.read_text().splitlines() if log is not None and log.exists() else []
    fields = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return {(name, digest): (verdict, by) for verdict, digest, name, by in fields}


def line_of(verdict: str, mutant: Mutant, by: str) -> str:
    """The line of a log."""
    return f"{verdict}\t{mutant.place.digest}\t{mutant.name}\t{by}\n"


def interval(killed: int, of: int) -> tuple[float, float]:
    """Wilson's interval for a share: where that of all mutants lies, with 95 % confidence."""
    if of == 0:
        return 0.0, 1.0
    share, spread = killed / of, CERTAIN**2 / of
    middle = share + spread / 2
    half = CERTAIN * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)


class Account:
    """The verdicts, and what is wrong with them.

    Attributes:
        results: in the order in which they came.
        faults: survivors without an explanation, and explanations without a survivor.
    """

    def __init__(self, known: dict[str, str], log: Path | None) -> None:
        self.results: list[tuple[Mutant, str]] = []
        self.faults = 0
        self._log, self._known = log, known

    def tell(self, mutant: Mutant, verdict: str, by: str) -> None:
        """A verdict of this run."""
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(line_of(verdict, mutant, by))
        self.take(mutant, verdict)

    def take(self, mutant: Mutant, verdict: str) -> None:
        """A verdict, of this run or of an earlier one."""
        self.results.append((mutant, verdict))
        lives = verdict in (SURVIVED, UNREACHED)
        if lives and mutant.name not in self._known:
            self._complain(f"{verdict.upper()}, not explained: {mutant.name}")
        elif not lives and mutant.name in self._known:
            self._complain(f"explained, but no survivor any more: {mutant.name}")

    def look_for_left_over(self, every: Iterable[Mutant]) -> None:
        """An explanation is of a mutant that there is, and says something."""
        names = {m.name for m in every}
        for name, why in self._known.items():
            if name not in names or not why:
                self._complain(f"explained, but there is no such mutant, or no reason: {name}")

    def _complain(self, what: str) -> None:
        self.faults += 1
        print(what, flush=True)

    def summary(self, every: Iterable[Mutant]) -> Iterator[str]:
        """The share of killed in each package, and in all, each package counting by its size.

        Mutants that are explained change nothing that matters, and are left out of the shares.
        """
        sizes = Counter(m.place.package for m in every)
        weight, mean, variance = 0, 0.0, 0.0
        for package in PACKAGES:
            own = [(m, v) for m, v in self.results if m.place.package == package]
            explained = sum(m.name in self._known for m, _ in own)
            how = Counter(verdict for m, verdict in own if m.name not in self._known)
            killed, of = how[KILLED] + how[TIMED_OUT], len(own) - explained
            if of == 0:
                continue
            low, high = interval(killed, of)
            yield (
                f"{package}: {killed} of {of} killed, {killed / of:.0%} ({low:.0%} to {high:.0%});"
                f" {explained} explained; {sizes[package]} in all"
            )
            share = (killed + 1) / (of + 2)
            weight += sizes[package]
            mean += sizes[package] * killed / of
            variance += sizes[package] ** 2 * share * (1 - share) / of
        if weight:
            half = CERTAIN * math.sqrt(variance) / weight
            yield f"all of these: {mean / weight:.1%}, give or take {half:.1%}"
