"""A new cluster on disk: its file, and the data directories that carry its servers' identities."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from wormspace.cli.settings import CLUSTER_FILE
from wormspace.errors import UsageError
from wormspace.server.config import DURABILITIES, ClusterConfig, ServerConfig, dump
from wormspace.server.runner import prepare_directory

DATA = "wormspace-data"
BASE_PORT = 7001
HOST = "127.0.0.1"

Command = TypeVar("Command", bound=Callable[..., Any])


class ClusterExists(UsageError):
    """There is a cluster in that directory already; making another would orphan its data."""


def plan(
    servers: int,
    partitions: int = 1,
    base_port: int = BASE_PORT,
    durability: str = "sync",
    ports: list[int] | None = None,
) -> ClusterConfig:
    """A cluster of `partitions` replica sets of `servers` each, with an id nobody else has.

    Args:
        ports: one for each server; by default those from `base_port` on.
    """
    count = servers * partitions
    ports = ports or list(range(base_port, base_port + count))
    return ClusterConfig(
        cluster=secrets.token_hex(8),
        durability=durability,
        server=[
            ServerConfig(f"s{i + 1}", HOST, ports[i], f"{DATA}/s{i + 1}", i // servers + 1)
            for i in range(count)
        ],
    )


def create(config: ClusterConfig, directory: Path) -> Path:
    """Prepare the data directories, then write the file; returns its path.

    The file comes last, so that a cluster that has one is whole.

    Raises:
        ClusterExists: there is one already.
        StoreError: a data directory belongs to another cluster.
    """
    path = directory / CLUSTER_FILE
    if path.exists():
        raise ClusterExists(f"{path} exists already, and is not overwritten")
    directory.mkdir(parents=True, exist_ok=True)

    async def prepare() -> None:
        for server in config.server:
            await prepare_directory(config, server, directory)

    asyncio.run(prepare())
    unfinished = path.with_suffix(".new")
    unfinished.write_text(dump(config))
    os.replace(unfinished, path)
    return path


def shape_options(command: Command) -> Command:
    """The options that say what a new cluster looks like."""
    for option in reversed(
        (
            click.option(
                "--dir",
                "directory",
                type=click.Path(file_okay=False, path_type=Path),
                default=Path(),
                help=f"Where {CLUSTER_FILE} and the data are. Default: the current directory.",
            ),
            click.option(
                "--servers",
                type=click.Choice(["3", "5"]),
                default="3",
                show_default=True,
                help="Servers in each partition: 3 survive the loss of one, 5 of two.",
            ),
            click.option(
                "--partitions",
                type=click.IntRange(1, 64),
                default=1,
                show_default=True,
                help="Replica sets over which the segments are spread.",
            ),
            click.option(
                "--base-port",
                type=click.IntRange(1, 65000),
                default=BASE_PORT,
                show_default=True,
                help="The first server's port; the others follow.",
            ),
            click.option(
                "--durability",
                type=click.Choice(DURABILITIES),
                default="sync",
                show_default=True,
                help="sync: on the disk before an answer. os: lost if the machine crashes. "
                "memory: lost with the process.",
            ),
        )
    ):
        command = option(command)
    return command
