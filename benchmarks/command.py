"""What the commands of the benchmarks have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from benchmarks.plots import plot
from wormspace.bench.load import Sample
from wormspace.bench.report import save
from wormspace.cli.arguments import Amount
from wormspace.cli.bench import windows_of

Command = Callable[..., None]

out_option = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-results"),
    show_default=True,
    help="Where the plot and the raw figures go.",
)


def measuring(windows: str, things: str) -> Callable[[Command], Command]:
    """The options of every closed loop: `things` in flight, how long, how large, how durable."""

    def add(command: Command) -> Command:
        options: tuple[Any, ...] = (
            click.option(
                "--windows",
                default=windows,
                show_default=True,
                callback=windows_of,
                help=f"{things} in flight.",
            ),
            click.option(
                "--seconds",
                type=Amount(),
                default=3.0,
                show_default=True,
                help="How long each loop counts.",
            ),
            click.option(
                "--value-size",
                type=click.IntRange(0),
                default=100,
                show_default=True,
                help="Bytes of each value.",
            ),
            click.option(
                "--durability", type=click.Choice(["sync", "os", "memory"]), default="sync"
            ),
            out_option,
        )
        for option in reversed(options):
            command = option(command)
        return command

    return add


servers_option = click.option("--servers", type=click.Choice(["1", "3", "5", "7"]), default="3")


def keep(
    console: Console,
    out: Path,
    name: str,
    title: str,
    result: msgspec.Struct,
    samples: list[Sample],
) -> None:
    """Write the figures and the plot, and say where."""
    out.mkdir(parents=True, exist_ok=True)
    save(out / f"{name}.json", result)
    plot(out / f"{name}.png", title, samples)
    console.print(f"plot: {out / f'{name}.png'}   figures: {out / f'{name}.json'}")
