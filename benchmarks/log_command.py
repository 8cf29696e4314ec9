"""`python -m benchmarks log`: the figures of the log, for people."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from benchmarks import log
from benchmarks.command import keep, measuring, servers_option
from wormspace.bench.report import table


@click.command("log")
@measuring("1,32,256,1024", "Appends")
@servers_option
def log_command(
    windows: tuple[int, ...],
    seconds: float,
    value_size: int,
    durability: str,
    out: Path,
    servers: str,
) -> None:
    """Measure appends, batches, history and a subscriber against single-register writes.

    The sequencer and the subscriber are processes of their own.  The chain is what an append would
    cost as one round trip to the sequencer and one to each server, one after another.
    """
    console = Console()
    options = log.Options(windows, seconds, value_size, durability, int(servers))
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
    keep(console, out, "log", title, result, result.samples)
