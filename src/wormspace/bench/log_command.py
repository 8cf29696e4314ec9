"""`wormspace bench log`: the figures of the log, for people."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from wormspace.bench import log
from wormspace.bench.report import plot, save, table


@click.command("log")
@click.option("--windows", default="1,32,256,1024", show_default=True, help="Appends in flight.")
@click.option("--seconds", default=3.0, show_default=True, help="How long each loop counts.")
@click.option("--value-size", default=100, show_default=True, help="Bytes per entry.")
@click.option("--durability", type=click.Choice(["sync", "os", "memory"]), default="sync")
@click.option("--servers", type=click.Choice(["1", "3", "5", "7"]), default="3")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-results"),
    show_default=True,
    help="Where the plot and the raw figures go.",
)
def log_command(
    windows: str, seconds: float, value_size: int, durability: str, servers: str, out: Path
) -> None:
    """Measure appends, batches, history and a subscriber against single-register writes.

    The sequencer and the subscriber are processes of their own.  The chain is what an append would
    cost as one round trip to the sequencer and one to each server, one after another.
    """
    try:
        sizes = tuple(int(window) for window in windows.split(","))
    except ValueError as e:
        raise click.BadParameter("windows are numbers, separated by commas") from e
    console = Console()
    options = log.Options(sizes, seconds, value_size, durability, int(servers))
    with console.status("starting servers, sequencer and subscriber") as status:
        result = log.run(options, status.update)
    title = f"log: {servers} servers, {value_size} bytes, durability {durability}"
    console.print(table(title, result.samples, log.BASE))
    lone = {s.name: s.p50_ms for s in result.samples if s.window == 1}
    if lone:
        console.print(
            f"a lone append takes {lone['append']:.3f} ms: "
            f"{lone['append'] / lone[log.BASE]:.2f} lone register writes"
        )
    told = ", ".join(f"{s * 1e3:.1f} ms at {w}" for w, s in result.behind_s.items())
    console.print(f"after the last append the subscriber has everything in: {told}")
    out.mkdir(parents=True, exist_ok=True)
    save(out / "log.json", result)
    plot(out / "log.png", title, result.samples)
    console.print(f"plot: {out / 'log.png'}   figures: {out / 'log.json'}")
