"""`wormspace bench tx`: transactions beside what they are made of."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from wormspace.bench import tx
from wormspace.bench.report import plot, save, table
from wormspace.bench.tx import Options, Result


@click.command("tx")
@click.option("--windows", default="1,32,256", show_default=True, help="Transactions in flight.")
@click.option("--seconds", default=3.0, show_default=True, help="How long each loop counts.")
@click.option("--value-size", default=100, show_default=True, help="Bytes per write.")
@click.option("--durability", type=click.Choice(["sync", "os", "memory"]), default="sync")
@click.option(
    "--postgres",
    multiple=True,
    metavar="URL",
    help="A PostgreSQL database (give two), to compare with bare two-phase commit.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-results"),
    show_default=True,
    help="Where the plot and the raw figures go.",
)
def tx_command(
    windows: str,
    seconds: float,
    value_size: int,
    durability: str,
    postgres: tuple[str, ...],
    out: Path,
) -> None:
    """Measure two-participant transactions beside single-register writes of the same run.

    With two PostgreSQL databases also beside bare two-phase commit, whose coordinator remembers
    nothing.
    """
    if len(postgres) not in (0, 2):
        raise click.UsageError("--postgres is given twice, or not at all")
    try:
        counts = tuple(int(w) for w in windows.split(","))
    except ValueError as e:
        raise click.UsageError("--windows is numbers, separated by commas") from e
    options = Options(counts, seconds, value_size, durability, postgres)
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
    out.mkdir(parents=True, exist_ok=True)
    save(out / "tx.json", result)
    plot(out / "tx.png", title, result.samples)
    console.print(f"plot: {out / 'tx.png'}   figures: {out / 'tx.json'}")
