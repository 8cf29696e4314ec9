"""`python -m benchmarks smr`: the figures of replicated state machines, for people."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from benchmarks import smr
from benchmarks.command import keep, measuring
from wormspace.bench.report import table


@click.command("smr")
@measuring("1,256,2000", "Commands")
@click.option(
    "--kills",
    type=click.IntRange(0),
    default=smr.KILLS,
    show_default=True,
    help="How often to kill the leader.",
)
@click.option(
    "--leadership",
    type=click.Choice(list(smr.LEADERSHIPS)),
    default="sticky",
    show_default=True,
    help="Who proposes.",
)
def smr_command(
    windows: tuple[int, ...],
    seconds: float,
    value_size: int,
    durability: str,
    out: Path,
    kills: int,
    leadership: str,
) -> None:
    """Measure a replicated key-value store against single-register writes.

    Three servers, three replicas in processes of their own, the load in another.
    """
    console = Console()
    options = smr.Options(windows, seconds, value_size, durability, kills, leadership)
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
    in_loops = [s for s in result.samples if not s.name.startswith("lone")]
    keep(console, out, "smr", title, result, in_loops)
