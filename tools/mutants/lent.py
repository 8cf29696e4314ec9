"""One PostgreSQL and one MariaDB for the tests of all trials, started before these are forked.

A trial would need seconds to start its own.  Tests that work with them are marked `databases`;
their fixtures clean up what the trial before has left (`tests/tx/databases.py`).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools.mutants.universe import ROOT

MARK = "databases"
LENT = "WORMSPACE_DATABASES"
"""In the environment: a file that says which servers run already."""


def borrows(file: str) -> bool:
    """Whether tests of this file work with the databases."""
    path = ROOT / file
    return path.is_file() and f"pytest.mark.{MARK}" in path.read_text()


@contextlib.contextmanager
def databases(files: Iterable[str]) -> Iterator[None]:
    """Lend both to the processes that begin now, if one of these files of tests needs them."""
    if not any(map(borrows, files)):
        yield
        return
    from benchmarks.databases import Database, MariaDbServer, NotInstalled, PostgresServer

    with contextlib.ExitStack() as stack:
        try:
            servers: list[Database] = [PostgresServer("orders", "billing")]
            stack.callback(servers[0].close)
            servers.append(MariaDbServer())
            stack.callback(servers[1].close)
        except NotInstalled:
            yield  # these tests are skipped, and judge nothing
            return
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "servers"
        file.write_bytes(pickle.dumps(servers))
        os.environ[LENT] = str(file)
        stack.callback(os.environ.pop, LENT)
        yield
