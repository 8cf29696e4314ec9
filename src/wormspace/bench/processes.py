"""Server processes for a benchmark: started, awaited, their CPU time read, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wormspace.server import config, runner
from wormspace.server.config import ClusterConfig, ServerConfig

_TICKS = os.sysconf("SC_CLK_TCK")


class ServersFailed(Exception):
    """A server process ended before it was asked to."""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


def cpu_seconds(pids: list[int]) -> float:
    """User and system time that the processes have used so far, in seconds."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def make_cluster(base: Path, servers: int, partitions: int, durability: str) -> ClusterConfig:
    """A cluster file and prepared data directories under `base`, on free ports."""
    ports = free_ports(servers * partitions)
    members = [
        ServerConfig(f"s{i + 1}", "127.0.0.1", port, f"s{i + 1}", i // servers + 1)
        for i, port in enumerate(ports)
    ]
    cluster = ClusterConfig("bench", members, durability)
    (base / "cluster.toml").write_text(config.dump(cluster))
    for member in members:
        asyncio.run(runner.prepare_directory(cluster, member, base))
    return cluster


@contextmanager
def running(base: Path, cluster: ClusterConfig, module: str) -> Iterator[list[int]]:
    """The cluster's servers as processes of `python -m MODULE`; yields their process ids.

    Raises:
        ServersFailed: one of them ended by itself.
    """
    processes = []
    for server in cluster.server:
        with (base / f"{server.name}.{module.rpartition('.')[2]}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, str(base / "cluster.toml"), server.name],
                    stderr=log,
                )
            )
    try:
        yield [p.pid for p in processes]
        for p, server in zip(processes, cluster.server, strict=True):
            if p.poll() is not None:
                raise ServersFailed(f"server {server.name} ended with code {p.returncode}")
    finally:
        for p in processes:
            if p.poll() is None:
                p.send_signal(signal.SIGTERM)
        for p in processes:
            p.wait(timeout=20)
