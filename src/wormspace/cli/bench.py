"""`wormspace bench`: how fast it is here, beside what it could be at best."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wormspace.bench import registers
from wormspace.bench.log_command import log_command
from wormspace.bench.registers import Options, Result
from wormspace.bench.report import plot, save, table
from wormspace.bench.smr_command import smr_command
from wormspace.bench.tx_command import tx_command


def _windows(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        windows = tuple(int(w) for w in text.split(","))
    except ValueError as e:
        raise click.BadParameter("numbers, separated by commas") from e
    if not all(w > 0 for w in windows):
        raise click.BadParameter("a window is at least 1")
    return windows


@click.group("bench", invoke_without_command=True)
@click.option("--windows", default="1,32,256,1024", callback=_windows, help="Operations in flight.")
@click.option("--seconds", default=3.0, show_default=True, help="How long each loop counts.")
@click.option("--value-size", default=100, show_default=True, help="Bytes per register.")
@click.option("--durability", type=click.Choice(["sync", "os", "memory"]), default="sync")
@click.option("--servers", type=click.Choice(["1", "3", "5", "7"]), default="3")
@click.option("--partitions", default=1, show_default=True, help="Replica sets.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-results"),
    show_default=True,
    help="Where the plot and the raw figures go.",
)
@click.pass_context
def bench_command(
    ctx: click.Context,
    windows: tuple[int, ...],
    seconds: float,
    value_size: int,
    durability: str,
    servers: str,
    partitions: int,
    out: Path,
) -> None:
    """Measure single-register writes and reads on real server processes on this machine.

    In the same run: the floor (the same transport and the same group-committed store, without a
    protocol), one disk sync, one round trip.  Subcommands measure the applications.
    """
    if ctx.invoked_subcommand is not None:
        return
    options = Options(windows, seconds, value_size, durability, int(servers), partitions)
    console = Console()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("starting servers", total=registers.loops(options))

        def progress(what: str) -> None:
            bar.update(task, description=what, advance=1)

        result = registers.run(options, progress)
    _show(console, result, out)


def _show(console: Console, result: Result, out: Path) -> None:
    o = result.options
    title = (
        f"registers: {o.servers} servers, {o.partitions} partition(s), {o.value_size} bytes, "
        f"durability {o.durability}"
    )
    console.print(table(title, result.samples, "floor"))
    lone = next((s for s in result.samples if (s.name, s.window) == ("write", 1)), None)
    console.print(
        f"one fdatasync {result.sync_ms:.3f} ms, one round trip {result.round_trip_ms:.3f} ms"
    )
    if lone:
        least = result.sync_ms + result.round_trip_ms
        console.print(
            f"a lone write {lone.p50_ms:.3f} ms: {lone.p50_ms / least:.2f} times one of each"
        )
    out.mkdir(parents=True, exist_ok=True)
    save(out / "registers.json", result)
    plot(out / "registers.png", title, result.samples)
    console.print(f"plot: {out / 'registers.png'}   figures: {out / 'registers.json'}")


bench_command.add_command(log_command)
bench_command.add_command(smr_command)
bench_command.add_command(tx_command)
