"""`wormspace bench smr`: the figures of replicated state machines, for people."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from wormspace.bench import smr
from wormspace.bench.report import plot, save, table


@click.command("smr")
@click.option("--windows", default="1,256,2000", show_default=True, help="Commands in flight.")
@click.option("--seconds", default=3.0, show_default=True, help="How long each loop counts.")
@click.option("--value-size", default=100, show_default=True, help="Bytes per command.")
@click.option("--durability", type=click.Choice(["sync", "os", "memory"]), default="sync")
@click.option("--kills", default=smr.KILLS, show_default=True, help="How often to kill the leader.")
@click.option(
    "--leadership",
    type=click.Choice(list(smr.LEADERSHIPS)),
    default="sticky",
    show_default=True,
    help="Who proposes.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-results"),
    show_default=True,
    help="Where the plot and the raw figures go.",
)
def smr_command(
    windows: str,
    seconds: float,
    value_size: int,
    durability: str,
    kills: int,
    leadership: str,
    out: Path,
) -> None:
    """Measure a replicated key-value store against single-register writes.

    Three servers, three replicas in processes of their own, the load in another.
    """
    try:
        sizes = tuple(int(window) for window in windows.split(","))
    except ValueError as e:
        raise click.BadParameter("windows are numbers, separated by commas") from e
    console = Console()
    options = smr.Options(sizes, seconds, value_size, durability, kills, leadership)
    with console.status("starting servers and replicas") as status:
        result = smr.run(options, status.update)
    title = f"smr: 3 servers, 3 replicas, {leadership}, {value_size} bytes, durability {durability}"
    console.print(table(title, result.samples, "register write"))
    by_name = {s.name: s for s in result.samples}
    lone, register = by_name["lone command"], by_name["lone register write"]
    console.print(
        f"at the leader, a lone command takes {lone.p50_ms:.3f} ms: "
        f"{lone.p50_ms / register.p50_ms:.2f} lone register writes"
    )
    if result.outages_s:
        told = ", ".join(f"{outage:.2f}" for outage in result.outages_s)
        console.print(
            f"leader killed: without service for {told} s; the election time-out is "
            f"{result.election_s:g} s"
        )
    out.mkdir(parents=True, exist_ok=True)
    save(out / "smr.json", result)
    plot(out / "smr.png", title, [s for s in result.samples if not s.name.startswith("lone")])
    console.print(f"plot: {out / 'smr.png'}   figures: {out / 'smr.json'}")
