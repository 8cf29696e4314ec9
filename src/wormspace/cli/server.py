"""`wormspace server`: run one server of a cluster file."""

from __future__ import annotations

from pathlib import Path

import click
import uvloop

from wormspace.cli.sequencing import sequencers
from wormspace.cli.settings import CLUSTER_FILE
from wormspace.server.config import ClusterConfig, load
from wormspace.server.runner import log_to_stderr, serve


@click.command()
@click.argument("name")
@click.option(
    "--cluster",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(CLUSTER_FILE),
    show_default=True,
    help="The cluster file.",
)
@click.option(
    "--sequence",
    "logs",
    metavar="LOG",
    multiple=True,
    help="Be the sequencer of LOG as well, or stand by for the one there is.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
def server(name: str, file: Path, logs: tuple[str, ...], log_level: str) -> None:
    """Run one server of the cluster file.

    It ends at SIGTERM or Ctrl-C, when it has answered what it took in.  Logs are JSON lines
    on standard error.
    """
    config = load(file)
    log_to_stderr(log_level)
    uvloop.run(_run(config, name, file.parent, logs))


async def _run(config: ClusterConfig, name: str, base: Path, logs: tuple[str, ...]) -> None:
    server = config.find(name)
    async with sequencers(config.url, logs, server.host):
        await serve(config, server, base)
