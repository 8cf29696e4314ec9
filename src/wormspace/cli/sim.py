"""`wormspace sim`: the shipped client and server in a simulated world, under faults, checked."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter

import click
from rich.console import Console
from rich.status import Status
from rich.table import Table

from wormspace.cli.arguments import Amount
from wormspace.sim.campaign import Report, Result, run

SEEDS = 50


class Tally:
    """What has been run so far."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.seeds = 0
        self.operations = 0
        self.virtual_s = 0.0
        self.faults: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    def add(self, report: Report) -> None:
        """One more run."""
        self.seeds += 1
        self.operations += report.operations
        self.virtual_s += report.virtual_s
        self.faults.update(report.faults)
        self.outcomes.update(report.outcomes)

    @property
    def seconds(self) -> float:
        """Real seconds since the start."""
        return max(time.monotonic() - self.began, 1e-9)

    def line(self) -> str:
        """How it goes, in one line."""
        return (
            f"{self.seeds} seeds, {self.seeds / self.seconds:.1f} seeds/s, "
            f"{self.operations} operations, {self.operations / self.seconds:.0f} operations/s, "
            f"{sum(self.faults.values())} faults"
        )


@click.command("sim")
@click.option("--seeds", type=click.IntRange(1), help=f"How many runs (default: {SEEDS}).")
@click.option("--minutes", type=Amount(), help="Stop after so long.")
@click.option("--first", type=click.IntRange(0), help="The first seed (default: a fresh one).")
@click.option("--seed", type=click.IntRange(0), help="Replay this one seed.")
@click.pass_context
def sim_command(
    ctx: click.Context,
    seeds: int | None,
    minutes: float | None,
    first: int | None,
    seed: int | None,
) -> None:
    """Run the shipped client and server in a simulated world, under faults, and check every claim.

    A seed chooses everything, so a failing run is replayed with --seed, event by event.

    \b
    Exit codes: 0 all right, 10 a wrong result, 11 no progress after the faults have
    ended, 12 a crash.
    """
    logging.getLogger("wormspace").setLevel(logging.CRITICAL + 1)
    console = Console()
    if seed is not None:
        first, seeds, minutes = seed, 1, None
    if first is None:
        first = random.SystemRandom().getrandbits(32)
    limit = seeds if seeds is not None else (SEEDS if minutes is None else None)
    failed = _runs(console, first, limit, None if minutes is None else 60.0 * minutes)
    if failed is not None:
        ctx.exit(failed.value)


def _runs(console: Console, first: int, limit: int | None, limit_s: float | None) -> Result | None:
    tally = Tally()
    console.print(f"seeds from {first} on")
    with console.status("starting") as status:
        report = _one(status, tally, first)
        while report.result is Result.RIGHT and tally.seeds != limit:
            if limit_s is not None and tally.seconds >= limit_s:
                break
            report = _one(status, tally, first + tally.seeds)
    _show(console, tally)
    if report.result is Result.RIGHT:
        return None
    what = {Result.WRONG: "wrong result", Result.STUCK: "no progress", Result.CRASHED: "crash"}
    console.print(f"[bold red]{what[report.result]}[/] with seed {report.seed}:")
    console.print(report.story, markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nreplay it: wormspace sim --seed {report.seed}")
    return report.result


def _one(status: Status, tally: Tally, seed: int) -> Report:
    status.update(f"seed {seed}: {tally.line()}")
    report = run(seed)
    tally.add(report)
    if tally.seeds == 1:
        status.console.print(f"digest of the first: {report.digest}")
    return report


def _show(console: Console, tally: Tally) -> None:
    console.print(tally.line(), highlight=False)
    console.print(f"{tally.virtual_s:.0f} s of virtual time", highlight=False)
    table = Table("fault", "times", "call ends", "times", box=None)
    faults = sorted(tally.faults.items())
    outcomes = sorted(tally.outcomes.items())
    for i in range(max(len(faults), len(outcomes))):
        left = faults[i] if i < len(faults) else ("", "")
        right = outcomes[i] if i < len(outcomes) else ("", "")
        table.add_row(left[0], str(left[1]), right[0], str(right[1]))
    console.print(table)
