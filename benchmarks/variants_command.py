"""`python -m benchmarks variants`: the six variants of atomic commit, for people."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.table import Table

import wormspace
from benchmarks.command import out_option
from benchmarks.plots import bars
from benchmarks.variants import Measured, measure
from wormspace.bench.processes import make_cluster, running


@click.command("variants")
@click.option("--transactions", type=click.IntRange(min=1), default=50, show_default=True)
@out_option
def variants_command(transactions: int, out: Path) -> None:
    """Measure lone transactions of each variant.

    Two stores on this machine, the votes on three servers of their own.
    """

    async def work(url: str, base: Path) -> list[Measured]:
        async with wormspace.connect(url, timeout=30) as worm:
            return await measure(worm, base, transactions, "variants")

    with tempfile.TemporaryDirectory(prefix="wormspace-bench-", dir=".") as d:
        cluster = make_cluster(Path(d), 3, 1, "sync")
        with running(Path(d), cluster, "wormspace.server"):
            measured = uvloop.run(work(cluster.url, Path(d)))
    shown = Table("variant", "delays", "decided ms", "committed ms", "critical path")
    for m in measured:
        metrics = f"{m.decided_ms:.2f}", f"{m.committed_ms:.2f}"
        shown.add_row(m.variant.name, str(m.variant.delays), *metrics, m.variant.path)
    console = Console()
    console.print(shown)
    out.mkdir(parents=True, exist_ok=True)
    plot = out / "tx-variants.png"
    bars(plot, f"{transactions} lone transactions each", measured)
    console.print(f"plot: {plot}")
