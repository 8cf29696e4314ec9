"""A cluster of real server processes in a directory of its own, to be killed and restarted."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

from wormspace.server import runner
from wormspace.server.config import ClusterConfig, ServerConfig, dump

SERVE = """
import sys
from pathlib import Path
import uvloop
from wormspace.server import config, logs, runner
path = Path(sys.argv[1])
logs.log_to_stderr("info")
loaded = config.load(path)
server = loaded.find(sys.argv[2])
def ready():
    print("ready", flush=True)
uvloop.run(runner.serve(loaded, server, path.parent, ready))
"""

# Below the range from which the system takes the local ports of outgoing connections: a client
# must not be given the port of a server that is down just now (it could even meet itself there).
_PORTS = itertools.count(random.Random(os.getpid()).randrange(10_000, 30_000))


def free_port() -> int:
    """A port nobody listens on, given out once per process."""
    while True:
        port = 10_000 + next(_PORTS) % 22_000
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class ProcessCluster:
    """Servers `s1`, `s2`, ... in replica sets of the sizes given.

    Attributes:
        url: what a client connects to.
        running: the process of each server that was started and not killed or stopped since.
        wrap: a command that starts the servers, such as `prlimit`; none by default.
        prelude: code that each server's process runs first.
    """

    def __init__(
        self,
        base: Path,
        replica_sets: tuple[int, ...] = (3,),
        *,
        durability: str = "sync",
        limits: str = "",
        max_store_bytes: int = 1 << 32,
    ) -> None:
        base.mkdir(parents=True, exist_ok=True)
        sizes = [i for i, size in enumerate(replica_sets) for _ in range(size)]
        servers = [
            ServerConfig(f"s{n}", "127.0.0.1", free_port(), f"s{n}", partition + 1)
            for n, partition in enumerate(sizes, 1)
        ]
        self.config = ClusterConfig(
            f"test-{os.getpid()}-{servers[0].port}",
            servers,
            durability=durability,
            max_store_bytes=max_store_bytes,
        )
        self.base = base
        self.file = base / "cluster.toml"
        self.file.write_text(dump(self.config) + (f"\n[limits]\n{limits}\n" if limits else ""))
        self.url = self.config.url
        self.names = [server.name for server in servers]
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.wrap: list[str] = []
        self.prelude = ""
        for server in servers:
            asyncio.run(runner.prepare_directory(self.config, server, base))

    def launch(self, name: str) -> None:
        """Start a server's process, without waiting until it serves."""
        assert name not in self.running
        with (self.base / f"{name}.log").open("a") as log:
            self.running[name] = subprocess.Popen(
                [*self.wrap, sys.executable, "-c", self.prelude + SERVE, str(self.file), name],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def await_ready(self, name: str) -> None:
        """Wait until a launched server serves."""
        process = self.running[name]
        assert process.stdout is not None
        line = process.stdout.readline()
        if line.strip() != "ready":
            raise RuntimeError(f"{name} did not start: {self.log_of(name)}")

    def start(self, *names: str) -> ProcessCluster:
        """Start servers (all, if none is named) and wait until they serve."""
        for name in names or self.names:
            self.launch(name)
        for name in names or self.names:
            self.await_ready(name)
        return self

    def kill(self, *names: str) -> None:
        """SIGKILL: no goodbye, no flush."""
        self._end(signal.SIGKILL, names)

    def stop(self, *names: str) -> None:
        """SIGTERM: a graceful stop."""
        self._end(signal.SIGTERM, names)

    def pause(self, name: str) -> None:
        """SIGSTOP: the server is silent, its connections stay open."""
        self.running[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self.running[name].send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals, names: tuple[str, ...]) -> None:
        for name in names:
            self.running[name].send_signal(how)
        for name in names:
            process = self.running.pop(name)
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()

    def log_of(self, name: str) -> str:
        """What the server wrote to its log."""
        return (self.base / f"{name}.log").read_text()

    def close(self) -> None:
        """Kill what runs."""
        self.kill(*self.running)
