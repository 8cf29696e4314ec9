"""`python -m verification`: prove everything, print the table, write docs/verification-table.md."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from verification import coqproof, shares
from verification.assumptions import ASSUMPTIONS, assumed
from verification.explaining import misfit
from verification.goals import Outcome, check_together, shared
from verification.prover import layers

TABLE = Path(__file__).resolve().parent.parent / "docs" / "verification-table.md"


class Row:
    """One theorem: its goals' outcomes."""

    def __init__(self, layer: str, theorem: str) -> None:
        self.layer = layer
        self.theorem = theorem
        self.outcomes: list[Outcome] = []

    @property
    def proved(self) -> bool:
        """Whether every goal is."""
        return all(outcome.proved for outcome in self.outcomes)

    def cells(self) -> list[str]:
        """What the table shows."""
        first = self.outcomes[0].goal
        solvers = {s for outcome in self.outcomes for s in outcome.solvers}
        return [
            self.theorem,
            first.about,
            assumed(self.layer, self.theorem),
            str(len(self.outcomes)),
            " + ".join(sorted(solvers, reverse=True)),
            f"{sum(o.seconds for o in self.outcomes):.1f}",
            "proved" if self.proved else "NOT PROVED",
        ]


HEADINGS = ["theorem", "about", "assumes", "goals", "solver", "seconds", ""]


def prove(second: bool) -> list[Row]:
    """Check every goal."""
    rows: dict[tuple[str, str], Row] = {}
    for layer, goals in layers().items():
        for together in shared(goals):
            for outcome in check_together(together, second):
                theorem = outcome.goal.theorem
                row = rows.setdefault((layer, theorem), Row(layer, theorem))
                row.outcomes.append(outcome)
                if not outcome.proved:
                    print(outcome.explained(), file=sys.stderr)
    return list(rows.values())


def show(rows: Sequence[Row], coq: coqproof.Coq, seconds: float) -> None:
    """The table, for people."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    for layer in dict.fromkeys(row.layer for row in rows):
        table = Table(title=f"Layer {layer}", title_justify="left", title_style="bold")
        for heading in HEADINGS:
            number = heading in ("goals", "seconds")
            table.add_column(heading, justify="right" if number else "left")
        for row in rows:
            if row.layer == layer:
                table.add_row(*row.cells(), style=None if row.proved else "bold red")
        console.print(table)
    total = sum(len(row.outcomes) for row in rows)
    console.print(f"Coq: {coq.said} ({coq.seconds:.0f} s)", highlight=False)
    console.print(f"{total} goals in {seconds:.0f} s", highlight=False)


def write(rows: Sequence[Row], coq: coqproof.Coq) -> None:
    """The same as a page.  No exact times: they would change it at every run."""
    lines = [
        "# What is proved",
        "",
        "Made by `make prove`; what the words mean is said in [verification.md](verification.md).",
        "`about`: *code* is the shipped source, executed symbolically; *model* is a description",
        "written for the proof; *code + model*: some of the actions it follows from are code, the",
        "proposer's are a model. `assumes` refers to the list at the end.",
        "",
    ]
    columns = [0, 1, 2, 3, 4, 6]
    for layer in dict.fromkeys(row.layer for row in rows):
        lines += [f"## Layer {layer}", ""]
        lines.append("| " + " | ".join(HEADINGS[i] or "result" for i in columns) + " |")
        lines.append("|" + "---|" * len(columns))
        for row in rows:
            if row.layer == layer:
                cells = row.cells()
                lines.append("| " + " | ".join(cells[i].replace("|", "or") for i in columns) + " |")
        lines.append("")
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usage = [resource.getrusage(one) for one in who]
    lines += shares.page(sum(one.ru_utime + one.ru_stime for one in usage))
    lines += ["## Coq", "", f"{', '.join(coqproof.THEOREMS)}: {coq.said}.", ""]
    lines += ["## Assumptions", ""]
    lines += [f"- **{key}**: {text}" for key, text in ASSUMPTIONS.items()]
    TABLE.write_text("\n".join(lines) + "\n")


def main() -> int:
    """Prove; 0 if all is proved."""
    parser = argparse.ArgumentParser(prog="python -m verification", description=__doc__)
    parser.add_argument("--no-coq", action="store_true", help="leave the Coq part out")
    parser.add_argument("--one-solver", action="store_true", help="z3 only")
    parser.add_argument("--no-page", action="store_true", help="do not write the page")
    arguments = parser.parse_args()
    began = time.perf_counter()
    try:
        rows = prove(second=not arguments.one_solver)
    except Exception as error:  # noqa: BLE001 - whatever stops the proof is told to people
        print(misfit(error), file=sys.stderr)
        return 2
    seconds = time.perf_counter() - began
    coq = coqproof.Coq(None, "left out", 0.0) if arguments.no_coq else coqproof.run()
    show(rows, coq, seconds)
    good = all(row.proved for row in rows) and coq.ok is not False
    if good and coq.ok and not arguments.no_page and not arguments.one_solver:
        write(rows, coq)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
