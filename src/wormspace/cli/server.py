"""`wormspace server`: run one server of a cluster file."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import click
import uvloop

from wormspace.cli.sequencing import sequencers
from wormspace.cli.settings import CLUSTER_FILE
from wormspace.server.config import ClusterConfig, ServerConfig, load
from wormspace.server.logs import log_to_stderr, with_last_words
from wormspace.server.runner import last_words, serve


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
@click.option("--while-stdin", is_flag=True, hidden=True)
def server(name: str, file: Path, logs: tuple[str, ...], log_level: str, while_stdin: bool) -> None:
    """Run one server of the cluster file.

    It ends at SIGTERM or Ctrl-C, when it has answered what it took in.  Logs are JSON lines
    on standard error.
    """
    config = load(file)
    log_to_stderr(log_level)
    found = config.find(name)
    with_last_words(
        last_words(found, file.parent),
        lambda: uvloop.run(_run(config, found, file.parent, logs, while_stdin)),
    )


async def _run(
    config: ClusterConfig,
    server: ServerConfig,
    base: Path,
    logs: tuple[str, ...],
    while_stdin: bool,
) -> None:
    if while_stdin:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _on_stdin)
    async with sequencers(config.url, logs, server.host):
        await serve(config, server, base)


def _on_stdin() -> None:
    """End when whoever started this process has ended, even by a SIGKILL: the pipe is closed."""
    if not os.read(sys.stdin.fileno(), 1024):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        signal.raise_signal(signal.SIGTERM)
