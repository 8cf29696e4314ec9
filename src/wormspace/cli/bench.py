"""`wormspace bench`: how fast registers are on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wormspace.bench import registers
from wormspace.bench.registers import Options, Result
from wormspace.bench.report import save, table
from wormspace.cli.arguments import Amount


def windows_of(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """The numbers of operations in flight that were typed, separated by commas."""
    try:
        windows = tuple(int(w) for w in text.split(","))
    except ValueError as e:
        raise click.BadParameter("numbers, separated by commas") from e
    if not all(w > 0 for w in windows):
        raise click.BadParameter("a window is at least 1")
    return windows


@click.command("bench")
@click.option(
    "--windows",
    default="1,32,256,1024",
    show_default=True,
    callback=windows_of,
    help="Operations in flight.",
)
@click.option(
    "--seconds", type=Amount(), default=3.0, show_default=True, help="How long each loop counts."
)
@click.option(
    "--value-size",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Bytes per register.",
)
@click.option("--durability", type=click.Choice(["sync", "os", "memory"]), default="sync")
@click.option("--servers", type=click.Choice(["1", "3", "5", "7"]), default="3")
@click.option(
    "--partitions", type=click.IntRange(1), default=1, show_default=True, help="Replica sets."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-results"),
    show_default=True,
    help="Where the raw figures go.",
)
def bench_command(
    windows: tuple[int, ...],
    seconds: float,
    value_size: int,
    durability: str,
    servers: str,
    partitions: int,
    out: Path,
) -> None:
    """Measure single-register writes and reads on real server processes on this machine.

    In the same run: one disk sync and one round trip, which no write can do without.
    """
    options = Options(windows, seconds, value_size, durability, int(servers), partitions)
    console = Console()
    with progress(console, registers.loops(options)) as tell:
        result = registers.run(options, tell)
    show(console, result, "write")
    out.mkdir(parents=True, exist_ok=True)
    save(out / "registers.json", result)
    console.print(f"figures: {out / 'registers.json'}")


@contextmanager
def progress(console: Console, steps: int) -> Iterator[Callable[[str], None]]:
    """A bar of so many steps; what it yields is called as each begins."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("starting servers", total=steps)
        yield lambda what: bar.update(task, description=what, advance=1)


def title(options: Options) -> str:
    """What was measured."""
    return (
        f"registers: {options.servers} servers, {options.partitions} partition(s), "
        f"{options.value_size} bytes, durability {options.durability}"
    )


def show(console: Console, result: Result, base: str) -> None:
    """The loops as a table, with their ratios to loop `base`; and a lone write."""
    console.print(table(title(result.options), result.samples, base))
    console.print(
        f"one fdatasync {result.sync_ms:.3f} ms, one round trip {result.round_trip_ms:.3f} ms"
    )
    lone = next((s for s in result.samples if (s.name, s.window) == ("write", 1)), None)
    if lone:
        least = result.sync_ms + result.round_trip_ms
        console.print(
            f"a lone write {lone.p50_ms:.3f} ms: {lone.p50_ms / least:.2f} times one of each"
        )
