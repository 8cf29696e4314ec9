"""Real PostgreSQL and MariaDB servers in directories of their own, to be killed and restarted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pymysql
from tests.cluster_fixture import free_port

START_S = 60.0


def _find(name: str, *places: str) -> str | None:
    for place in places:
        found = sorted(Path("/").glob(place.lstrip("/")))
        if found:
            return str(found[-1])
    return shutil.which(name)


INITDB = _find("initdb", "/usr/lib/postgresql/*/bin/initdb")
POSTGRES = _find("postgres", "/usr/lib/postgresql/*/bin/postgres")
MARIADBD = _find("mariadbd", "/usr/sbin/mariadbd")
MARIADB_INSTALL = _find("mariadb-install-db", "/usr/bin/mariadb-install-db")

NO_POSTGRES = "PostgreSQL is not installed (tools/databases.sh)"
NO_MARIADB = "MariaDB is not installed (tools/databases.sh)"


class Database:
    """A database server process."""

    def __init__(self, user: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="wormspace-db-"))
        self.port = free_port()
        self.user = user if os.getuid() == 0 else None
        if self.user:
            shutil.chown(self.base, self.user)
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *command: str) -> None:
        """Run a command as the server's user."""
        subprocess.run(
            command, check=True, user=self.user, cwd=self.base, stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def launch(self, *command: str) -> None:
        """Start the server's process."""
        with (self.base / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, user=self.user, cwd=self.base, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def wait(self, probe) -> None:
        """Until `probe` does not fail."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                return probe()
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to the server and all of its children."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """Kill it and remove its files."""
        self.kill()
        shutil.rmtree(self.base, ignore_errors=True)


class PostgresServer(Database):
    """A PostgreSQL server with databases; `url(name)` connects."""

    def __init__(self, *databases: str) -> None:
        super().__init__("postgres")
        self.data = self.base / "data"
        self.run(INITDB, "-D", str(self.data), "-U", "worm", "-A", "trust", "--no-sync")
        self.start()
        for name in databases:
            with psycopg.connect(self.url("postgres"), autocommit=True) as c:
                c.execute(f"CREATE DATABASE {name}")

    def url(self, database: str) -> str:
        return f"postgresql://worm@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it serves."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.launch(
            POSTGRES, "-D", str(self.data), "-p", str(self.port), "-k", str(self.base),
            "-c", "max_prepared_transactions=600", "-c", "max_connections=300",
            "-c", "listen_addresses=127.0.0.1",
        )  # fmt: skip
        self.wait(lambda: psycopg.connect(self.url("postgres")).close())

    def query(self, database: str, statement: str) -> list[tuple]:
        """Rows of a statement, in a transaction of its own."""
        with psycopg.connect(self.url(database), autocommit=True) as c:
            cursor = c.execute(statement)
            return cursor.fetchall() if cursor.description else []


class MariaDbServer(Database):
    """A MariaDB server with one database `bank`."""

    def __init__(self) -> None:
        super().__init__("mysql")
        self.data = self.base / "data"
        self.run(
            MARIADB_INSTALL, "--no-defaults", f"--datadir={self.data}",
            "--auth-root-authentication-method=normal", "--skip-test-db",
        )  # fmt: skip
        self.start()
        self.query("CREATE DATABASE bank")
        self.url = f"mysql://root@127.0.0.1/bank?unix_socket={self.base}/s"

    def start(self) -> None:
        """Start it and wait until it serves."""
        self.launch(
            MARIADBD, "--no-defaults", f"--datadir={self.data}", f"--socket={self.base}/s",
            "--skip-networking", f"--pid-file={self.base}/pid", "--innodb-buffer-pool-size=64M",
        )  # fmt: skip
        self.wait(lambda: self.query("SELECT 1"))

    def query(self, statement: str) -> list[tuple]:
        """Rows of a statement, in a transaction of its own."""
        c = pymysql.connect(user="root", unix_socket=f"{self.base}/s", autocommit=True)
        with c, c.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())
