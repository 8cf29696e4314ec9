"""Real PostgreSQL and MariaDB servers in directories of their own, to be killed and restarted.

For benchmarks, tests and examples: their settings are those of a development machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pymysql

from wormspace.bench.processes import free_ports

START_S = 60.0
POLL_S = 0.05


def _find(name: str, pattern: str) -> str | None:
    found = sorted(Path("/").glob(pattern))
    return str(found[-1]) if found else shutil.which(name)


INITDB = _find("initdb", "usr/lib/postgresql/*/bin/initdb")
POSTGRES = _find("postgres", "usr/lib/postgresql/*/bin/postgres")
MARIADBD = _find("mariadbd", "usr/sbin/mariadbd")
MARIADB_INSTALL = _find("mariadb-install-db", "usr/bin/mariadb-install-db")

NO_POSTGRES = "PostgreSQL is not installed (tools/databases.sh)"
NO_MARIADB = "MariaDB is not installed (tools/databases.sh)"


class NotInstalled(Exception):
    """This database is not on this machine."""


class Database:
    """A database server process; neither of the two runs as root, so as root it is a user's.

    Attributes:
        base: its directory.
    """

    def __init__(self, user: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="wormspace-db-"))
        self._user = user if os.getuid() == 0 else None
        if self._user:
            shutil.chown(self.base, self._user)
        self._process: subprocess.Popen[bytes] | None = None
        # MariaDB begins by removing all temporary tables, those of other servers included.
        self._environment = {**os.environ, "TMPDIR": str(self.base)}

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, which may use the server and do not end it."""
        return vars(self) | {"_process": None}

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.base / "data"

    def run(self, *command: str) -> None:
        """Run a command as the server's user."""
        with (self.base / "setup.log").open("ab") as log:
            subprocess.run(
                command,
                check=True,
                user=self._user,
                cwd=self.base,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def launch(self, *command: str) -> None:
        """Start the server's process, in a group of its own."""
        with (self.base / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                user=self._user,
                cwd=self.base,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, probe: Callable[[], object]) -> None:
        """Until `probe` does not fail.

        Raises:
            Whatever the probe raises, after a minute.
        """
        deadline = time.monotonic() + START_S
        while True:
            try:
                probe()
            except (psycopg.Error, pymysql.Error, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)
            else:
                return

    def kill(self) -> None:
        """SIGKILL to the server and all of its children."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Kill it and remove its files."""
        self.kill()
        shutil.rmtree(self.base, ignore_errors=True)


class PostgresServer(Database):
    """A PostgreSQL server with these databases.

    Args:
        prepared: how many prepared transactions it has room for.

    Raises:
        NotInstalled.
    """

    def __init__(self, *databases: str, prepared: int = 600) -> None:
        if INITDB is None or POSTGRES is None:
            raise NotInstalled(NO_POSTGRES)
        super().__init__("postgres")
        self._binary = POSTGRES
        self._prepared = prepared
        self._port = free_ports(1)[0]
        self.run(INITDB, "-D", str(self.data), "-U", "worm", "-A", "trust", "--no-sync")
        self.start()
        for name in databases:
            self.query("postgres", f"CREATE DATABASE {name}")

    def url(self, database: str) -> str:
        """What a client connects to."""
        return f"postgresql://worm@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Start it and wait until it serves."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        options = (
            f"max_prepared_transactions={self._prepared}",
            *("max_connections=600", "lock_timeout=2s", "deadlock_timeout=100ms"),
        )
        self.launch(
            *(self._binary, "-D", str(self.data), "-p", str(self._port), "-k", str(self.base)),
            *(word for option in options for word in ("-c", option)),
        )
        self.wait(lambda: self.query("postgres", "SELECT 1"))

    def query(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        """Rows of a statement, in a transaction of its own."""
        with psycopg.connect(self.url(database), autocommit=True) as c:
            cursor = c.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


class MariaDbServer(Database):
    """A MariaDB server with one database, `bank`.

    Raises:
        NotInstalled.
    """

    def __init__(self) -> None:
        if MARIADBD is None or MARIADB_INSTALL is None:
            raise NotInstalled(NO_MARIADB)
        super().__init__("mysql")
        self._binary = MARIADBD
        self.run(
            *(MARIADB_INSTALL, "--no-defaults", f"--datadir={self.data}", "--skip-test-db"),
            "--auth-root-authentication-method=normal",
        )
        self.start()
        self.query("CREATE DATABASE bank")

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"mysql://root@127.0.0.1/bank?unix_socket={self.base}/s"

    def start(self) -> None:
        """Start it and wait until it serves."""
        self.launch(
            *(self._binary, "--no-defaults", f"--datadir={self.data}", "--skip-networking"),
            *(f"--socket={self.base}/s", f"--pid-file={self.base}/pid"),
            *("--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=2"),
            "--max-connections=300",
        )
        self.wait(lambda: self.query("SELECT 1"))

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of a statement, in a transaction of its own."""
        c = pymysql.connect(user="root", unix_socket=f"{self.base}/s", autocommit=True)
        with c, c.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())
