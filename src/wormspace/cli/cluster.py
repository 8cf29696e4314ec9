"""`wormspace cluster init`: make a cluster's file and data directories."""

from __future__ import annotations

from pathlib import Path

import click

from wormspace.cli.layout import create, plan, shape_options
from wormspace.cli.settings import Settings, common
from wormspace.cli.show import emit, note, say


@click.group()
def cluster() -> None:
    """Make clusters."""


@cluster.command()
@shape_options
@common
def init(
    settings: Settings,
    directory: Path,
    servers: str,
    partitions: int,
    base_port: int,
    durability: str,
) -> None:
    """Write the cluster file and prepare each server's data directory.

    For a cluster of several machines, edit the hosts in the file, copy it to all of them, and each
    server's data directory to its own.
    """
    config = plan(int(servers), partitions, base_port, durability)
    path = create(config, directory)
    if settings.json:
        emit({"file": str(path), "cluster": config.cluster, "url": config.url})
        return
    say(str(path))
    note(f"cluster {config.cluster}: {len(config.server)} servers, {partitions} partition(s)")
    for server in config.server:
        note(f"start one:  wormspace server {server.name} --cluster {path}")
    note(f"connect:    {config.url}")
