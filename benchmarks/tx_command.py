"""`python -m benchmarks tx`: transactions beside what they are made of."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from benchmarks import tx
from benchmarks.command import keep, measuring
from benchmarks.tx import Options, Result
from wormspace.bench.report import table


@click.command("tx")
@measuring("1,32,256", "Transactions")
@click.option(
    "--postgres",
    multiple=True,
    metavar="URL",
    help="A PostgreSQL database (give two), to compare with bare two-phase commit.",
)
def tx_command(
    windows: tuple[int, ...],
    seconds: float,
    value_size: int,
    durability: str,
    out: Path,
    postgres: tuple[str, ...],
) -> None:
    """Measure two-participant transactions beside single-register writes of the same run.

    With two PostgreSQL databases also beside bare two-phase commit, whose coordinator remembers
    nothing.
    """
    if len(postgres) not in (0, 2):
        raise click.UsageError("--postgres is given twice, or not at all")
    options = Options(windows, seconds, value_size, durability, postgres)
    console = Console()
    with console.status("starting servers") as status:
        result = tx.run(options, status.update)
    _show(console, result, out)


def _show(console: Console, result: Result, out: Path) -> None:
    o = result.options
    title = f"transactions: 3 servers, 2 participants, {o.value_size} bytes, {o.durability}"
    of_postgres = ("bare 2PC", "PostgreSQL transaction")
    console.print(table(title, [s for s in result.samples if s.name not in of_postgres], "write"))
    if o.postgres:
        samples = [s for s in result.samples if s.name in of_postgres]
        console.print(table("two PostgreSQL databases", samples, "bare 2PC"))
    write, lone = result.find("write", 1), result.find("transaction", 1)
    if write and lone:
        budget = 2 * write.p50_ms + 2 * result.sync_ms
        console.print(
            f"one fdatasync {result.sync_ms:.3f} ms; a lone transaction {lone.p50_ms:.3f} ms: "
            f"{lone.p50_ms / budget:.2f} times two lone writes and two syncs"
        )
    keep(console, out, "tx", title, result, result.samples)
