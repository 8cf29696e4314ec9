"""Server processes of a local cluster: start, wait for, kill, stop.

Used by `wormspace up` and by the demo; real processes, as `wormspace server` runs them.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from wormspace.connecting import survey
from wormspace.errors import WormError
from wormspace.server.config import ClusterConfig, ServerConfig

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1
ANSWER_S = 0.5
"""How long a server on this machine may take to say that it is there."""


class StartFailed(WormError):
    """A server process ended, or could not be reached, before it served."""


class ServerProcess:
    """One server of a cluster file, as a process whose logs go to a file beside its data.

    It ends, gently, when this process ends, however that happens.

    Args:
        logs: of which it is the sequencer as well, or stands by.
    """

    def __init__(self, file: Path, server: ServerConfig, logs: Sequence[str] = ()) -> None:
        self.server = server
        self._logs = logs
        self.log = file.parent / f"{server.data}.log"
        self._file = file
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process, if it was started."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it (again)."""
        command = [sys.executable, "-m", "wormspace.cli", "server", self.server.name]
        for name in self._logs:
            command += ["--sequence", name]
        self._let_go()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--cluster", str(self._file), "--while-stdin"],
                stdin=subprocess.PIPE,  # held for as long as this process lives, and no longer
                stderr=log,
            )

    def kill(self) -> None:
        """SIGKILL: it gets no chance to say goodbye."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._let_go()

    def terminate(self) -> None:
        """SIGTERM: it answers what it has taken in, and ends."""
        if self.alive and self._process:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float) -> None:
        """Until it has ended; killed when it takes longer than `timeout` seconds."""
        if self._process:
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
            self._let_go()

    def _let_go(self) -> None:
        if self._process and self._process.stdin:
            self._process.stdin.close()

    def last_words(self) -> str:
        """The end of its log, for an error message."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return lines[-1] if lines else "it left no log"


class LocalCluster:
    """All servers of a cluster file, as processes on this machine."""

    def __init__(self, file: Path, config: ClusterConfig, logs: Sequence[str] = ()) -> None:
        self.config = config
        self.processes = [ServerProcess(file, server, logs) for server in config.server]

    async def start(self) -> None:
        """Start every server, and wait until each of them answers.

        Raises:
            StartFailed: one runs already, ended before it answered, or they take too long.
        """
        already = await self.reachable()
        if already:
            raise StartFailed(f"already running: {', '.join(sorted(already))}; stop it first")
        for process in self.processes:
            process.start()
        await self.wait_until_reachable()

    def find(self, name: str) -> ServerProcess:
        """The process of the server of that name."""
        return next(p for p in self.processes if p.server is self.config.find(name))

    async def reachable(self) -> set[str]:
        """The names of the servers that answer."""
        client = await survey(self.config.url)
        try:
            states = await client.servers(timeout=ANSWER_S)
        finally:
            await client.close()
        addresses = {state.server for state in states if state.reachable}
        return {s.name for s in self.config.server if str(s.endpoint) in addresses}

    async def wait_until_reachable(self) -> None:
        """Until every server answers.

        Raises:
            StartFailed: one ended before that, or they take too long.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            for process in self.processes:
                if not process.alive:
                    raise StartFailed(
                        f"server {process.server.name} did not start: {process.last_words()}"
                    )
            missing = {s.name for s in self.config.server} - await self.reachable()
            if not missing:
                return
            if time.monotonic() > deadline:
                raise StartFailed(f"not reachable: {', '.join(sorted(missing))}")
            await asyncio.sleep(POLL_S)

    def stop(self) -> None:
        """Stop every server, gently."""
        for process in self.processes:
            process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in self.processes:
            process.wait(max(0.0, deadline - time.monotonic()))
