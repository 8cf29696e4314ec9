"""`wormspace up`: a whole local cluster for development, as real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import click
from rich.text import Text

from wormspace.cli.layout import create, plan, shape_options
from wormspace.cli.processes import LocalCluster
from wormspace.cli.settings import CLUSTER_FILE, Settings, common
from wormspace.cli.show import cell, console, emit, note, table
from wormspace.runtime.tasks import Tasks
from wormspace.server.config import ClusterConfig, load

WATCH_S = 1.0
SHAPE = ("servers", "partitions", "base_port", "durability")


@click.command()
@shape_options
@click.option(
    "--sequence",
    "logs",
    metavar="LOG",
    multiple=True,
    help="Let the servers be sequencers of LOG: one of them, and the others stand by.",
)
@common
@click.pass_context
def up(
    ctx: click.Context,
    settings: Settings,
    directory: Path,
    servers: str,
    partitions: int,
    base_port: int,
    durability: str,
    logs: tuple[str, ...],
) -> None:
    """Run a whole local cluster, until Ctrl-C.

    Uses the cluster file of the directory, or makes one.  A server that dies is shown and not
    restarted: `wormspace server NAME` brings it back.
    """
    file = directory / CLUSTER_FILE
    if file.exists():
        given = [n for n in SHAPE if ctx.get_parameter_source(n) is not _DEFAULT]
        if given:
            raise click.UsageError(
                f"{file} exists already: --{given[0].replace('_', '-')} is for a new cluster"
            )
    else:
        create(plan(int(servers), partitions, base_port, durability), directory)
    config = load(file)
    asyncio.run(_run(LocalCluster(file, config, logs), file, as_json=settings.json))


_DEFAULT = click.core.ParameterSource.DEFAULT


async def _run(cluster: LocalCluster, file: Path, *, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(sig, stop.set)
    tasks = Tasks("a local cluster")
    try:
        starting = tasks.begin(cluster.start())
        stopping = tasks.begin(stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _announce(file, cluster, as_json=as_json)
            watching = tasks.begin(_watch(cluster, as_json=as_json))
            await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
            if not as_json:
                note("stopping the servers")
    finally:
        tasks.cancel()
        cluster.stop()


def _announce(file: Path, cluster: LocalCluster, *, as_json: bool) -> None:
    config = cluster.config
    if as_json:
        servers = [
            {"name": p.server.name, "address": str(p.server.endpoint), "pid": p.pid}
            for p in cluster.processes
        ]
        emit({"event": "up", "cluster": config.cluster, "url": config.url, "servers": servers})
        return
    rows = table("server", "partition", "address", ">pid", "data and log")
    for process in cluster.processes:
        s = process.server
        rows.add_row(
            cell(s.name, "bold green"),
            str(s.partition),
            cell(str(s.endpoint)),
            str(process.pid),
            cell(os.path.relpath(file.parent / s.data) + "{,.log}", "dim"),
        )
    console.print(rows)
    _say_how_to_connect(file, config)
    note("Ctrl-C stops them. A server that dies is not restarted.")


def _say_how_to_connect(file: Path, config: ClusterConfig) -> None:
    """Each on a line of its own, whole, so that it can be copied."""
    where = file.parent.resolve()
    here = "" if where == Path.cwd() else f"cd {where} && "
    for title, line in (
        ("URL", config.url),
        ("Python", f'async with wormspace.connect("{config.url}") as worm: ...'),
        ("another shell", f"{here}wormspace status"),
    ):
        console.print(Text.assemble(("\n" + title, "bold"), "\n  ", (line, "cyan")))
    console.print()


async def _watch(cluster: LocalCluster, *, as_json: bool) -> None:
    """Say who comes and goes."""
    names = {s.name for s in cluster.config.server}
    before = names
    while True:
        await asyncio.sleep(WATCH_S)
        now = await cluster.reachable()
        for name in sorted(before ^ now):
            if as_json:
                emit({"event": "reachable" if name in now else "lost", "server": name})
            elif name in now:
                console.print(cell(f"{name} is back ({len(now)} of {len(names)})", "green"))
            else:
                console.print(cell(f"{name} is gone ({len(now)} of {len(names)})", "bold red"))
        before = now
