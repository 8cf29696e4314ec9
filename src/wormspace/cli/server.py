"""`wormspace server`: run one server of a cluster file."""

from __future__ import annotations

from pathlib import Path

import click
import uvloop

from wormspace.cli.settings import CLUSTER_FILE
from wormspace.server.config import load
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
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
def server(name: str, file: Path, log_level: str) -> None:
    """Run one server of the cluster file.

    It ends at SIGTERM or Ctrl-C, when it has answered what it took in.  Logs are JSON lines
    on standard error.
    """
    config = load(file)
    log_to_stderr(log_level)
    uvloop.run(serve(config, config.find(name), file.parent))
